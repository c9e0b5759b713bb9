"""`dreamsim-guidance embed`: embed pictures into an index for search."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

__all__ = ["EmbedCommand"]

_NAMED = 20
"""Broken pictures that are printed; the table `broken` has all of them."""


@dataclass(frozen=True)
class EmbedCommand:
    """Embed pictures into an index: one Lance table of float16 vectors, paths, sizes and content hashes.

    A source is a folder, a picture, a pattern, a webdataset shard (.tar), a Parquet file, a Lance table, or a list (.csv,
    .tsv, .txt); shards and tables may be URLs of fsspec, and braces stand for many names: shard-{0000..0012}.tar. Running
    again adds what is new or has changed, also after a kill. Equal contents are embedded once; broken pictures are listed.
    On several processes of one machine: `accelerate launch -m dreamsim_guidance embed ...`, or `torchrun`.
    """

    source: Positional[tuple[str, ...]]
    """What to embed; several may be given."""
    to: Path
    """The folder of the index; it is made if it does not exist."""
    metric: str | None = None
    """photographs (real towers, from the extra), pocket (shipped), ensemble, dino_vitb16, ... (published weights), a model
    file (.safetensors) or the folder of a training run. By default that of the index; for a new index photographs where its
    extra is installed, else pocket."""
    column: str | None = None
    """Of Parquet files, Lance tables and lists; by default chosen by its type or name."""
    outside: bool = False
    """Also read what links in a folder and paths in a list name outside of it; by default these are listed as broken."""
    prune: bool = False
    """Also remove rows whose picture file, shard or table on this machine no longer exists."""
    device: str | None = None
    """cpu, cuda, mps, ...; by default an accelerator if there is one."""
    workers: int | None = None
    """Threads that read and decode ahead; by default one for each of up to 16 processors."""
    batch: int = 32
    """Images that go through the network at once."""
    reading: Literal["upright", "original"] | None = None
    """How picture files are read: turned as their EXIF tag says and at their full depth (the default for a new index), or as
    the original package does."""

    def __call__(self) -> int:
        from dreamsim_guidance.files.names import printable
        from dreamsim_guidance.processes import is_main
        from dreamsim_guidance.retrieval.embedding import embed

        if not self.source:
            raise ValueError("embed needs a source: a folder, a pattern, shards, a table or a list.")
        summary = embed(
            self.source,
            self.to,
            self.metric,
            device=self.device,
            reading=self.reading,
            column=self.column,
            outside=self.outside,
            prune=self.prune,
            workers=self.workers,
            batch=self.batch,
        )
        if is_main():
            for path, reason in sorted(summary.broken.items())[:_NAMED]:
                print(f"broken: {printable(path)}: {printable(reason)}", file=sys.stderr)
            if len(summary.broken) > _NAMED:
                print(f"and {len(summary.broken) - _NAMED} more; the table `broken` lists all.", file=sys.stderr)
            print(summary)
        return 0

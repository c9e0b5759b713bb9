"""`dreamsim-guidance embed`: embed pictures into an index for search."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

if TYPE_CHECKING:
    from dreamsim_guidance.retrieval.progress import Summary

__all__ = ["EmbedCommand"]

_NAMED = 20
"""Broken pictures that are printed; the table `broken` has all of them."""


@dataclass(frozen=True)
class EmbedCommand:
    """Embed pictures into an index: one Lance table of float16 vectors, paths, sizes and content hashes.

    A source is a folder, a picture, a pattern, a webdataset shard (.tar), a Parquet file, a Lance table, or a list (.csv,
    .tsv, .txt); pictures, shards and tables may be URLs, and braces stand for many names: shard-{0000..0012}.tar. Running
    again adds what is new or has changed, also after a kill. Equal contents are embedded once; broken pictures are listed.
    On several processes of one machine: `accelerate launch -m dreamsim_guidance embed ...`, or `torchrun`; on several
    machines: `--engine ray`, which makes the same index and goes on with one that is unfinished.
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
    """cpu, cuda, mps, ...; by default an accelerator if there is one. Not for Ray, where `--gpus` decides."""
    workers: int | None = None
    """Threads that read and decode ahead; by default one for each of up to 16 processors. For Ray: processes that embed, each
    with the metric in memory; by default as many as the GPUs of the cluster allow, or one less than its processors."""
    batch: int = 32
    """Images that go through the network at once."""
    reading: Literal["upright", "original"] | None = None
    """How picture files are read: turned as their EXIF tag says and at their full depth (the default for a new index), or as
    the original package does."""
    engine: Literal["local", "ray"] = "local"
    """What does the work: this machine, or a Ray cluster (from the extra scale)."""
    address: str | None = None
    """Of the Ray cluster, such as auto or ray://head:10001; by default RAY_ADDRESS, or without it Ray on this machine."""
    gpus: float | None = None
    """Of each of Ray's workers, may be a fraction; by default 1 if the cluster has any."""
    rows: int | None = None
    """Of each data file that Ray's workers write; by default 16384 with GPUs and 1024 without."""

    def __call__(self) -> int:
        from dreamsim_guidance.files.names import printable
        from dreamsim_guidance.processes import is_main

        if not self.source:
            raise ValueError("embed needs a source: a folder, a pattern, shards, a table or a list.")
        summary = self._on_ray() if self.engine == "ray" else self._here()
        if is_main():
            for path, reason in sorted(summary.broken.items())[:_NAMED]:
                print(f"broken: {printable(path)}: {printable(reason)}", file=sys.stderr)
            if len(summary.broken) > _NAMED:
                print(f"and {len(summary.broken) - _NAMED} more; the table `broken` lists all.", file=sys.stderr)
            print(summary)
            if not (summary.embedded or summary.copies or summary.present):
                raise ValueError(
                    "no picture could be embedded, of all that the sources hold; look at the reasons above."
                )
        return 0

    def _here(self) -> Summary:
        from dreamsim_guidance.retrieval.embedding import embed

        if (self.address, self.gpus, self.rows) != (None, None, None):
            raise ValueError("--address, --gpus and --rows are for a Ray cluster; add --engine ray.")
        return embed(
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

    def _on_ray(self) -> Summary:
        from dreamsim_guidance.retrieval.ray_engine.job import embed_on_ray

        if self.device is not None:
            raise ValueError("--device is not for a Ray cluster; give --gpus, 0 for none.")
        return embed_on_ray(
            self.source,
            self.to,
            self.metric,
            address=self.address,
            workers=self.workers,
            gpus=self.gpus,
            batch=self.batch,
            rows=self.rows,
            reading=self.reading,
            column=self.column,
            outside=self.outside,
            prune=self.prune,
        )

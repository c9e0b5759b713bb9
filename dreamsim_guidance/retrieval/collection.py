"""Pictures for one command, as an index: an index that exists, or pictures that are embedded for the moment."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dreamsim_guidance.files.names import printable
from dreamsim_guidance.retrieval.embedding import embed
from dreamsim_guidance.retrieval.index import Index

__all__ = ["is_index", "opened"]


def is_index(source: str | os.PathLike[str]) -> bool:
    """Whether the source is the folder of an index."""
    return Path(source, "index.json").is_file()


@contextmanager
def opened(
    sources: Sequence[str],
    metric: str | None = None,
    device: str | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Iterator[Index]:
    """Yield the index in the only source, or one in a temporary folder with the pictures of all sources, each embedded once.

    sources: an index, or folders, files, patterns, shards, tables and lists of pictures; see `sources.listing`.
    metric: a name; by default that of the index, and for pictures as `embed`. device, workers, progress: as for `embed`.

    Raises as `Index.open` and `embed`, and ValueError for an index among several sources and for a collection without any
    picture that can be read.
    """
    indices = [source for source in sources if is_index(source)]
    if indices and len(sources) > 1:
        raise ValueError(f"'{indices[0]}' is an index, and an index stands alone; give it without other sources.")
    if indices:
        index = Index.open(indices[0], metric, device)
        if not len(index):
            raise ValueError(f"the index '{indices[0]}' is empty; add pictures with `dreamsim-guidance embed`.")
        yield index
        return
    with tempfile.TemporaryDirectory(prefix="dreamsim-guidance-") as folder:
        embed(list(sources), folder, metric, device=device, workers=workers, progress=progress)
        index = Index.open(folder)
        if not len(index):
            path, reason = next(iter(index.broken.items()))
            raise ValueError(
                f"no picture can be read, of {len(index.broken)}; the first: '{printable(path)}' ({reason})."
            )
        yield index

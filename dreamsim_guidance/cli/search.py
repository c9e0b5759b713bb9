"""The command `search`: the pictures of an index nearest to one or several queries."""

from __future__ import annotations

import json as jsonlib
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from dreamsim_guidance.cli.outputs import check_file, check_picture, write_files
from dreamsim_guidance.files.names import printable
from dreamsim_guidance.files.tables import TableCell, text_table

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage
    from torch import Tensor

    from dreamsim_guidance.retrieval.index import Index
    from dreamsim_guidance.retrieval.search import Match
    from dreamsim_guidance.retrieval.search_page import Result

__all__ = ["SearchCommand"]


@dataclass(frozen=True)
class SearchCommand:
    """Find the pictures of an index that are nearest to one or several queries.

    The distance is that of the metric that made the index; 0 means alike. A query whose content is in the index is found at
    distance 0, without running the metric. Pictures of equal content are one match, with the paths of its copies.
    """

    index: Positional[Path]
    """The folder that `embed` wrote."""
    query: Positional[tuple[str, ...]]
    """Picture files, their URLs, or paths that the index has."""
    k: int = 24
    """Number of pictures to find."""
    combine: Literal["mean", "min"] = "mean"
    """Of several queries: rank by the mean of the distances, or by the smallest."""
    unlike: tuple[str, ...] = ()
    """Pictures that are not wanted: half of the mean distance to them is subtracted for the ranking."""
    mask: Path | None = None
    """A picture that is white in the region of the queries that counts and black elsewhere. The pictures of the index are
    compared as a whole."""
    metric: str | None = None
    """The metric, where the index does not find it by its recorded name, such as a model file that was moved."""
    device: str | None = None
    """cpu, cuda, mps, ...; by default an accelerator if there is one."""
    exact_up_to: int | None = None
    """Compare with all pictures up to this number of them (by default 200,000), and beyond it search an approximate index,
    which is built at the first search and kept."""
    json: bool = False
    """Print JSON instead of a table."""
    html: Path | None = None
    """Also write a self-contained page with thumbnails to this file."""
    sheet: Path | None = None
    """Also write the queries and matches as one picture (png, jpg, ...) to this file."""

    def __call__(self) -> int:
        from dreamsim_guidance.retrieval.index import Index
        from dreamsim_guidance.retrieval.neighbours import EXACT_UP_TO
        from dreamsim_guidance.retrieval.queries import read_mask
        from dreamsim_guidance.retrieval.search_page import sheet_endings

        if self.html is not None:
            check_file(self.html, "--html")
        if self.sheet is not None:
            check_picture(self.sheet, "--sheet", sheet_endings())
        if self.k < 1:
            raise ValueError(f"--k must be at least 1, got {self.k}.")
        index = Index.open(self.index, self.metric, self.device)
        mask = None if self.mask is None else read_mask(self.mask)
        exact_up_to = EXACT_UP_TO if self.exact_up_to is None else self.exact_up_to
        matches = index.search(
            list(self.query),
            self.k,
            self.combine,
            list(self.unlike),
            mask,
            exact_up_to,
            lambda message: print(message, file=sys.stderr),
        )
        if len(matches) < self.k:
            print(f"the index has {len(matches)} different pictures, fewer than {self.k}.", file=sys.stderr)
        if self.json:
            print(jsonlib.dumps(self._described(index, matches), indent=2))
        else:
            print("\n".join(self._lines(matches)))
        writers: dict[Path, Callable[[Path], object]] = {}
        if self.html is not None or self.sheet is not None:
            from dreamsim_guidance.files.atomic import write_text, writing
            from dreamsim_guidance.retrieval.search_page import search_page, search_sheet

            result = self._result(index, matches, mask)
            if self.html is not None:
                writers[self.html] = lambda file: write_text(file, search_page(result))
            if self.sheet is not None:

                def write_sheet(file: Path) -> None:
                    with writing(file) as temporary:
                        search_sheet(result).save(temporary)

                writers[self.sheet] = write_sheet
        write_files(writers)
        return 0

    def _described(self, index: Index, matches: list[Match]) -> dict[str, object]:
        return {
            "index": str(self.index),
            "metric": index.description.metric,
            "queries": list(self.query),
            "combine": self.combine,
            "unlike": list(self.unlike),
            "mask": None if self.mask is None else str(self.mask),
            "matches": [asdict(match) for match in matches],
        }

    def _lines(self, matches: list[Match]) -> list[str]:
        scored = bool(self.unlike)
        columns = ["", "distance", *(["score"] if scored else []), "path"]
        rows: list[list[TableCell]] = []
        for rank, match in enumerate(matches, 1):
            rows.append([rank, match.distance, *([match.score] if scored else []), printable(match.path)])
            rows += [["", "copy", *([""] if scored else []), printable(path)] for path in match.copies]
        return [text_table(columns, rows)]

    def _result(self, index: Index, matches: list[Match], mask: Tensor | None) -> Result:
        from dreamsim_guidance.retrieval.search_page import Result

        facts = {
            "index": printable(self.index),
            "pictures": f"{len(index):,}",
            "metric": printable(index.description.metric),
        }
        if len(self.query) > 1:
            facts["several queries"] = f"{self.combine} of the distances"
        if self.unlike:
            facts["score"] = "distance less half the mean distance to the unwanted pictures"
        if self.mask is not None:
            facts["mask"] = printable(self.mask)
        return Result(matches, _pictures(index, self.query, mask), _pictures(index, self.unlike), facts)


def _pictures(index: Index, names: tuple[str, ...], mask: Tensor | None = None) -> dict[str, PILImage | None]:
    """Thumbnails by name; of a masked query, what the metric sees."""
    from PIL.Image import fromarray

    from dreamsim_guidance.metric.distance import mask_out
    from dreamsim_guidance.preprocess import to_image
    from dreamsim_guidance.retrieval.queries import path_in_index
    from dreamsim_guidance.retrieval.sources.piece import path_of
    from dreamsim_guidance.retrieval.thumbnails import thumbnails

    paths = {
        name: path_of(os.path.abspath(name)) if os.path.isfile(name) else path_in_index(index, name) or name
        for name in names
    }
    pictures = thumbnails(paths.values())
    if mask is not None:
        for path, picture in pictures.items():
            if picture is not None:
                pixels = (mask_out(to_image(picture), mask)[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
                pictures[path] = fromarray(pixels.numpy())
    return {path: pictures[path] for path in paths.values()}

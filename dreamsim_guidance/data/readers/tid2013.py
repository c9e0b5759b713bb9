"""TID2013: 25 photographs under 24 distortions at 5 levels, with mean opinion scores from 0 to 9.

    mos_with_names.txt    lines of a score and a file, "5.51429 I01_01_1.bmp"
    reference_images/I01.BMP, distorted_images/i01_01_1.bmp    in upper or lower case

Where: http://www.ponomarenko.info/tid2013.htm (0.9 GB). Licence: see the readme in the archive; that of the earlier
TID2008 permits educational and research use. Ponomarenko et al., Image database TID2013, Signal Processing: Image
Communication 2015.
"""

from __future__ import annotations

from pathlib import Path

from dreamsim_guidance.data.judgments import choose
from dreamsim_guidance.data.ratings import Rating, Ratings, gather_ratings
from dreamsim_guidance.data.readers.table import number

__all__ = ["read_tid2013"]


def read_tid2013(root: Path | str, split: str | None = None) -> Ratings:
    """Read all 3000 scores of the folder, or of its `mos_with_names.txt`; there are no splits.

    The group is the distortion, "01" to "24".

    Raises FileNotFoundError for a missing list or picture, ValueError for a line that is not a score and a name such as
    i01_01_1.bmp, and a name that occurs twice.
    """
    root = Path(root)
    root = root.parent if root.is_file() else root
    file = root / "mos_with_names.txt"
    if not file.is_file():
        raise FileNotFoundError(f"'{file}' is missing; give the folder of TID2013.")
    references = {stem: path for path, stem in _pictures(root / "reference_images")}
    distorted = {stem: path for path, stem in _pictures(root / "distorted_images")}
    rows = []
    for line, text in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        where, words = f"'{file}', line {line}", text.split()
        if not words:
            continue
        stem = Path(words[-1]).stem.lower()
        parts = stem.split("_")
        if len(words) != 2 or len(parts) != 3 or "/" in words[1] or "\\" in words[1]:
            raise ValueError(f"{where}: a score and a file such as i01_01_1.bmp are needed, got {text!r}.")
        reference = references.get(parts[0], root / "reference_images" / f"{parts[0].upper()}.BMP")
        picture = distorted.get(stem, root / "distorted_images" / words[1])
        rows.append(Rating(reference, picture, number(where, "the score", words[0]), parts[1]))
    return gather_ratings(choose(rows, file, split), file)


def _pictures(folder: Path) -> list[tuple[Path, str]]:
    """Files with their stems in lower case: the set's lists and file names disagree about case."""
    return [(path, path.stem.lower()) for path in sorted(folder.glob("*")) if path.suffix.lower() in (".bmp", ".png")]

"""PieAPP: pairs of distorted pictures, and the probability that people find one nearer to the reference.

    labels/<split>/ref_N_pairwise_labels.csv, reference_images/<split>/ref_N.png, distorted_images/<split>/ref_N/*.png

Where: https://github.com/prashnani/PerceptualImageError (2.2 GB). Licence: for non-commercial and educational use only;
see TERMS_OF_USE.pdf of the set. Prashnani et al., PieAPP, CVPR 2018.
"""

from __future__ import annotations

from pathlib import Path

from dreamsim_guidance.data.judgments import Judgments, Triplet, choose, gather
from dreamsim_guidance.data.readers.table import inside, number, read_header, read_table

__all__ = ["read_pieapp"]

_PEOPLE = 40.0
"""People asked about each pair, according to the documentation of the set."""

_PICTURES = ("ref. image", "distorted image A", "distorted image B")
_PREFERENCES = ("processed preference for A", "preference for A", "raw preference for A")
"""Names of the column; the first that a file has is used."""


def read_pieapp(root: Path | str, split: str | None = None, least_votes: int | None = None) -> Judgments:
    """Read all labelled pairs below `root`; the splits are train, val and test, the group is the reference's name.

    Votes are 40 times the preference and rarely whole numbers. In train and val this is the "processed" preference, which the
    authors estimated for every pair from the pairs that people judged; test holds the people's answers. Pairs without a
    preference are left out, and pairs that offer the reference itself (test has some; every metric gets them right).

    Raises FileNotFoundError for a folder without labels or a missing picture, ValueError for a missing column, a
    preference outside [0, 1], a path that leaves its folder, and a split without pairs.
    """
    root = Path(root)
    files = [file for file in sorted(root.glob("labels/*/*_pairwise_labels.csv")) if file.is_file()]
    if not files:
        raise FileNotFoundError(f"'{root}' has no labels/<split>/*_pairwise_labels.csv; give the folder of PieAPP.")
    chosen = [file for file in files if split is None or file.parent.name == split] or files
    rows = [row for file in chosen for row in _triplets(root, file)]
    return gather(choose(rows, root, split, least_votes or 1), root)


def _triplets(root: Path, file: Path) -> list[Triplet]:
    header = read_header(file)
    column = next((name for name in _PREFERENCES if "".join(name.split()).lower() in header), _PREFERENCES[0])
    part = file.parent.name
    rows = []
    for where, row in read_table(file, (*_PICTURES, column)):
        names = [inside(where, row[name]) for name in _PICTURES]
        if not row[column] or names[0] in names[1:]:
            continue
        of_a = number(where, column, row[column], 0.0, 1.0)
        stem = Path(names[0]).stem
        a, b = (root / "distorted_images" / part / stem / name for name in names[1:])
        reference = root / "reference_images" / part / names[0]
        rows.append(Triplet(reference, a, b, of_a * _PEOPLE, (1 - of_a) * _PEOPLE, stem, part))
    return rows

"""THINGS: people chose the odd one out of three objects.

Each line of the file has the numbers of three pictures, `i j k`, of which k is the odd one out; the pictures `i.png` lie beside
it. A line becomes two successive triplets: reference i, j nearer than k; and reference j, i nearer than k.

Where: things_valset.txt from https://osf.io/b2a4j, as the original's evaluation names it; pictures from
https://things-initiative.org. Licence: unknown, see there; the authors call one picture of each object, not all, free of
copyright. Hebart et al., THINGS-data, eLife 2023.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dreamsim_guidance.data.judgments import Judgments, Triplet, choose, gather

__all__ = ["odd_one_out", "read_things"]


def read_things(root: Path | str, split: str | None = None, least_votes: int | None = None) -> Judgments:
    """Read the triplets of `things_valset.txt` in `root`, or of the text file; pictures beside it or in `images`.

    Each has one vote, the split "val" and the group "things". See `odd_one_out` for the original's score of a line. Raises
    FileNotFoundError for a missing list or picture, ValueError for a line that is not three different numbers.
    """
    file = Path(root)
    file = file / "things_valset.txt" if file.is_dir() else file
    if not file.is_file():
        raise FileNotFoundError(f"judgments not found: '{file}'; give the folder with things_valset.txt, or the file.")
    pictures = file.parent / "images"
    pictures = pictures if pictures.is_dir() else file.parent
    rows = []
    for line, text in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        words = text.split()
        if not words:
            continue
        if len(words) != 3 or len(set(words)) != 3 or not all(word.isdecimal() for word in words):
            raise ValueError(f"'{file}', line {line}: three different numbers of pictures are needed, got {text!r}.")
        i, j, odd = (pictures / f"{word}.png" for word in words)
        rows += [Triplet(i, j, odd, 1.0, 0.0, "things", "val"), Triplet(j, i, odd, 1.0, 0.0, "things", "val")]
    return gather(choose(rows, file, split, least_votes or 1), file)


def odd_one_out(distance_a: ArrayLike, distance_b: ArrayLike) -> NDArray[np.bool_]:
    """Return whether the metric finds the same odd one out as people, for each line of the list, `(n,)`:

        d(i, j) <= d(i, k)  and  d(i, j) <= d(j, k)

    so that ties count as right, as in the original's evaluation.

    distance_a, distance_b: of the triplets of `read_things`, in its order, `(2 n,)`.
    """
    d_a, d_b = np.asarray(distance_a, dtype=np.float64), np.asarray(distance_b, dtype=np.float64)
    if d_a.shape != d_b.shape or d_a.ndim != 1 or len(d_a) % 2:
        raise ValueError(f"two distances for each line are needed, in order, got {d_a.shape} and {d_b.shape}.")
    if np.isnan(d_a).any() or np.isnan(d_b).any():
        raise ValueError("distances must not be NaN.")
    right = (d_a <= d_b).reshape(-1, 2)
    return right[:, 0] & right[:, 1]

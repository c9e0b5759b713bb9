"""KADID-10k: 81 photographs under 25 distortions at 5 levels, with mean scores from 1 to 5.

    dmos.csv: dist_img,ref_img,dmos,var    images/I01_01_01.png, images/I01.png

Where: https://database.mmsp-kn.de/kadid-10k-database.html (3 GB). Licence: see there; the photographs come from Pixabay.
Lin, Hosu and Saupe, KADID-10k, QoMEX 2019.
"""

from __future__ import annotations

from pathlib import Path

from dreamsim_guidance.data.judgments import choose
from dreamsim_guidance.data.ratings import Rating, Ratings, gather_ratings
from dreamsim_guidance.data.readers.table import inside, number, read_table

__all__ = ["read_kadid10k"]


def read_kadid10k(root: Path | str, split: str | None = None) -> Ratings:
    """Read all 10,125 scores of `dmos.csv` in `root`; the group is the distortion, "01" to "25"; there are no splits.

    Despite its name, the column "dmos" holds mean scores: 5 is the best. Raises FileNotFoundError for a missing list or
    picture, ValueError for a missing column, a score outside [1, 5], a path that leaves the folder, and a picture that
    is listed twice.
    """
    root = Path(root)
    file = root / "dmos.csv" if root.is_dir() else root
    if not file.is_file():
        raise FileNotFoundError(f"'{file}' is missing; give the folder of KADID-10k.")
    pictures = file.parent / "images"
    rows = []
    for where, row in read_table(file, ("dist_img", "ref_img", "dmos")):
        distorted, reference = (inside(where, row[name]) for name in ("dist_img", "ref_img"))
        parts = Path(distorted).stem.split("_")
        score = number(where, "dmos", row["dmos"], 1.0, 5.0)
        rows.append(Rating(pictures / reference, pictures / distorted, score, parts[1] if len(parts) > 1 else ""))
    return gather_ratings(choose(rows, file, split), file)

"""BAPPS: patches of 64 x 64 pixels under traditional distortions, the artefacts of networks, and real algorithms.

    2afc/<train or val>/<family>/ref, p0, p1/*.png    judge/*.npy    share of people who found p1 nearer
    jnd/val/<family>/p0, p1/*.png                     same/*.npy     share of people who saw no difference

Where: the script scripts/download_dataset.sh of https://github.com/richzhang/PerceptualSimilarity (6.6 GB), whose code is
under a BSD licence; the data state none of their own. Zhang et al., The unreasonable effectiveness of deep features
as a perceptual metric, CVPR 2018.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dreamsim_guidance.data.judgments import Judgments, Triplet, choose, gather
from dreamsim_guidance.data.same_pairs import Pair, SamePairs, gather_pairs

__all__ = ["read_bapps", "read_bapps_jnd"]

_PEOPLE = {"train": 2, "val": 5}
"""Judgments of each triplet, as the set's documentation says; the files hold only shares."""

_PEOPLE_JND = 3


def read_bapps(root: Path | str, split: str | None = None, least_votes: int | None = None) -> Judgments:
    """Read the triplets below `root`: the whole set, `2afc`, `2afc/val`, or one family; a is p0, b is p1.

    The group is the family (traditional, cnn, superres, deblur, color, frameinterp; mix in training). Files are sorted
    by name within a family (the original's reader takes them in the order of the disk). Splits: train (2 people each),
    val (5). Raises FileNotFoundError for a folder without judgments or a missing picture, ValueError for a share
    outside [0, 1] and a split without triplets.
    """
    rows = []
    for family, file, share in _shares(Path(root), "judge", split):
        people = float(_PEOPLE.get(family.parent.name, 1))
        ref, p0, p1 = (family / name / f"{file.stem}.png" for name in ("ref", "p0", "p1"))
        rows.append(Triplet(ref, p0, p1, (1 - share) * people, share * people, family.name, family.parent.name))
    return gather(choose(rows, Path(root), split, least_votes or 1), Path(root))


def read_bapps_jnd(root: Path | str, split: str | None = None, least_votes: int | None = None) -> SamePairs:
    """Read the pairs below `root`: the whole set, `jnd`, `jnd/val`, or one family; three people each. Raises as above."""
    rows = [
        Pair(
            family / "p0" / f"{file.stem}.png",
            family / "p1" / f"{file.stem}.png",
            share,
            float(_PEOPLE_JND),
            family.name,
            family.parent.name,
        )
        for family, file, share in _shares(Path(root), "same", split)
    ]
    return gather_pairs(choose(rows, Path(root), split, least_votes or 1), Path(root))


def _shares(root: Path, folder: str, split: str | None) -> Iterator[tuple[Path, Path, float]]:
    """Yield the family's folder, the file and the share of every vote, in order."""
    root = root.absolute()
    folders = [place for depth in range(4) for place in sorted(root.glob("*/" * depth + folder)) if place.is_dir()]
    if not folders:
        raise FileNotFoundError(
            f"'{root}' has no folder '{folder}' of votes in it or up to three levels below; give the folder of the set, "
            "of a split or of a family."
        )
    # other splits need not be read: training has 151,000 files
    chosen = [place for place in folders if split is None or place.parents[1].name == split] or folders
    files = [file for place in chosen for file in sorted(place.glob("*.npy"))]
    for file in tqdm(files, desc=folder, unit="vote", disable=len(files) < 5000):
        yield file.parents[1], file, _share(file)


def _share(file: Path) -> float:
    try:
        if not file.is_file():
            raise ValueError("it is not a file")
        stored = np.load(file, mmap_mode="r", allow_pickle=False)  # mapped: a huge array is refused without reading it
        if not isinstance(stored, np.ndarray) or stored.size != 1:
            raise ValueError("it holds something else")
        share = float(stored.reshape(()))
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"'{file}' must hold one number, the share of people ({error}).") from error
    if not 0 <= share <= 1:
        raise ValueError(f"'{file}': the share of people must lie in [0, 1], got {share:g}.")
    return share

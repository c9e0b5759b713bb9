"""Files that go with the pictures of a set: masks, depth maps, and a table of categories."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dreamsim_guidance.data.readers.table import read_table
from dreamsim_guidance.files.pictures import SUFFIXES, read_pixels

__all__ = ["companion_files", "read_categories", "read_grey"]


def companion_files(folder: Path, pictures: Sequence[Path], root: Path | None, kind: str) -> dict[Path, Path]:
    """Return the file in `folder` that goes with each picture.

    folder: holds for the picture `img/07.jpg` of the set `root` one of img/07.png, img/07_mask.png, 07.png, 07_mask.png, or the
        same with another ending of a picture; it may be the set's own folder, where a picture is never its own mask.
    root: the folder of the set; None looks for names without folders only.
    kind: "mask" or "depth", the end of the name.

    Raises FileNotFoundError, with their number and the first of them, if pictures have none, and ValueError if one file would
    go with two pictures of the same name in different folders.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder '{folder}' of the {kind} pictures is not there.")
    names = Counter(picture.stem for picture in pictures)
    files: dict[Path, Path] = {}
    for picture in pictures:
        stems = [picture.relative_to(root).with_suffix("")] if root and picture.is_relative_to(root) else []
        places = [*stems, Path(picture.stem)]
        candidates = [folder / place.parent / f"{place.name}{end}" for place in places for end in ("", f"_{kind}")]
        endings = (".png", *(suffix for suffix in SUFFIXES if suffix != ".png"))
        file = next(
            (f for c in candidates for e in endings if (f := _with_ending(c, e)).is_file() and f != picture), None
        )
        if file is not None:
            files[picture] = file
    if missing := [picture for picture in pictures if picture not in files]:
        raise FileNotFoundError(
            f"{len(missing)} of {len(pictures)} pictures have no {kind} in '{folder}', the first: '{missing[0]}'; it needs "
            f"'{missing[0].stem}.png' or '{missing[0].stem}_{kind}.png', in the same subfolder as the picture or in none."
        )
    shared = [file for file, count in Counter(files.values()).items() if count > 1]
    if shared:
        owners = [picture for picture, file in files.items() if file == shared[0]]
        raise ValueError(
            f"'{shared[0]}' would be the {kind} of '{owners[0]}' and '{owners[1]}' ({names[owners[0].stem]} pictures have that "
            "name); put the files into the same subfolders as the pictures."
        )
    return files


def read_grey(file: Path, picture: Path, size: tuple[int, int]) -> NDArray[np.float64]:
    """The grey values `(h, w)` in [0, 1] of a file that goes with a picture of `size` = (height, width).

    Raises ValueError if it has another size, and as `read_pixels`.
    """
    pixels = read_pixels(file)
    full = 255.0 if pixels.dtype == np.uint8 else 65535.0 if pixels.dtype == np.uint16 else 1.0
    grey = pixels.astype(np.float64) / full
    grey = grey.mean(-1) if grey.ndim == 3 else grey
    if grey.shape != size:
        raise ValueError(
            f"'{file}' is {grey.shape[1]} x {grey.shape[0]} pixels large, and its picture '{picture}' {size[1]} x {size[0]}; "
            "both must have one size."
        )
    return grey


def read_categories(file: Path, pictures: Sequence[Path], root: Path | None) -> dict[Path, str]:
    """Read a table with the columns path and category: of each picture the path below `root`, its file name or its stem.

    Raises FileNotFoundError for a missing table, ValueError for missing columns, empty categories, a path that occurs twice
    with different categories, and pictures without one.
    """
    if not file.is_file():
        raise FileNotFoundError(f"the table of categories '{file}' is not there.")
    by_path: dict[str, str] = {}
    for where, row in read_table(file, ("path", "category")):
        path, category = Path(row["path"]).as_posix(), row["category"]
        if not category:
            raise ValueError(f"{where}: the category of '{path}' is empty.")
        if by_path.setdefault(path, category) != category:
            raise ValueError(
                f"{where}: '{path}' has the categories '{by_path[path]}' and '{category}'; keep one of them."
            )
    categories = {}
    for picture in pictures:
        below = [picture.relative_to(root).as_posix()] if root and picture.is_relative_to(root) else []
        keys = [*below, picture.as_posix(), picture.name, picture.stem]
        if category := next((by_path[key] for key in keys if key in by_path), ""):
            categories[picture] = category
    if missing := [picture for picture in pictures if picture not in categories]:
        raise ValueError(
            f"{len(missing)} of {len(pictures)} pictures have no category in '{file}', the first: '{missing[0]}'."
        )
    return categories


def _with_ending(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)

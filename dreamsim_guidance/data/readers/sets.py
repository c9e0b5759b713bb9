"""Sets of human judgments by name, and which of them a folder or file is.

The readers have one file each; their documentation says where to get a set, under which licence, and what its votes are.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

from dreamsim_guidance.data.judgments import Judgments
from dreamsim_guidance.data.ratings import Ratings
from dreamsim_guidance.data.readers import bapps, clic, kadid10k, nights, own_folder, pieapp, pipal, things, tid2013
from dreamsim_guidance.data.readers.table import read_header
from dreamsim_guidance.data.same_pairs import SamePairs

__all__ = ["KINDS", "read_judgments", "recognise"]

KINDS: dict[str, Callable[..., Judgments | SamePairs | Ratings]] = {
    "nights": nights.read_nights,
    "nights-unfiltered": nights.read_nights_unfiltered,
    "nights-jnd": nights.read_nights_jnd,
    "bapps": bapps.read_bapps,
    "bapps-jnd": bapps.read_bapps_jnd,
    "things": things.read_things,
    "pieapp": pieapp.read_pieapp,
    "tid2013": tid2013.read_tid2013,
    "kadid10k": kadid10k.read_kadid10k,
    "pipal": pipal.read_pipal,
    "clic": clic.read_clic,
    "folder": own_folder.read_own_folder,
}
"""Reader by name, each `reader(path, split, least_votes)`, those of ratings without `least_votes`."""


def read_judgments(
    path: Path | str, kind: str | None = None, split: str | None = None, least_votes: int | None = None
) -> Judgments | SamePairs | Ratings:
    """The set at `path`, in the form that its votes have; `kind` is one of `KINDS`, by default what `path` looks like.

    `Ratings` become triplets with their method `judgments`. Raises ValueError for an unknown kind, a path that is like
    none or several of them, and `least_votes` for a set of scores; further errors as the reader of the kind.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"unknown kind '{kind}'; known: {', '.join(KINDS)}.")
    reader = KINDS[kind or recognise(path)]
    if "least_votes" in inspect.signature(reader).parameters:
        return reader(path, split, least_votes=least_votes)
    if least_votes is not None:
        raise ValueError(f"'{path}' holds mean scores, not votes; leave least_votes out.")
    return reader(path, split)


def recognise(path: Path | str) -> str:
    """The kind of the set at `path`, by the names of files and columns; errors as `read_judgments`.

    A folder with NIGHTS' `data.csv` is NIGHTS, also if its JND votes lie there too.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"judgments not found: '{path}'; give the folder of a set, or its csv file.")
    found = _of_folder(path) if path.is_dir() else _of_file(path)
    if found == ["nights", "nights-jnd"]:
        return "nights"
    if len(found) == 1:
        return found[0]
    looks = f"looks like several of them ({', '.join(found)})" if found else "looks like none of them"
    raise ValueError(f"'{path}' {looks}; say which kind it is, one of {', '.join(KINDS)}.")


def _of_folder(folder: Path) -> list[str]:
    signs = {
        "nights": (folder / "data.csv").is_file(),
        "nights-unfiltered": (folder / "nights_raw.csv").is_file(),
        "nights-jnd": (folder / "jnd_votes.csv").is_file(),
        "bapps": _has_votes(folder, "judge"),
        "bapps-jnd": _has_votes(folder, "same"),
        "things": (folder / "things_valset.txt").is_file(),
        "pieapp": any(folder.glob("labels/*/*_pairwise_labels.csv")),
        "tid2013": (folder / "mos_with_names.txt").is_file(),
        "kadid10k": (folder / "dmos.csv").is_file(),
        "pipal": bool(pipal.label_files(folder)),
        "clic": bool(clic.answer_files(folder)),
        "folder": (folder / "votes.csv").is_file(),
    }
    return [kind for kind, there in signs.items() if there]


def _has_votes(folder: Path, name: str) -> bool:
    return any(place.is_dir() for depth in range(4) for place in folder.glob("*/" * depth + name))


def _of_file(file: Path) -> list[str]:
    columns = set(read_header(file))
    signs = {
        "nights-unfiltered": file.name == "nights_raw.csv",
        "nights-jnd": file.name == "jnd_votes.csv" or {"ref_path", "distort_path", "same"} <= columns,
        "nights": len({"ref_path", "left_path", "right_path"} & columns) > 1 and file.name != "nights_raw.csv",
        "kadid10k": {"dist_img", "ref_img", "dmos"} <= columns,
        "folder": {"name", "votes_a", "votes_b"} <= columns,
        "things": file.suffix == ".txt" and file.name.startswith("things"),
        "tid2013": file.name == "mos_with_names.txt",
        "clic": file.suffix == ".csv" and file in clic.answer_files(file.parent),
    }
    return [kind for kind, there in signs.items() if there]

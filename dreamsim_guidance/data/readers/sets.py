"""Data sets of human judgments by name, and how a folder or file is recognised as one of them.

Each reader has a file of its own, which says where to get the set, under which licence, and what its votes mean.
"""

from __future__ import annotations

import inspect
import os
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
"""Readers by name: `reader(path, split, least_votes)`; readers of ratings have no `least_votes`."""


def read_judgments(
    path: Path | str, kind: str | None = None, split: str | None = None, least_votes: int | None = None
) -> Judgments | SamePairs | Ratings:
    """Read a data set of human judgments.

    path: the folder of the set, or its csv file.
    kind: one of `KINDS`; by default what `path` looks like, see `recognise`.
    split: of the set; None, the default, takes all rows.
    least_votes: leave out triplets or pairs with fewer votes; by default as the reader of the kind does.

    Returns `Judgments` for triplets, `SamePairs` for same-or-different pairs, `Ratings` for quality scores, which their method
    `judgments` turns into triplets. Raises ValueError for an unknown kind, for a path that looks like no kind or like several,
    and for `least_votes` with quality scores; further errors as the reader of the kind.
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
    """Return the kind of the data set at `path`, by the names of its files and columns.

    A folder with NIGHTS' `data.csv` is NIGHTS, even if its unfiltered or JND votes lie there too. Other files in the folder may
    be anything: links without a target, devices, binary or huge files are ignored. Raises the errors of `read_judgments`, and
    OSError for a folder or file that may not be read.
    """
    path = Path(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"judgments not found: '{path}'; give the folder of a set, or its csv file.")
    if os.path.isdir(path):
        os.listdir(path)  # says why a folder cannot be read, where the look-ups below find nothing
        kinds = _of_folder(path)
    elif os.path.isfile(path):
        path.open("rb").close()
        kinds = _of_file(path)
    else:
        raise ValueError(
            f"'{path}' is neither a folder nor a file of judgments; give the folder of a set, or its csv file."
        )
    if "nights" in kinds and set(kinds) <= {"nights", "nights-unfiltered", "nights-jnd"}:
        return "nights"
    if len(kinds) == 1:
        return kinds[0]
    description = f"looks like several of them ({', '.join(kinds)})" if kinds else "looks like none of them"
    raise ValueError(f"'{path}' {description}; say which kind it is, one of {', '.join(KINDS)}.")


def _of_folder(folder: Path) -> list[str]:
    def has(name: str) -> bool:
        return os.path.isfile(folder / name)  # unlike Path.is_file, False where a folder may not be searched

    signs = {
        "nights": has("data.csv"),
        "nights-unfiltered": has("nights_raw.csv"),
        "nights-jnd": has("jnd_votes.csv"),
        "bapps": _has_votes(folder, "judge"),
        "bapps-jnd": _has_votes(folder, "same"),
        "things": has("things_valset.txt"),
        "pieapp": any(map(os.path.isfile, folder.glob("labels/*/*_pairwise_labels.csv"))),
        "tid2013": has("mos_with_names.txt"),
        "kadid10k": has("dmos.csv"),
        "pipal": bool(pipal.label_files(folder)),
        "clic": bool(clic.answer_files(folder)),
        "folder": has("votes.csv"),
    }
    return [kind for kind, present in signs.items() if present]


def _has_votes(folder: Path, name: str) -> bool:
    return any(os.path.isdir(place) for depth in range(4) for place in folder.glob("*/" * depth + name))


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
        "clic": file.suffix == ".csv" and clic.has_answers(file),
    }
    return [kind for kind, present in signs.items() if present]

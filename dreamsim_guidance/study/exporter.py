"""Write a study as a static web page: one HTML file and its pictures, for any web server or a memory stick.

Pictures are written again, as PNG without metadata, under shuffled numbers: neither their ending, nor a comment left by a
generator, nor their name reveals the method. Their pixels are those of the files.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dreamsim_guidance.data.reconstructions import Reconstructions, find_reconstructions
from dreamsim_guidance.files.atomic import new_folder
from dreamsim_guidance.preprocess import load_image, resize, save_image
from dreamsim_guidance.study.design import DEGRADED, TARGET, Mode, Trial, design, units
from dreamsim_guidance.study.folder import check_free
from dreamsim_guidance.study.page import Page, render
from dreamsim_guidance.study.record import Picture, Study
from dreamsim_guidance.types import Image

__all__ = ["Made", "catch_references", "complete", "make_study", "other_shapes", "write_study"]

_VISIBLE = 0.05
"""Root-mean-square difference from its degraded version that a reference needs to be used for a catch trial."""


@dataclass(frozen=True)
class Made:
    """What `make_study` wrote.

    study: the record.
    missing: the pictures that each folder lacks.
    votes: the smallest and largest number of votes that a triplet or pair gets if everyone takes part.
    other_shape: pictures whose aspect ratio differs from their target's, by which people may recognise a method.
    """

    study: Study
    missing: dict[str, list[str]]
    votes: tuple[int, int]
    other_shape: list[Path]


def make_study(
    targets: Path | str,
    methods: Sequence[Path | str],
    to: Path | str,
    *,
    mode: Mode = "2afc",
    participants: int = 20,
    trials: int | None = None,
    catch: int = 5,
    repeats: int | None = None,
    seed: int = 0,
    page: Page | None = None,
    progress: bool = True,
) -> Made:
    """Write `to`/index.html, `to`/images/ and `to`/study.json for the reconstructions of `targets` by several methods.

    targets, methods: folders, see `find_reconstructions`. Mode "2afc" needs at least two methods, "jnd" at least one.
    mode: "2afc" (the default): which of two is more like the reference? "jnd": were the two pictures the same?
    participants: how many participant numbers there are, from 1; each has its own block of trials.
    trials: in each block; by default all units, at most 40.
    catch: further trials with a known answer; by default 5.
    repeats: trials that are shown a second time; by default a third, at most 4.
    page: texts and sizes of the page; by default those of `Page()`.
    progress: whether to show bars on stderr.

    All pictures are decoded before anything is written; `to` appears whole or not at all. Raises FileNotFoundError and
    ValueError for folders and pictures, impossible numbers, references that do not change visibly when degraded, a text that
    names a method, and a folder `to` that is not empty; OSError if `to` cannot be written.
    """
    page = page or Page()
    to = Path(to)
    reconstructions = find_reconstructions(targets, methods, least=1 if mode == "jnd" else 2)
    if reserved := {TARGET, DEGRADED} & reconstructions.methods.keys():
        raise ValueError(f"a method cannot be called '{reserved.pop()}'; give it another name: NAME=FOLDER.")
    _check_silent(page, reconstructions.methods)
    chosen = units(reconstructions, mode)
    if not chosen:
        raise ValueError("no reference was reconstructed by two methods, so there is nothing to compare.")
    trials = min(40, len(chosen)) if trials is None else trials
    repeats = min(4, trials // 3) if repeats is None else repeats
    # checks the numbers before the pictures are decoded
    design(
        chosen, list(reconstructions.targets), **(numbers := _numbers(mode, participants, trials, catch, repeats, seed))
    )
    check_free(to)
    sizes = reconstructions.check(progress)
    blocks = design(chosen, catch_references(reconstructions, {unit[0] for unit in chosen}, catch, seed), **numbers)
    study = Study(
        id="",
        title=page.title,
        mode=mode,
        seed=seed,
        participants=participants,
        methods=tuple(reconstructions.methods),
        pictures=(),
        extra=(),
        blocks=tuple(map(tuple, blocks)),
        exposure=page.exposure if mode == "jnd" else None,
    )
    study = write_study(study, reconstructions, page, to, progress)
    votes = Counter((t.reference, *sorted((t.left, t.right))) for b in blocks for t in b if t.kind == "pair")
    few = min(votes.values()) if len(votes) == len(chosen) else 0
    return Made(study, reconstructions.missing, (few, max(votes.values())), other_shapes(reconstructions, sizes))


def write_study(study: Study, reconstructions: Reconstructions, page: Page, to: Path, progress: bool = True) -> Study:
    """Write the page, the pictures and the record of a study to the folder `to`, which appears whole or not at all.

    study: without identifier and pictures, which are found here.

    Returns the complete record. Raises OSError if `to` cannot be written or holds something.
    """
    study = complete(study, reconstructions, page)
    with new_folder(to) as folder:
        (folder / "images").mkdir()
        files = sorted([*study.pictures, *study.extra], key=_file)
        for picture in tqdm(files, desc="writing", unit="image", disable=not progress):
            image = load_image(picture.source)
            save_image(_degraded(image) if picture.shows == DEGRADED else image, folder / picture.file)
        (folder / "study.json").write_text(study.json(), encoding="utf-8")
        (folder / "index.html").write_text(render(study, page), encoding="utf-8")
    return study


def complete(study: Study, reconstructions: Reconstructions, page: Page) -> Study:
    """Return the record with the files of the page, which get shuffled numbers, and with the study's identifier."""
    trials = [trial for block in study.blocks for trial in block]
    pictures, extra = _pictures(reconstructions, trials, study.seed)
    study = replace(study, pictures=tuple(pictures), extra=tuple(extra))
    return replace(study, id=_identity(study, page))


def other_shapes(reconstructions: Reconstructions, sizes: dict[Path, tuple[int, int]]) -> list[Path]:
    """Return the pictures whose aspect ratio differs from their target's by more than 2 %."""
    return [
        file
        for files in reconstructions.methods.values()
        for stem, file in files.items()
        if abs(math.log(_aspect(sizes[file]) / _aspect(sizes[reconstructions.targets[stem]]))) > 0.02
    ]


def _check_silent(page: Page, methods: Iterable[str]) -> None:
    """Raise ValueError if a text that participants read names a method."""
    for field in ("title", "question", "closing"):
        text = getattr(page, field)
        if text in (None, getattr(Page, field)):
            continue
        if named := [name for name in methods if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE)]:
            raise ValueError(
                f"the {field} {text!r} names the method '{named[0]}', which participants must not know; change the text, or "
                "give the method another name: NAME=FOLDER."
            )


def _numbers(mode: Mode, participants: int, trials: int, catch: int, repeats: int, seed: int) -> dict:
    return {
        "mode": mode,
        "participants": participants,
        "trials": trials,
        "catch": catch,
        "repeats": repeats,
        "seed": seed,
    }


def _aspect(size: tuple[int, int]) -> float:
    return size[1] / size[0]


def _file(picture: Picture) -> str:
    return picture.file


def _degraded(image: Image) -> Image:
    """The image reduced to 6 x 6 pixels and enlarged again: a few blurred patches of its colours."""
    return resize(resize(image, (6, 6)).clamp(0, 1), (image.shape[-2], image.shape[-1])).clamp(0, 1)


def catch_references(reconstructions: Reconstructions, used: set[str], count: int, seed: int) -> list[str]:
    """Return up to `count` random references that change visibly when degraded."""
    stems = [stem for stem in reconstructions.targets if stem in used]
    suitable: list[str] = []
    for i in np.random.default_rng([seed, 3]).permutation(len(stems)):
        if len(suitable) == count:
            break
        image = load_image(reconstructions.targets[stems[i]])
        if float((_degraded(image) - image).square().mean().sqrt()) >= _VISIBLE:
            suitable.append(stems[i])
    if count and not suitable:
        raise ValueError(
            "every reference is so plain that its degraded picture looks the same; leave catch trials out: --catch 0."
        )
    return suitable


def _pictures(reconstructions: Reconstructions, trials: list[Trial], seed: int) -> tuple[list[Picture], list[Picture]]:
    """All files of the page under shuffled numbers; catch trials have their own copy of the target."""
    shown = {(trial.reference, side) for trial in trials if trial.kind != "catch" for side in (trial.left, trial.right)}
    stems = sorted({trial.reference for trial in trials})
    catch = sorted({trial.reference for trial in trials if trial.kind == "catch"})
    needed = [(stem, TARGET, reconstructions.targets[stem]) for stem in stems]
    needed += [
        (s, name, files[s]) for name, files in reconstructions.methods.items() for s in stems if (s, name) in shown
    ]
    count = len(needed)
    needed += [(stem, shows, reconstructions.targets[stem]) for stem in catch for shows in (TARGET, DEGRADED)]
    order = np.random.default_rng([seed, 4]).permutation(len(needed))
    digits = len(str(len(needed)))
    pictures = [
        Picture(f"images/{number + 1:0{digits}d}.png", stem, shows, str(file))
        for number, (stem, shows, file) in zip(order, needed, strict=True)
    ]
    return pictures[:count], pictures[count:]


def _identity(study: Study, page: Page) -> str:
    """Twelve hex digits that identify the study, the content of its pictures included, wherever these lie."""
    pictures = (*study.pictures, *study.extra)
    nameless = tuple(replace(picture, source="") for picture in pictures)
    triplets = None if study.triplets is None else replace(study.triplets, folder="")
    record = replace(study, pictures=nameless, extra=(), triplets=triplets).json()
    digest = hashlib.sha256(f"{record}{page}".encode())
    for picture in pictures:
        digest.update(hashlib.sha256(Path(picture.source).read_bytes()).digest())
    return digest.hexdigest()[:12]

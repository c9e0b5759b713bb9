"""Write a data set of simulated judgments on drawn scenes, in NIGHTS' layout; `scene_questions` defines the triplets.

    ref/000/017.png, distort/000/017_0.png, distort/000/017_1.png     triplet 17; either variation may be the left one
    data.csv           NIGHTS' columns; `prompt` is a caption of the reference
    factors.csv        `factor_distance` of both candidates, which factors changed, which one is held out
    scene_set.json     the settings

`left_vote` and `right_vote` are 0 and 1 for the winner, and `votes` is the number of people, who all agree, as in NIGHTS; or,
with `shares`, they are shares of `votes`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image as PILImage
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from dreamsim_guidance.data.scenes.drawing import draw
from dreamsim_guidance.data.scenes.scene import WEIGHTS
from dreamsim_guidance.data.scenes.scene_questions import HELD_OUT, PEOPLE, SceneSet, changed_factors
from dreamsim_guidance.files.atomic import writing
from dreamsim_guidance.files.cache import locked
from dreamsim_guidance.types import Image

__all__ = ["COLUMNS", "write_scene_set"]

COLUMNS = tuple(
    ["id", "left_vote", "right_vote", "votes", "ref_path", "left_path", "right_path", "split", "is_imagenet", "prompt"]
)
"""Columns of data.csv, in NIGHTS' order: the original reads them by position."""

_KNOWN = ("id", "held_out", "left_distance", "right_distance", "left_changed", "right_changed")
_SETTINGS, _TABLE = "scene_set.json", "data.csv"
_PART = ".part"
"""The end of unfinished files' names, for which no reader of pictures looks."""


def write_scene_set(
    folder: Path | str,
    triplets: int = 20_000,
    seed: int = 0,
    size: int = 64,
    workers: int = 1,
    held_out: Sequence[str] = HELD_OUT,
    shares: bool = False,
    temperature: float = 0.05,
) -> Path:
    """Draw a data set into `folder`, to be read by `read_nights`, and return the folder.

    The settings are those of `SceneSet`. `workers` processes draw; the files do not depend on their number. An interrupted set
    is continued, a complete one is left unchanged. 20,000 triplets are 60,000 pictures: 360 MB at 64 pixels, drawn in about
    three minutes by one processor. Programs that use more than one worker need `if __name__ == "__main__":` on systems that
    start processes afresh (macOS, Windows).

    Raises ValueError for impossible settings, and for a folder that holds something else or a set with other settings.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}.")
    settings = SceneSet(triplets, seed, size, tuple(held_out), shares, temperature)
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"'{folder}' is a file; give a folder.")
    with locked(folder / "scene_set"):
        _claim(folder, settings)
        for part in (*folder.glob(f".*{_PART}"), *folder.glob(f"*/*/.*{_PART}")):
            part.unlink()  # of a run that was killed
        places = [(split, number) for split, count in settings.counts().items() for number in range(count)]
        pictures = (folder / name for i in range(triplets) for name in _pictures(i))
        if (folder / _TABLE).is_file() and all(picture.is_file() for picture in pictures):
            return folder
        rows = list(_drawn(_Drawing(folder, settings, places), workers))
        _write_table(folder / "factors.csv", _KNOWN, (factors for _, factors in rows))
        _write_table(folder / _TABLE, COLUMNS, (row for row, _ in rows))
    return folder


class _Drawing(Dataset[tuple[dict[str, Any], dict[str, Any]]]):
    """Item i holds the table rows of triplet i; its pictures are drawn if they are missing."""

    def __init__(self, folder: Path, settings: SceneSet, places: Sequence[tuple[str, int]]) -> None:
        self.folder, self.settings, self.places = folder, settings, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: int) -> tuple[dict[str, Any], dict[str, Any]]:
        split, number = self.places[i]
        question = self.settings.question(split, number)
        triplet, names = question.triplet, _pictures(i)
        for scene, name in zip((triplet.reference, triplet.a, triplet.b), names, strict=True):
            if not (self.folder / name).is_file():
                _write_picture(draw(scene, self.settings.size), self.folder / name)
        a = (names[1], question.votes_a, triplet.distance_a, triplet.a)
        b = (names[2], question.people - question.votes_a, triplet.distance_b, triplet.b)
        left, right = (a, b) if question.a_is_left else (b, a)
        votes = (*(_share(side[1], question.people) for side in (left, right)), question.people)
        row = (i, *votes, names[0], left[0], right[0], split, False, question.prompt)
        changed = (" ".join(changed_factors(triplet.reference, side[3])) for side in (left, right))
        factors = (i, question.held_out or "", left[2], right[2], *changed)
        return dict(zip(COLUMNS, row, strict=True)), dict(zip(_KNOWN, factors, strict=True))


def _drawn(drawing: _Drawing, workers: int) -> Iterable[tuple[dict[str, Any], dict[str, Any]]]:
    generator = torch.Generator()  # otherwise the loader would consume the caller's random numbers
    loader = DataLoader(drawing, 16, num_workers=workers if workers > 1 else 0, collate_fn=list, generator=generator)
    with tqdm(total=len(drawing), desc="drawing triplets", unit="triplet", mininterval=1.0) as bar:
        for batch in loader:
            yield from batch
            bar.update(len(batch))


def _claim(folder: Path, settings: SceneSet) -> None:
    """Write the settings into an empty folder, or compare them with those in the folder."""
    # The weights belong to the settings: with other weights, the same seed would give other votes.
    required = {"format": 1, **asdict(settings), "people": PEOPLE, "weights": dict(WEIGHTS)}
    required = json.loads(json.dumps(required))
    file = folder / _SETTINGS
    if not file.is_file():
        if other_files := sorted(
            p.name for p in folder.iterdir() if not p.name.startswith(("scene_set.", ".scene_set-"))
        ):
            raise ValueError(
                f"'{folder}' holds something other than a scene set ('{other_files[0]}'); give an empty folder."
            )
        with writing(file, _PART) as part:
            part.write_text(json.dumps(required, indent=2) + "\n", encoding="utf-8")
        return
    try:
        present = dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"'{file}' does not hold the settings of a scene set ({error}); give an empty folder."
        ) from error
    if differing := [name for name in {**required, **present} if present.get(name) != required.get(name)]:
        name = differing[0]
        raise ValueError(
            f"'{folder}' holds a set with {name} {present.get(name)!r}, not {required.get(name)!r}; give another folder, or "
            "the same settings to continue that set."
        )


def _pictures(i: int) -> tuple[str, str, str]:
    """The files of the reference, a and b, relative to the folder."""
    thousand, remainder = f"{i // 1000:03d}", f"{i % 1000:03d}"
    return (
        f"ref/{thousand}/{remainder}.png",
        f"distort/{thousand}/{remainder}_0.png",
        f"distort/{thousand}/{remainder}_1.png",
    )


def _share(votes: int, people: int) -> float | int:
    """The share of votes; 0 and 1 are integers, so that they are written as in NIGHTS."""
    return votes // people if votes in (0, people) else votes / people


def _write_picture(image: Image, file: Path) -> None:
    pixels = (image[0] * 255).round().byte().permute(1, 2, 0).numpy()
    file.parent.mkdir(parents=True, exist_ok=True)
    with writing(file, _PART) as part:
        PILImage.fromarray(pixels).save(part, format="PNG")


def _write_table(file: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    with writing(file, _PART) as part, part.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)

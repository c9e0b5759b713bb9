"""`dreamsim-guidance data ...`: download NIGHTS, draw scenes, check a set of judgments before a run depends on it.

A subcommand is a dataclass that is called to do its work, as in `cli`; add further ones to `DataCommand.command`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg, subcommand

if TYPE_CHECKING:
    from dreamsim_guidance.data.judgments import Judgments
    from dreamsim_guidance.data.ratings import Ratings
    from dreamsim_guidance.data.same_pairs import SamePairs

__all__ = ["DataCommand"]


@dataclass(frozen=True)
class Nights:
    """Download NIGHTS from its authors' server, chunk by chunk; the same command resumes an interrupted download.

    filtered: the 20,019 triplets of the paper, 58 GB. unfiltered: all 100,000, 289 GB. jnd: votes on just noticeable
    differences between pictures of NIGHTS, 0.2 MB.
    """

    to: Path
    """Folder of the data set."""
    set: Literal["filtered", "unfiltered", "jnd"] = "filtered"
    """Which of the three sets."""
    parts: str | None = None
    """Only these of the parts 0 to 99, such as 0-4,17; an unfiltered zip holds 25 of them. data.csv lists what is complete."""
    base_url: str | None = None
    """Another server with the same files."""

    def __call__(self) -> int:
        from dreamsim_guidance.data.nights_download import SERVER, download_nights

        parts = None if self.parts is None else _numbers(self.parts)
        table = download_nights(self.to, self.set, parts, self.base_url or SERVER)
        print(table)
        if table.with_stem(f"{table.stem}_all").is_file():
            print(
                f"{table.name} lists the triplets whose pictures are here; run again for further parts.",
                file=sys.stderr,
            )
        return 0


@dataclass(frozen=True)
class Check:
    """Read a set of judgments, decode all of its pictures, and print what it holds."""

    path: Positional[Path]
    """The folder of the set, or its csv file."""
    kind: str | None = None
    """nights, nights-unfiltered, nights-jnd, bapps, bapps-jnd, things, pieapp, tid2013, kadid10k, pipal, clic, folder."""
    split: str | None = None
    """Only this split, such as train, val or test; by default all rows."""
    least_votes: int | None = None
    """Leave out triplets with fewer votes; by default as the reader of the kind does."""
    workers: int | None = None
    """Threads that decode pictures; by default one per processor, at most 8."""

    def __call__(self) -> int:
        from dreamsim_guidance.data.pictures import check_pictures
        from dreamsim_guidance.data.readers.sets import read_judgments, recognise

        if self.workers is not None and self.workers < 1:
            raise ValueError(f"--workers must be at least 1, got {self.workers}.")
        kind = self.kind or recognise(self.path)
        judgments = read_judgments(self.path, kind, self.split, self.least_votes)
        check_pictures(judgments.images, self.workers)
        print(f"kind        {kind}")
        for name, text in _summary(judgments):
            print(f"{name:10}  {text}")
        return 0


@dataclass(frozen=True)
class Scenes:
    """Draw triplets of scenes with simulated votes, in NIGHTS' layout; the same command continues an interrupted set.

    Splits: train, val, test (other scenes), and test_held_out (other scenes, whose candidates differ in a factor that never
    varies in the other splits). The same seed gives the same files.
    """

    to: Path
    """Folder of the data set."""
    triplets: int = 20_000
    """Number of triplets in all splits: seven tenths for training, one tenth for each other split."""
    seed: int = 0
    """Of the scenes and the votes."""
    size: int = 64
    """Side of the pictures in pixels."""
    held_out: tuple[str, ...] = ("layout", "style")
    """Held-out factors, of shape, colour, count, layout, rotation, scale, perspective, background, texture, style."""
    shares: bool = False
    """Keep all triplets, with shares of votes; by default only those on which everyone agrees, with winners, as in NIGHTS."""
    temperature: float = 0.05
    """Noise of the votes: of two distances that differ by this much, 73 of 100 people find the smaller one."""
    workers: int | None = None
    """Processes that draw; by default one per processor."""

    def __call__(self) -> int:
        import os

        from dreamsim_guidance.data.scenes.scene_set import write_scene_set

        workers = (os.cpu_count() or 1) if self.workers is None else self.workers
        drawing = (self.triplets, self.seed, self.size, workers)
        print(write_scene_set(self.to, *drawing, self.held_out, self.shares, self.temperature) / "data.csv")
        return 0


@dataclass(frozen=True)
class DataCommand:
    """Sets of human judgments: download NIGHTS, draw scenes with simulated votes, check a set on disk."""

    command: Annotated[
        Annotated[Nights, subcommand("nights")]
        | Annotated[Scenes, subcommand("scenes")]
        | Annotated[Check, subcommand("check")],
        arg(name=""),
    ]

    def __call__(self) -> int:
        return self.command()


def _numbers(text: str) -> set[int]:
    """The numbers that a text such as 0-4,17 stands for."""
    numbers: set[int] = set()
    for piece in text.split(","):
        first, _, last = (word.strip() for word in piece.partition("-"))
        if not first.isdecimal() or not (last or first).isdecimal() or int(last or first) < int(first):
            raise ValueError(f"--parts needs numbers and ranges such as 0-4,17, got '{text}'.")
        numbers.update(range(int(first), int(last or first) + 1))
    return numbers


def _summary(judgments: Judgments | SamePairs | Ratings) -> list[tuple[str, str]]:
    """What a set holds, as pairs of a name and a text."""
    from collections import Counter

    import numpy as np

    from dreamsim_guidance.data.judgments import Judgments
    from dreamsim_guidance.data.ratings import Ratings
    from dreamsim_guidance.data.same_pairs import SamePairs
    from dreamsim_guidance.files.names import printable

    rows: list[tuple[str, str]] = []
    if isinstance(judgments, Judgments):
        votes = judgments.votes_a + judgments.votes_b
        rows.append(
            (
                "triplets",
                f"{len(judgments)}, {int((judgments.votes_a == judgments.votes_b).sum())} of them with equal votes",
            )
        )
    elif isinstance(judgments, SamePairs):
        votes = judgments.votes
        rows.append(
            ("pairs", f"{len(judgments)}, taken for the same by {judgments.share_same.mean():.1%} of people on average")
        )
    else:
        votes = np.ones(0)
        rows.append(
            (
                "scores",
                f"{len(judgments)}, from {judgments.score.min():g} to {judgments.score.max():g}, higher is better",
            )
        )
        rows.append(("triplets", f"{len(judgments.judgments())}, the pairs of distorted pictures of one reference"))
    if isinstance(judgments, Judgments | Ratings):
        rows.append(("references", str(len(np.unique(judgments.reference)))))
    rows.append(("pictures", str(len(judgments.images))))
    if len(votes):
        rows.append(
            ("votes", f"{votes.sum():g}; for each {votes.min():g} to {votes.max():g}, {votes.mean():.2f} on average")
        )
    for name, words in (("groups", judgments.group), ("splits", judgments.split)):
        counts = sorted(Counter(words).items())
        rows.append((name, ", ".join(f"{printable(word) or 'none'} {count}" for word, count in counts)))
    return rows

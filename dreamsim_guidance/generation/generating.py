"""Carry out a plan: sample its pictures, screen its triplets, and write them in NIGHTS' layout.

    plan.json          the plan, with the categories of its files; another plan is refused in the same folder
    ref/, distort/     the pictures, see `data.triplet_folder`
    pictures.jsonl     the record of each picture, see `generation.records`
    data.csv           the triplets that passed the screening, nobody has judged them yet
    screening.json     what was dropped and why, and the distances of each way
    index.html         an overview for the browser; sheet.png, a part of it as one picture

A batch is the unit of work: its pictures are sampled in one call, and if one of them is missing all are sampled again. So a
run that was interrupted ends with the same files as one that was not, on the same machine and with the same number of threads.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from dreamsim_guidance.files.atomic import write_json
from dreamsim_guidance.files.checksums import sha256
from dreamsim_guidance.generation import named_models
from dreamsim_guidance.generation.folder import begun, check_folder
from dreamsim_guidance.generation.overview import write_overview
from dreamsim_guidance.generation.plan import Plan, PlannedModel, PlannedTriplet
from dreamsim_guidance.generation.records import Records
from dreamsim_guidance.generation.screening import Screening, screen
from dreamsim_guidance.generation.variations import Drawn, Source
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.preprocess import load_image, save_image
from dreamsim_guidance.processes import default_device

__all__ = ["Generated", "generate"]


@dataclass(frozen=True)
class Generated:
    """The result of `generate`.

    pictures, sampled: number of pictures of the plan, and of those that this call sampled in `seconds`.
    screening: which triplets were kept.
    """

    folder: Path
    pictures: int
    sampled: int
    seconds: float
    screening: Screening


@dataclass(frozen=True)
class _Batch:
    """Pictures of one call: the references of some triplets (slot 0), or one variation of each (slots 1 and 2)."""

    triplets: tuple[PlannedTriplet, ...]
    slot: int

    @property
    def files(self) -> list[str]:
        return [triplet.files[self.slot] for triplet in self.triplets]


def generate(plan: Plan, to: Path | str, device: str | None = None, progress: bool = True) -> Generated:
    """Make the pictures and triplets of a plan in a folder, and resume what is there already.

    plan: see `read_plan`.
    to: a folder that is new, empty, or of the same plan; its screening and splits may differ, and are then made anew.
    device: by default an accelerator if there is one.
    progress: whether to show pictures, pictures per second and the time that is left, on stderr.

    Raises ValueError for a folder of another plan and for a model or metric that is unknown or cannot make what the plan asks
    for, FileNotFoundError and OSError where a model is not available, all before anything is written; BlockingIOError while
    another process generates into the folder.
    """
    folder = Path(to)
    run = _Run(plan, folder, device or default_device())
    check_folder(folder, plan)
    run.check()
    with begun(folder, plan):
        records = Records(folder, (file for batch in run.batches() for file in batch.files))
        before, start = len(records), time.perf_counter()
        run.sample_missing(records, progress)
        seconds = time.perf_counter() - start
        screening = screen(plan, folder, records.of_file, run.metric, progress)
        write_json(folder / "screening.json", screening.report())
        write_overview(folder, plan, screening)
    return Generated(folder, len(records), len(records) - before, seconds, screening)


class _Run:
    """What a run needs while it samples: the models and the metric, each loaded when it is first used."""

    def __init__(self, plan: Plan, folder: Path, device: str) -> None:
        self.plan, self.folder, self.device = plan, folder, device
        self._sources: dict[int, Source] = {}

    @cached_property
    def metric(self) -> DreamSim:
        return DreamSim(self.plan.metric, device=self.device)

    @cached_property
    def versions(self) -> str:
        names = ("dreamsim-guidance", "diffusers", "torch")
        return ", ".join([*(f"{name} {version(name)}" for name in names), f"python {platform.python_version()}"])

    def source(self, place: int) -> Source:
        if place not in self._sources:
            self._sources.clear()  # one large model at a time
            self._sources[place] = Source(self.plan.models[place], self.device)
        return self._sources[place]

    def check(self) -> None:
        """Raise the errors of models, ways, prompts and metric that can be found before the work."""
        for planned in self.plan.models:
            check_model(planned, self.plan)
        for place in range(len(self.plan.models)):
            for way in self.plan.ways:
                self.source(place).check(way)
        _ = self.metric

    def batches(self) -> Iterator[_Batch]:
        def kind(triplet: PlannedTriplet) -> tuple[int, int, tuple[float, float]]:
            return triplet.model, triplet.way, triplet.amounts

        for (place, _, _), group in groupby(self.plan.triplets(), kind):
            triplets = list(group)
            planned = self.plan.models[place]
            size = planned.batch or named_models.find(planned.model, "words").batch
            for first in range(0, len(triplets), size):
                for slot in range(3):
                    yield _Batch(tuple(triplets[first : first + size]), slot)

    def sample_missing(self, records: Records, progress: bool) -> None:
        """Sample every batch of which a picture is missing."""
        pictures = 3 * len(self.plan)
        with tqdm(total=pictures, initial=len(records), unit="image", desc="sampling", disable=not progress) as bar:
            for batch in self.batches():
                if missing := [i for i, file in enumerate(batch.files) if file not in records]:
                    self.sample(batch, missing, records)
                    bar.update(len(missing))

    def sample(self, batch: _Batch, missing: list[int], records: Records) -> None:
        """Sample a batch, and write the pictures that are missing with their records."""
        first = batch.triplets[0]
        source, way = self.source(first.model), self.plan.ways[first.way]
        prompts, seeds = [t.prompt for t in batch.triplets], [t.seeds[batch.slot] for t in batch.triplets]
        if batch.slot == 0:
            drawn = source.references(prompts, seeds)
        else:
            drawn = source.variations(
                way,
                first.amounts[batch.slot - 1],
                prompts,
                lambda: torch.cat([load_image(self.folder / t.files[0]) for t in batch.triplets]),
                [t.seeds[0] for t in batch.triplets],
                seeds,
                lambda: self.metric,
            )
        for i in missing:
            save_image(drawn.images[i], self.folder / batch.files[i])
        records.add(self._record(batch, source, drawn, i) for i in missing)

    def _record(self, batch: _Batch, source: Source, drawn: Drawn, i: int) -> dict[str, Any]:
        triplet, file, planned = batch.triplets[i], batch.files[i], source.planned
        flagged = drawn.flagged[i]
        return {
            "file": file,
            "triplet": triplet.number,
            "shows": "reference" if batch.slot == 0 else f"variation {batch.slot - 1}",
            "prompt": triplet.prompt,
            "negative_prompt": planned.negative_prompt,
            "category": triplet.category,
            "model": source.model.source,
            "way": self.plan.ways[triplet.way].way if batch.slot else "reference",
            "amount": triplet.amounts[batch.slot - 1] if batch.slot else None,
            "seed": triplet.seeds[batch.slot],
            **source.settings,
            "size": [int(side) for side in drawn.images.shape[-2:]],
            **({} if drawn.reached is None else {"reached": drawn.reached[i]}),
            **({} if drawn.strength is None else {"strength": drawn.strength[i]}),
            **({} if drawn.attempts is None else {"attempts": drawn.attempts[i]}),
            "safety": "none" if flagged is None else "flagged" if flagged else "passed",
            "licence": planned.licence or source.model.licence or "not stated",
            "licence_source": planned.licence_source or licence_source(source.model),
            "sha256": sha256(self.folder / file),
            "versions": self.versions,
        }


def licence_source(model: named_models.Model) -> str:
    """Where the licence of a model is stated."""
    if model.pocket:
        return "the licence of dreamsim-guidance"
    return f"https://huggingface.co/{model.source}" if model.licence else "not stated"


def check_model(planned: PlannedModel, plan: Plan) -> None:
    """Raise ValueError or FileNotFoundError for a model that is unknown, unavailable, or does not read the plan's prompts."""
    model = named_models.find(planned.model, "words")
    if model.source == "pocket-pixels":
        raise ValueError("'pocket-pixels' takes no prompt; choose 'pocket', the pocket model that does.")
    if not model.pocket:
        named_models.check_reachable(model.source)
        return
    from dreamsim_guidance.data.scenes.captions import vocabulary

    for prompt in dict.fromkeys(triplet.prompt for triplet in plan.triplets()):
        if unknown := [word for word in prompt.lower().replace(",", " ").split() if word not in vocabulary()]:
            raise ValueError(
                f"the pocket model does not know the word '{unknown[0]}' of the prompt '{prompt}'; it was trained on captions "
                "of drawn scenes, such as 'two large red stars in a row, on a blue background'."
            )

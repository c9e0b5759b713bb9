"""The sets of judgments of a tuning run: their triplets, pictures, features, and embeddings before tuning."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from dreamsim_guidance.data.judgments import Judgments
from dreamsim_guidance.data.pictures import Pictures, load_pictures
from dreamsim_guidance.data.ratings import Ratings
from dreamsim_guidance.data.readers.sets import read_judgments
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.processes import process_state
from dreamsim_guidance.training.accelerate_state import own_accelerate_state
from dreamsim_guidance.training.triplet_batches import TripletSet
from dreamsim_guidance.training.tuning import Tuning

__all__ = ["InMemory", "digest", "hold_out", "read_sets", "set_names", "triplet_sets"]


def read_sets(config: Tuning) -> tuple[list[Judgments], list[Judgments]]:
    """Read the triplets for training and for validation of every set of `config.data`.

    Raises ValueError for a set of pairs, and for one that is too small to hold pictures out; errors of `read_judgments`.
    """
    training = [_read(config, place, config.train_split) for place in config.sets]
    if config.hold_out is None:
        return training, [_read(config, place, config.val_split) for place in config.sets]
    divided = [hold_out(judgments, config.hold_out, config.seed) for judgments in training]
    for place, (rest, held) in zip(config.sets, divided, strict=True):
        if not (len(rest) and len(held)):
            raise ValueError(
                f"with hold_out={config.hold_out}, '{place}' has {len(rest)} triplets for training and {len(held)} for "
                "validation; choose another share, or validate on a split, hold_out=None."
            )
    return [rest for rest, _ in divided], [held for _, held in divided]


def hold_out(judgments: Judgments, share: float, seed: int) -> tuple[Judgments, Judgments]:
    """Divide triplets by their pictures: those without any picture of a random `share` of them, and those with no other.

    Triplets with pictures of both kinds are left out, so that the two parts have no picture in common.
    """
    count = len(judgments.images)
    held = np.random.default_rng([seed, count]).permutation(count) < round(share * count)
    of_triplets = held[np.stack([judgments.reference, judgments.a, judgments.b])]
    return judgments.select(~of_triplets.any(0)), judgments.select(of_triplets.all(0))


def set_names(places: Sequence[Path]) -> list[str]:
    """A name for each set: the last part of its path, or the whole path where that would be ambiguous."""
    short = [place.name for place in places]
    return [str(place) if short.count(name) > 1 else name for place, name in zip(places, short, strict=True)]


def triplet_sets(config: Tuning, judgments: Sequence[Judgments], metric: DreamSim, training: bool) -> list[TripletSet]:
    """The sets with their pictures, and for `training` with the embeddings before tuning, if they are kept near to them.

    Pictures have the size of the largest branch. They are decoded once if all fit into memory, and embedded once if a head
    alone is trained on them.
    """
    size = max(branch.image_size for branch in metric.ensemble.configs)
    pictures = sum(len(judged.images) for judged in judgments)
    fit = pictures * 3 * size * size <= config.memory * 1e9
    shares = config.shares or (1.0,) * len(judgments)
    sets = []
    for name, judged, share in zip(set_names(config.sets), judgments, shares, strict=True):
        files = Pictures(judged.images, size, config.reading)
        before = None
        if training and config.regularisation:
            # a head that is trained is fresh, and no part of the metric before tuning; one that was there before is
            fresh_head = config.head is not None
            before = _embeddings(metric, files, config.loop.workers, lambda x: metric.directions(x), fresh_head)
        sets.append(TripletSet(judged, _pictures(config, files, metric, fit), name, share / sum(shares), before))
    return sets


def digest(judgments: Judgments) -> str:
    """A short hash of triplets, votes and file names."""
    result = hashlib.sha256(" ".join(path.name for path in judgments.images).encode())
    for column in (judgments.reference, judgments.a, judgments.b, judgments.votes_a, judgments.votes_b):
        result.update(column.tobytes())
    return result.hexdigest()[:12]


class InMemory(Dataset[Tensor]):
    """A data set of the rows of a tensor: pictures or their features."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Tensor:
        return self.values[index]


def _read(config: Tuning, place: Path, split: str) -> Judgments:
    judgments = read_judgments(place, config.kind, split, config.least_votes)
    if isinstance(judgments, Ratings):
        judgments = judgments.judgments()
    if not isinstance(judgments, Judgments):
        raise ValueError(f"'{place}' holds pairs, not triplets; training needs a reference with two candidates.")
    return judgments


def _pictures(config: Tuning, files: Pictures, metric: DreamSim, fit: bool) -> Dataset[Tensor]:
    unchanged = config.augmentation is None and config.adversarial is None
    head_alone = config.head is not None and config.lora is None and not config.all_weights and unchanged
    if head_alone and not metric.ensemble.has_patches:
        return InMemory(_embeddings(metric, files, config.loop.workers, lambda x: metric.ensemble(x), True))
    if not fit:
        return files
    workers = config.loop.workers if len(files) > 512 else 0
    batches = load_pictures(files.paths, files.size, workers, reading=files.reading)
    return InMemory(torch.cat(list(tqdm(batches, desc="reading pictures", unit="batch", disable=len(files) <= 512))))


@torch.no_grad()
def _embeddings(
    metric: DreamSim, files: Pictures, workers: int, embed: Callable[[Tensor], Tensor], without_head: bool
) -> Tensor:
    """`embed` of all pictures, `(n, d)` in float32 on the CPU, by the metric before the first step: a fresh adapter changes
    nothing yet.
    """
    head = metric.ensemble.head
    if without_head:
        metric.ensemble.head = None
    try:
        with own_accelerate_state():
            state = process_state()
            metric.to(state.device)
            parts = []
            ahead = workers if len(files) > 512 else 0
            batches = load_pictures(files.paths, files.size, ahead, batch=32, reading=files.reading)
            for batch in tqdm(batches, desc="features", total=-(-len(files) // 32), disable=not state.is_main_process):
                parts.append(embed(batch.to(state.device, metric.dtype) / 255).float().cpu())
    finally:
        metric.ensemble.head = head
    return torch.cat(parts)

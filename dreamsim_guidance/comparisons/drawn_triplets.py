"""Drawn triplets with known distances, as simulated people see them, and their embeddings by a frozen metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from dreamsim_guidance.data.scenes.scene import FACTORS, Scene, factor_distance, factor_distances
from dreamsim_guidance.data.scenes.triplets import SceneTriplet, draw_triplets, sample_triplets
from dreamsim_guidance.files.atomic import write_tensors, writing
from dreamsim_guidance.metric.dreamsim import DreamSim

__all__ = ["embedded_triplets", "left_chance", "seen_distances"]

Vector = NDArray[np.float64]

_FIRST = 4_000_000
"""Triplets from this number on took part in no training of the pocket models."""
_SIZE = 64
_BATCH = 64


def seen_distances(triplets: Sequence[SceneTriplet], person: str, others: float) -> tuple[Vector, Vector]:
    """Return the distances of `a` and `b` to the references, `(n,)` each, as a simulated person sees them.

    person: a factor, which counts once, while the mean over all factors counts `others` times; or "all", the weighted mean of
        all factors alone.
    """
    distance = _distance(person, others)
    pairs = [(distance(t.reference, t.a), distance(t.reference, t.b)) for t in triplets]
    a, b = np.array(pairs, dtype=np.float64).T
    return a, b


def _distance(person: str, others: float) -> Callable[[Scene, Scene], float]:
    if person == "all":
        return factor_distance
    if person not in FACTORS:
        raise ValueError(f"unknown factor '{person}'; known: all, {', '.join(FACTORS)}.")

    def distance(x: Scene, y: Scene) -> float:
        factors = factor_distances(x, y)
        return factors[person] + others * sum(factors.values()) / len(factors)

    return distance


def left_chance(a: Vector, b: Vector, temperature: float, lapse: float) -> Vector:
    """Return the probability that a person finds `a` nearer than `b`, for distances `(n,)`:

    P = lapse / 2 + (1 - lapse) / (1 + exp((d_a - d_b) / temperature))
    """
    return lapse / 2 + (1 - lapse) * 0.5 * (1 + np.tanh(0.5 * (b - a) / temperature))


def embedded_triplets(
    count: int, first: int, metric: str, folder: Path | None, device: str | None = None
) -> tuple[list[SceneTriplet], NDArray[np.float32]]:
    """Return drawn triplets and the unit vectors `(count, 3, d)` of the reference, of `a` and of `b`.

    first: number of the first triplet among those that took part in no training.
    folder: where the embeddings are kept, so that a run that was interrupted goes on; None keeps nothing.
    """
    triplets = sample_triplets(count, "test", _FIRST + first, margin=0.0)
    file = None if folder is None else folder / f"embeddings_{first}_{count}.safetensors"
    if file is not None and file.is_file():
        return triplets, load_file(file)["embeddings"].numpy()
    model = DreamSim(metric, device=device) if device else DreamSim(metric)
    parts = []
    for i in range(0, count, _BATCH):
        batch = draw_triplets(triplets[i : i + _BATCH], _SIZE)
        with torch.no_grad():
            embedded = model.directions(torch.cat(batch).to(model.device)).float().cpu()
        parts.append(embedded.reshape(3, -1, *embedded.shape[1:]).transpose(0, 1).flatten(2))
    embeddings = torch.cat(parts)
    if file is not None:
        with writing(file) as temporary:
            write_tensors({"embeddings": embeddings.contiguous()}, temporary)
    return triplets, embeddings.numpy()

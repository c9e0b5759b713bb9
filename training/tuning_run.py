"""The work of a tuning run: read judgments and pictures, build the metric, train it, write the best weights."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from dreamsim_guidance.data.judgments import Judgments
from dreamsim_guidance.data.pictures import Pictures, check_pictures, load_pictures
from dreamsim_guidance.data.ratings import Ratings
from dreamsim_guidance.data.readers.sets import read_judgments
from dreamsim_guidance.metric import adapters
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.processes import agreed, is_main, process_state
from dreamsim_guidance.training.accelerate_state import own_accelerate_state
from dreamsim_guidance.training.adversarial_loss import AdversarialLoss
from dreamsim_guidance.training.base_models import base_metric
from dreamsim_guidance.training.checkpoints import read_checkpoint
from dreamsim_guidance.training.metric_with_loss import MetricWithLoss
from dreamsim_guidance.training.trainer import train
from dreamsim_guidance.training.tuning import Tuning
from dreamsim_guidance.training.vote_losses import VoteLoss

log = logging.getLogger(__name__)

__all__ = ["run_tuning", "untrained_metric"]


def run_tuning(config: Tuning, folder: Path) -> dict[str, Any]:
    """Carry out `Tuning.run`."""
    training, validation = (_read(config, split) for split in (config.train_split, config.val_split))
    torch.manual_seed(config.seed)
    metric = config.metric()
    pictures = [*training.images, *validation.images]
    agreed(lambda: check_pictures(pictures, reading=config.reading) if is_main() else 0)
    trained = sum(p.numel() for p in metric.parameters() if p.requires_grad)
    log.info("%d of %d numbers are trained", trained, sum(p.numel() for p in metric.parameters()))
    adversary = None if config.adversarial is None else AdversarialLoss(config.adversarial, metric)
    model = MetricWithLoss(metric, VoteLoss(config.loss), config.augmentation, adversary)
    results = train(
        model,
        config.loop,
        (training, _pictures(config, training, metric)),
        (validation, _pictures(config, validation, metric)),
        folder,
        config.seed,
        _made_for(config, training, validation),
    )
    if is_main():
        _export(config, folder, results)
    return results


def untrained_metric(config: Tuning) -> DreamSim:
    """Carry out `Tuning.metric`."""
    metric = base_metric(config.scratch or config.model, config.weights, config.pretrained, config.normalize_embeds)
    if config.lora is not None:
        adapters.attach_adapter(
            metric.ensemble, config.lora.rank, config.lora.alpha, config.lora.dropout, config.lora.targets
        )
    if config.head is not None:
        metric.attach_head(config.head)
    if config.all_weights:
        metric.requires_grad_(True)
    return metric


def _read(config: Tuning, split: str) -> Judgments:
    judgments = read_judgments(config.data, config.kind, split, config.least_votes)
    if isinstance(judgments, Ratings):
        judgments = judgments.judgments()
    if not isinstance(judgments, Judgments):
        raise ValueError(f"'{config.data}' holds pairs, not triplets; training needs a reference with two candidates.")
    return judgments


def _pictures(config: Tuning, judgments: Judgments, metric: DreamSim) -> Dataset[Tensor]:
    """Pictures at the largest branch's size.

    They are decoded once if they fit into memory, and embedded once if a head alone is trained on them.
    """
    size = max(branch.image_size for branch in metric.ensemble.configs)
    files = Pictures(judgments.images, size, config.reading)
    changed = config.augmentation is not None or config.adversarial is not None
    head_alone = config.head is not None and config.lora is None and not config.all_weights and not changed
    if head_alone and not metric.ensemble.has_patches:
        return InMemory(features(metric, files, config.loop.workers))
    if len(files) * 3 * size * size > config.memory * 1e9:
        return files
    workers = config.loop.workers if len(files) > 512 else 0
    batches = load_pictures(judgments.images, size, workers, reading=config.reading)
    return InMemory(torch.cat(list(tqdm(batches, desc="reading pictures", unit="batch", disable=len(files) <= 512))))


def _made_for(config: Tuning, *sets: Judgments) -> str:
    """Identify all that decides the outcome besides the loop, so that a checkpoint of another run is refused."""
    model = (
        config.model,
        config.scratch,
        config.weights,
        config.pretrained,
        config.lora,
        config.head,
        config.all_weights,
    )
    reading = "" if config.reading == "upright" else f" {config.reading}"  # older checkpoints do not name the reading
    adversary = "" if config.adversarial is None else f" {config.adversarial}"  # nor do they name an adversary
    return (
        f"{model} {config.loss} {config.normalize_embeds} {config.augmentation} {[_digest(s) for s in sets]}{reading}"
        f"{adversary}"
    )


def _export(config: Tuning, folder: Path, results: dict[str, Any]) -> None:
    """Write the best weights, from a fresh model: the trained one may be cast, compiled or spread over machines."""
    torch.manual_seed(config.seed)
    model = MetricWithLoss(config.metric(), VoteLoss(config.loss)).eval()
    best = read_checkpoint(folder / "checkpoints" / "best.pt")
    if unknown := model.load_state_dict(best["weights"], strict=False).unexpected_keys:
        raise ValueError(f"best.pt holds '{unknown[0]}', which the model lacks; give an empty folder.")
    results["temperature"] = model.vote_loss.temperature
    metric = model.metric.requires_grad_(False)
    if config.lora is not None:
        metric.save_adapter(folder / "adapter")
    if config.save_model:
        start = "random weights" if config.scratch or not config.pretrained else config.model
        source = f"{start}, tuned by dreamsim_guidance on '{config.data.name}'"
        reference = {name: value for name, value in results.items() if value is not None}
        metric.save(folder / "model.safetensors", source=source, licence="unknown", reference=reference)


class InMemory(Dataset[Tensor]):
    """A data set of the rows of a tensor: pictures or their features."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Tensor:
        return self.values[index]


@torch.no_grad()
def features(metric: DreamSim, pictures: Pictures, workers: int) -> Tensor:
    """Features `(n, d)` below the head, in float32 on the CPU. They never change while the head alone is trained."""
    head = metric.ensemble.head
    metric.ensemble.head = None
    try:
        with own_accelerate_state():
            state = process_state()
            metric.to(state.device)
            parts = []
            ahead = workers if len(pictures) > 512 else 0
            batches = load_pictures(pictures.paths, pictures.size, ahead, batch=32, reading=pictures.reading)
            for batch in tqdm(
                batches, desc="features", total=-(-len(pictures) // 32), disable=not state.is_main_process
            ):
                parts.append(metric.ensemble(batch.to(state.device, metric.dtype) / 255).float().cpu())
    finally:
        metric.ensemble.head = head
    return torch.cat(parts)


def _digest(judgments: Judgments) -> str:
    """A short hash of triplets, votes and file names."""
    digest = hashlib.sha256(" ".join(path.name for path in judgments.images).encode())
    for column in (judgments.reference, judgments.a, judgments.b, judgments.votes_a, judgments.votes_b):
        digest.update(column.tobytes())
    return digest.hexdigest()[:12]

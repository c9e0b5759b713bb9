"""The work of a tuning run: read judgments and pictures, build the metric, train it, write the best weights."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from dreamsim_guidance.data.judgments import Judgments
from dreamsim_guidance.data.pictures import check_pictures
from dreamsim_guidance.metric import adapters
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.processes import agreed, alone, is_main, process_device
from dreamsim_guidance.sensitivity import Analysis, sensitivity
from dreamsim_guidance.training.adversarial_loss import AdversarialLoss
from dreamsim_guidance.training.base_models import base_metric
from dreamsim_guidance.training.checkpoints import read_checkpoint
from dreamsim_guidance.training.metric_with_loss import MetricWithLoss
from dreamsim_guidance.training.trainer import train
from dreamsim_guidance.training.tuning import Tuning
from dreamsim_guidance.training.tuning_sets import digest, read_sets, set_names, triplet_sets
from dreamsim_guidance.training.vote_losses import VoteLoss

log = logging.getLogger(__name__)

__all__ = ["run_tuning", "untrained_metric"]


def run_tuning(config: Tuning, folder: Path) -> dict[str, Any]:
    """Carry out `Tuning.run`."""
    training, validation = read_sets(config)
    torch.manual_seed(config.seed)
    metric = config.metric()
    pictures = [file for judgments in (*training, *validation) for file in judgments.images]
    agreed(lambda: check_pictures(pictures, reading=config.reading) if is_main() else 0)
    trained = sum(p.numel() for p in metric.parameters() if p.requires_grad)
    log.info("%d of %d numbers are trained", trained, sum(p.numel() for p in metric.parameters()))
    adversary = None if config.adversarial is None else AdversarialLoss(config.adversarial, metric)
    loss = VoteLoss(config.loss, len(config.sets))
    model = MetricWithLoss(metric, loss, config.augmentation, adversary, config.regularisation)
    results = train(
        model,
        config.loop,
        triplet_sets(config, training, metric, training=True),
        triplet_sets(config, validation, metric, training=False),
        folder,
        config.seed,
        _made_for(config, *training, *validation),
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
        metric.attach_head(config.head, config.head_start == "identity").dropout = config.feature_dropout
    if config.all_weights:
        metric.requires_grad_(True)
    return metric


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
    text = f"{model} {config.loss} {config.normalize_embeds} {config.augmentation} {[digest(s) for s in sets]}"
    text = text.replace(", learned=False", "")
    # older checkpoints do not name what is at its default here
    further = (
        (config.reading, "upright"),
        (config.adversarial, None),
        (config.head_start, "random"),
        (config.shares, None),
        (config.regularisation, 0),
        (config.feature_dropout, 0),
    )
    return text + "".join(f" {value}" for value, default in further if value != default)


def _export(config: Tuning, folder: Path, results: dict[str, Any]) -> None:
    """Write the best weights, from a fresh model: the trained one may be cast, compiled or spread over machines."""
    torch.manual_seed(config.seed)
    model = MetricWithLoss(config.metric(), VoteLoss(config.loss, len(config.sets))).eval()
    best = read_checkpoint(folder / "checkpoints" / "best.pt")
    if unknown := model.load_state_dict(best["weights"], strict=False).unexpected_keys:
        raise ValueError(f"best.pt holds '{unknown[0]}', which the model lacks; give an empty folder.")
    temperature, names = model.vote_loss.temperature, set_names(config.sets)
    results["temperature"] = (
        dict(zip(names, temperature, strict=True)) if isinstance(temperature, tuple) else temperature
    )
    metric = model.metric.requires_grad_(False)
    if config.lora is not None:
        metric.save_adapter(folder / "adapter")
    if config.save_model:
        start = "random weights" if config.scratch or not config.pretrained else config.model
        source = f"{start}, tuned by dreamsim_guidance on {', '.join(map(repr, names))}"
        reference = {name: value for name, value in results.items() if value is not None}
        metric.save(folder / "model.safetensors", source=source, licence="unknown", reference=reference)
    if config.sensitivity:
        _write_profiles(config, metric, folder / "sensitivity")


def _write_profiles(config: Tuning, tuned: DreamSim, folder: Path) -> None:
    """Compare how far single factors of scenes move the metric before and after tuning, in this process alone."""
    torch.manual_seed(config.seed)  # for models that start from random weights
    start = base_metric(config.scratch or config.model, config.weights, config.pretrained, config.normalize_embeds)
    with alone():
        device = process_device()
        metrics = {"before": start.to(device), "after": tuned.to(device)}
        sensitivity(metrics, Analysis(parts=("factors",)), folder, progress=False)

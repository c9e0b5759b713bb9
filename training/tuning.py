"""Tuning a metric on human judgments: adapters, a head, or all weights.

    minimise  mean over triplets of  loss(d(reference, a), d(reference, b), votes)

on any number of processes through accelerate. A step is decided by the seed and its number (batch, dropout, augmentation),
so a killed run goes on from its last checkpoint to the same parameters, and the number of processes and pieces changes
nothing but rounding (as long as dropout and augmentation are off: each process draws its own).

Fu et al., DreamSim: Learning New Dimensions of Human Visual Similarity using Synthetic Data, NeurIPS 2023, section 4.2.
"""

from __future__ import annotations

import hashlib
import logging
import math
from dataclasses import dataclass, field
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
from dreamsim_guidance.training.augmentation import Augmentation
from dreamsim_guidance.training.base_models import Scratch, base_metric
from dreamsim_guidance.training.checkpoint import read_checkpoint
from dreamsim_guidance.training.comparison import Comparison
from dreamsim_guidance.training.loop import Loop
from dreamsim_guidance.training.trainer import train
from dreamsim_guidance.training.vote_losses import VoteLoss, VoteLossConfig

log = logging.getLogger(__name__)

__all__ = ["LoRA", "Tuning"]


@dataclass(frozen=True)
class LoRA:
    """A low-rank adapter on the named linear layers of every block; the original's settings of the ensemble."""

    rank: int = 16
    alpha: float = 8.0
    dropout: float = 0.3
    targets: tuple[str, ...] = ("qkv",)
    """Last parts of the layers' names: qkv, attn.proj, fc1, fc2, ..."""

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 <= self.dropout < 1 or not math.isfinite(self.alpha):
            raise ValueError(
                "an adapter needs a rank of at least 1, a finite alpha, and a dropout from 0 to below 1, got "
                f"{self.rank}, {self.alpha}, {self.dropout}."
            )
        if isinstance(self.targets, str) or not self.targets:
            raise ValueError(f"targets are several names, e.g. ('qkv',), got {self.targets!r}.")


@dataclass(frozen=True)
class Tuning:
    """A whole tuning run; what it leaves in its folder is listed at `run`."""

    data: Path
    """Judgments: a folder in NIGHTS' layout, or any other that `data.sets.read_judgments` reads."""
    model: str
    """ensemble, dino_vitb16, ... (published base weights), pocket, modern, a model file (.safetensors) or a run's folder."""
    scratch: Scratch | None = None
    """A small model from nothing, instead of `model`."""
    weights: Path | None = None
    """Folder or zip of the published base weights, instead of the download cache."""
    pretrained: bool = True
    """False starts from random weights: a dry run where nothing can be downloaded."""
    lora: LoRA | None = field(default_factory=LoRA)
    head: int | None = None
    """Hidden width of a residual MLP on the features, the paper's other way of tuning."""
    all_weights: bool = False
    """Train everything, not an adapter or a head only."""
    loss: VoteLossConfig = field(default_factory=VoteLossConfig)
    loop: Loop = field(default_factory=Loop)
    normalize_embeds: bool = False
    """Centre the embedding. The original does so by default when it is used, but not when it is trained. The saved model
    and the figures are those of this setting; an adapter that is loaded elsewhere follows the other's."""
    augmentation: Augmentation | None = None
    kind: str | None = None
    """Format of `data`, one of `data.sets.KINDS`; by default what it looks like."""
    train_split: str = "train"
    val_split: str = "val"
    least_votes: int | None = None
    """Leave out triplets with fewer votes; by default 6 where votes are winners, as in NIGHTS."""
    memory: float = 1.0
    """Gigabytes that decoded pictures may take; sets that fit are decoded once, at the start."""
    save_model: bool = True
    """Write model.safetensors (a gigabyte for the ensemble), not the adapter alone."""
    seed: int = 1234

    def __post_init__(self) -> None:
        if not (self.lora or self.head or self.all_weights):
            raise ValueError("nothing would be trained; give lora, head or all_weights.")
        if self.scratch is not None and not self.all_weights:
            raise ValueError("a model from nothing must be trained as a whole; set all_weights=True.")
        if self.all_weights and self.lora is not None:
            raise ValueError("all_weights trains what an adapter would add to; set lora=None.")
        if self.pretrained is False and self.weights is not None:
            raise ValueError("weights are read with pretrained=True only; leave one of the two out.")
        if self.head is not None and self.head < 1:
            raise ValueError(f"head is a width of at least 1, got {self.head}.")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}.")
        if (Path(self.model) / "model.safetensors").is_file():
            object.__setattr__(self, "model", str(Path(self.model, "model.safetensors").absolute()))
        elif self.model.endswith(".safetensors"):  # the run can be resumed from anywhere
            object.__setattr__(self, "model", str(Path(self.model).absolute()))

    def run(self, folder: Path) -> dict[str, Any]:
        """Train what `folder` does not hold yet, and write

        adapter/           the adapter as a peft folder, which the original package loads too (with `lora`)
        model.safetensors  the whole metric, adapter folded, for `DreamSim(...)` and `dreamsim-guidance evaluate --metric`
        curves.png         loss, agreement and learning rate over the steps; the numbers are in history.json
        checkpoints/       the newest ones, and best.pt

        Returns the figures of the best weights on the validation split. Raises what `read_judgments` and
        `check_pictures` raise, before anything is trained.
        """
        training, validation = (self._read(split) for split in (self.train_split, self.val_split))
        torch.manual_seed(self.seed)
        metric = self.metric()
        pictures = [*training.images, *validation.images]
        agreed(lambda: check_pictures(pictures) if is_main() else 0)
        trained = sum(p.numel() for p in metric.parameters() if p.requires_grad)
        log.info("%d of %d numbers are trained", trained, sum(p.numel() for p in metric.parameters()))
        model = Comparison(metric, VoteLoss(self.loss), self.augmentation)
        results = train(
            model,
            self.loop,
            (training, self._pictures(training, metric)),
            (validation, self._pictures(validation, metric)),
            folder,
            self.seed,
            self._made_for(training, validation),
        )
        if is_main():
            self._export(folder, results)
        return results

    def metric(self) -> DreamSim:
        """What is trained, before the first step."""
        metric = base_metric(self.scratch or self.model, self.weights, self.pretrained, self.normalize_embeds)
        if self.lora is not None:
            adapters.attach_adapter(
                metric.ensemble, self.lora.rank, self.lora.alpha, self.lora.dropout, self.lora.targets
            )
        if self.head is not None:
            metric.attach_head(self.head)
        if self.all_weights:
            metric.requires_grad_(True)
        metric.fold_at_first_use = False
        return metric

    def _read(self, split: str) -> Judgments:
        found = read_judgments(self.data, self.kind, split, self.least_votes)
        if isinstance(found, Ratings):
            found = found.judgments()
        if not isinstance(found, Judgments):
            raise ValueError(
                f"'{self.data}' holds pairs, not triplets; training needs a reference with two candidates."
            )
        return found

    def _pictures(self, judgments: Judgments, metric: DreamSim) -> Dataset[Tensor]:
        """Pictures at the largest branch's size; decoded, or even turned into features, once if that fits and is enough."""
        size = max(config.image_size for config in metric.ensemble.configs)
        files = Pictures(judgments.images, size)
        head_alone = self.head is not None and self.lora is None and not self.all_weights and self.augmentation is None
        if head_alone and not metric.ensemble.has_patches:
            return Kept(features(metric, files, self.loop.workers))
        if len(files) * 3 * size * size > self.memory * 1e9:
            return files
        batches = load_pictures(judgments.images, size, self.loop.workers if len(files) > 512 else 0)
        return Kept(torch.cat(list(tqdm(batches, desc="reading pictures", unit="batch", disable=len(files) <= 512))))

    def _made_for(self, *sets: Judgments) -> str:
        """Whatever decides the outcome beside the loop: a checkpoint made for something else is refused."""
        model = (self.model, self.scratch, self.weights, self.pretrained, self.lora, self.head, self.all_weights)
        return f"{model} {self.loss} {self.normalize_embeds} {self.augmentation} {[_digest(s) for s in sets]}"

    def _export(self, folder: Path, results: dict[str, Any]) -> None:
        """The best weights in a fresh model: the trained one may be cast, compiled or spread over machines."""
        torch.manual_seed(self.seed)
        model = Comparison(self.metric(), VoteLoss(self.loss)).eval()
        best = read_checkpoint(folder / "checkpoints" / "best.pt")
        if unknown := model.load_state_dict(best["weights"], strict=False).unexpected_keys:
            raise ValueError(f"best.pt holds '{unknown[0]}', which the model lacks; give an empty folder.")
        results["temperature"] = model.vote_loss.temperature
        metric = model.metric.requires_grad_(False)
        if self.lora is not None:
            metric.save_adapter(folder / "adapter")
        if self.save_model:
            start = "random weights" if self.scratch or not self.pretrained else self.model
            source = f"{start}, tuned by dreamsim_guidance on '{self.data.name}'"
            reference = {name: value for name, value in results.items() if value is not None}
            metric.save(folder / "model.safetensors", source=source, licence="unknown", reference=reference)


class Kept(Dataset[Tensor]):
    """Pictures, or their features, in memory."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Tensor:
        return self.values[index]


@torch.no_grad()
def features(metric: DreamSim, pictures: Pictures, workers: int) -> Tensor:
    """What the head sees, `(n, d)`, computed once: below a head that is trained alone nothing changes."""
    head = metric.ensemble.head
    metric.ensemble.head = None
    try:
        with own_accelerate_state():
            state = process_state()
            metric.to(state.device)
            found = []
            batches = load_pictures(pictures.paths, pictures.size, workers if len(pictures) > 512 else 0, batch=32)
            for batch in tqdm(
                batches, desc="features", total=-(-len(pictures) // 32), disable=not state.is_main_process
            ):
                found.append(metric.ensemble(batch.to(state.device, metric.dtype) / 255).float().cpu())
    finally:
        metric.ensemble.head = head
    return torch.cat(found)


def _digest(judgments: Judgments) -> str:
    """Triplets, votes and names in a few letters."""
    digest = hashlib.sha256(" ".join(path.name for path in judgments.images).encode())
    for column in (judgments.reference, judgments.a, judgments.b, judgments.votes_a, judgments.votes_b):
        digest.update(column.tobytes())
    return digest.hexdigest()[:12]

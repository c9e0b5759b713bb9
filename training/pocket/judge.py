"""Training of the judge of guided samples: a small convolutional network that reads the factors of a scene.

It has nothing in common with the pocket ensemble, which guides: another architecture, another task, and scenes with numbers of
its own, on which neither the ensemble nor the diffusion models were trained. Each factor is a classification from a common
feature; the loss is the mean of their cross entropies. Training pictures get a little blur, noise and change of exposure, so
that small flaws of a sample do not change the answers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from dreamsim_guidance.data.scenes.pocket_scenes import draw_pocket_scenes, drawn
from dreamsim_guidance.data.scenes.scene import Scene, sample_scene, scene_generator
from dreamsim_guidance.evaluation.samples.scene_judge import JUDGED, SceneJudge, factor_classes
from dreamsim_guidance.files.atomic import write_tensors, writing
from dreamsim_guidance.training.fit import Learner, fit
from dreamsim_guidance.training.pocket.settings import TrainPocketJudge
from dreamsim_guidance.training.pocket.training_log import line_writer

__all__ = ["JudgeLearner", "accuracies", "commonest", "judged_scenes", "readable", "train_judge"]

_FIRST = 1_000_000
"""Scenes from this number on are reserved for the judge."""


def train_judge(settings: TrainPocketJudge, folder: Path) -> dict[str, Any]:
    """Carry out `TrainPocketJudge.run`."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    scenes, pictures = judged_scenes(settings.scenes, "train")
    judge = SceneJudge(settings.width, settings.features)
    learner = JudgeLearner(judge, scenes, pictures, settings.batch)
    made_of = f"{settings.scenes} {settings.width} {settings.features} {settings.batch}"
    write = line_writer(folder / "training.txt")
    fit(learner, settings.schedule, settings.seed, folder / "judge.pt", "judge", write, made_of=made_of)
    judge.requires_grad_(False).eval()
    results: dict[str, Any] = {}
    for kind, easy in (("easy", 1.0), ("full", 0.0)):
        held_out = judged_scenes(settings.held_out, "test", easy)
        results[kind] = {"accuracy": accuracies(judge, *held_out), "commonest": commonest(held_out[0])}
    results["readable"] = readable(results["easy"]["accuracy"], results["easy"]["commonest"])
    card = {"width": settings.width, "features": settings.features, **results, "recipe": "train-pocket-judge"}
    with writing(folder / "pocket_judge.safetensors") as temporary:
        half = {name: value.half().contiguous() for name, value in judge.state_dict().items()}
        write_tensors(half, temporary, {"card": json.dumps(card)})
    return results


class JudgeLearner(Learner):
    """The judge, trained on slightly damaged pictures of the given scenes."""

    def __init__(
        self, judge: SceneJudge, scenes: Sequence[Scene], pictures: UInt8[Tensor, "n 3 h w"], batch: int
    ) -> None:
        super().__init__()
        self.judge, self.pictures, self.batch = judge, pictures, batch
        self.classes = factor_classes(scenes)

    def loss(self, generator: torch.Generator, progress: float) -> Tensor:
        chosen = torch.randint(len(self.pictures), (self.batch,), generator=generator)
        answers = self.judge(damaged(self.pictures[chosen].float() / 255, generator))
        return torch.stack([F.cross_entropy(answers[name], self.classes[name][chosen]) for name in JUDGED]).mean()


def judged_scenes(count: int, split: str, easy: float = 2 / 3) -> tuple[list[Scene], UInt8[Tensor, "n 3 32 32"]]:
    """Scenes with the judge's own numbers and their pictures of 32 x 32 pixels in 8 bits; the share `easy` are easy scenes."""
    easy_count = round(count * easy)
    scenes, pictures = draw_pocket_scenes(easy_count, 32, split, _FIRST)
    full = [sample_scene(scene_generator(_FIRST + easy_count + i, split)) for i in range(count - easy_count)]
    return scenes + full, torch.cat([pictures, drawn(full, 32)])


@torch.no_grad()
def accuracies(judge: SceneJudge, scenes: Sequence[Scene], pictures: UInt8[Tensor, "n 3 h w"]) -> dict[str, float]:
    """By factor, the share of the scenes in which the judge reads it correctly."""
    answers = judge(pictures.float() / 255)
    classes = factor_classes(scenes)
    return {name: float((answers[name].argmax(1) == classes[name]).float().mean()) for name in JUDGED}


def commonest(scenes: Sequence[Scene]) -> dict[str, float]:
    """By factor, the share of the scenes in its commonest class: the accuracy of always answering with that class."""
    return {name: float(classes.bincount().max() / len(scenes)) for name, classes in factor_classes(scenes).items()}


def readable(accuracy: Mapping[str, float], chance: Mapping[str, float]) -> list[str]:
    """The factors in which the judge makes at most half the errors of always answering with the commonest class."""
    return [name for name in JUDGED if 1 - accuracy[name] <= 0.5 * (1 - chance[name])]


def damaged(images: Tensor, generator: torch.Generator) -> Tensor:
    """Add a little noise, blur and change of exposure, different for each image `(b, 3, h, w)` in [0, 1]."""
    noise, blur, exposure = torch.rand(3, len(images), 1, 1, 1, generator=generator, dtype=images.dtype)
    smooth = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    images = torch.lerp(images, smooth, 0.6 * blur.square())
    grain = torch.randn(images.shape, generator=generator, dtype=images.dtype)
    return (images * (0.9 + 0.2 * exposure) + 0.08 * noise.square() * grain).clamp(0, 1)

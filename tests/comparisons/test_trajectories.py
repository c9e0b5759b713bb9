"""The comparison of inversion methods writes its rows, pictures and figures, for pocket and for packed latents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pipelines import build

from dreamsim_guidance.comparisons.trajectories import Trajectories
from dreamsim_guidance.generation import named_models
from dreamsim_guidance.recipes.invert_trajectory import invert_flux_trajectory, invert_pocket_trajectory_tiny


def test_the_pocket_rows_are_judged_by_their_factors(tmp_path: Path) -> None:
    rows = invert_pocket_trajectory_tiny().run(tmp_path)
    assert rows["target"]["changed"] == 0.0 and rows["target"]["dreamsim"] < 1e-6
    assert {
        "floor",
        "ddim",
        "anderson",
        "guidance 4, null text",
        "edit, negative prompt",
        "edit, guided by mpgd",
    } <= set(rows)
    details = json.loads((tmp_path / "trajectory.json").read_text())
    assert details["prompts"] != details["edits"] and len(details["residuals"]["anderson"][0]) == 2
    for name in ("trajectory.png", "residuals.png", "table.md", "floor/0000.png"):
        assert (tmp_path / name).is_file()


def test_the_recipe_of_flux_runs_on_a_tiny_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = build("flux-dev")
    embeddings = tiny.inputs(1)
    encoded: list[Any] = []

    def encode_prompt(prompt: Any, **_: Any) -> Any:
        encoded.append(prompt)
        positions = torch.zeros(embeddings["prompt_embeds"].shape[1], 3)
        sign = -1 if prompt == ["a photo of a dog"] else 1
        return sign * embeddings["prompt_embeds"], embeddings["pooled_prompt_embeds"], positions

    monkeypatch.setattr(tiny.pipe, "encode_prompt", encode_prompt, raising=False)
    monkeypatch.setattr(named_models, "load", lambda *_: tiny.pipe)
    recipe = invert_flux_trajectory()
    config = Trajectories(**{**vars(recipe), "steps": 2, "size": 32, "metric": "pocket"})
    rows = config.run(tmp_path)
    assert rows["anderson"]["residual"] < rows["ddim"]["residual"]
    assert "edit, guided by mpgd" in rows and not any("null" in name for name in rows)
    assert ["a photo of a dog"] in encoded


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 0}, "n must be at least 1"),
        ({"methods": ()}, "at least one method"),
        ({"cfg": 0.5}, "cfg must be at least 1"),
        ({"factor": "style"}, "colour, shape or count"),
        ({"prompts": ("a", "b")}, "one text for each image"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trajectories(**change)

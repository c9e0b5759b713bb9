"""What an adapter has changed: the profile before and after tuning."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path

import pytest
from tiny_tuning import adapter

from dreamsim_guidance.cli import main
from dreamsim_guidance.data.scenes.drawing import draw
from dreamsim_guidance.data.scenes.scene import FACTORS, sample_scene, scene_generator
from dreamsim_guidance.data.scenes.variations import vary
from dreamsim_guidance.preprocess import save_image
from dreamsim_guidance.sensitivity import Analysis
from dreamsim_guidance.training import tuning_run


def write_votes_on_colour(folder: Path, triplets: int) -> Path:
    """Triplets in which one candidate changes the colour and the other one all else; people prefer the right colour."""
    order = random.Random(0)
    lines = ["id,left_vote,right_vote,votes,ref_path,left_path,right_path,split"]
    for n in range(triplets):
        generator = scene_generator(n, "train")
        reference = sample_scene(generator)
        others = [factor for factor in FACTORS if factor not in ("colour", "background", "style")]
        pictures = {
            "r": reference,
            "right": vary(reference, others, 0.5, generator),
            "wrong": vary(reference, "colour", 1.0, generator),
        }
        for name, scene in pictures.items():
            save_image(draw(scene, 64), folder / f"{n}_{name}.png")
        a, b = order.sample(["right", "wrong"], 2)
        votes = f"{int(a == 'right')},{int(b == 'right')},7"
        lines.append(f"{n},{votes},{n}_r.png,{n}_{a}.png,{n}_{b}.png,{'val' if n % 4 == 0 else 'train'}")
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(autouse=True)
def few_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning_run, "Analysis", partial(Analysis, scenes=8, size=64, resamples=300))


@pytest.mark.slow
def test_tuning_on_votes_about_colour_raises_the_share_of_colour(tmp_path: Path) -> None:
    (tmp_path / "votes").mkdir()
    data = write_votes_on_colour(tmp_path / "votes", 80)
    head = {"lora": None, "head": 64, "head_start": "identity"}
    loop = {"batch": 30, "steps": 40, "validate_every": 20, "save_every": 40}
    config = adapter(data, **head, **loop, sensitivity=True)
    results = config.run(tmp_path / "run")
    assert results["validation agreement"] > 0.8
    numbers = json.loads((tmp_path / "run/sensitivity/sensitivity.json").read_text())
    assert numbers["metrics"] == ["before", "after"]
    lead = numbers["factors"]["after"]["share_lead"]
    assert lead["colour"]["low"] > 0
    assert lead["colour"]["value"] == max(lead[factor]["value"] for factor in lead)
    assert "Share, minus that of before" in (tmp_path / "run/sensitivity/sensitivity.html").read_text()


def test_profiles_change_nothing_and_a_run_is_a_metric_of_the_command(data: Path, tmp_path: Path) -> None:
    adapter(data, steps=2, validate_every=1, save_every=2).run(tmp_path / "without")
    adapter(data, steps=2, validate_every=1, save_every=2, sensitivity=True).run(tmp_path / "with")
    assert (
        not (tmp_path / "without/sensitivity").exists() and (tmp_path / "with/sensitivity/sensitivity.html").is_file()
    )
    a, b = ((tmp_path / run / "model.safetensors").read_bytes() for run in ("without", "with"))
    assert a == b
    words = [
        "sensitivity",
        "--metric",
        "pocket",
        "--metric",
        str(tmp_path / "with"),
        "--part",
        "factors",
        "--scenes",
        "4",
    ]
    assert main([*words, "--size", "64", "--to", str(tmp_path / "out")]) == 0
    numbers = json.loads((tmp_path / "out/sensitivity.json").read_text())
    assert numbers["metrics"] == ["pocket", str(tmp_path / "with")]

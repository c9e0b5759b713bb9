import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from judged_pictures import write_judged_pictures
from tiny_tuning import adapter, agreement, difference, last_weights, launch, tuning

from dreamsim_guidance import DreamSim
from dreamsim_guidance.data.readers.nights import read_nights
from dreamsim_guidance.training.vote_losses import VoteLossConfig


def test_a_small_network_learns_what_people_chose(tmp_path: Path) -> None:
    data = write_judged_pictures(tmp_path / "data", triplets=150)
    results = tuning(data, batch=50, steps=80, validate_every=20, save_every=80).run(tmp_path / "run")
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    start = next(row for row in history if "validation loss" in row)
    assert results["validation loss"] < 0.7 * start["validation loss"]
    assert results["validation agreement"] > start["validation agreement"] + 0.1
    assert (tmp_path / "run" / "curves.png").stat().st_size > 5000


def test_the_kept_model_has_the_agreement_that_was_reported(data: Path, tmp_path: Path) -> None:
    results = tuning(data).run(tmp_path)
    metric = DreamSim(tmp_path / "model.safetensors")
    assert agreement(metric, data) == pytest.approx(results["validation agreement"])
    assert metric.card["reference"]["step"] == results["step"] and metric.normalize_embeds


def test_only_the_adapter_is_trained_and_saved_in_peft_format(data: Path, tmp_path: Path) -> None:
    config = adapter(data)
    base = DreamSim("pocket", baseline=True)
    config.run(tmp_path)
    assert {re.search(r"lora_[AB]", name) is not None for name in last_weights(tmp_path)} == {True}
    tuned = DreamSim("pocket", baseline=True)
    tuned.load_adapter(tmp_path / "adapter")
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(tuned.embed(images), DreamSim(tmp_path / "model.safetensors").embed(images))
    assert (tuned.embed(images) - base.embed(images)).abs().max() > 1e-4


def test_a_head_is_trained_on_features_that_are_computed_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dreamsim_guidance.metric.ensemble import Ensemble

    passes: list[int] = []
    forward = Ensemble.forward
    monkeypatch.setattr(Ensemble, "forward", lambda self, x, *rest: passes.append(len(x)) or forward(self, x, *rest))
    results = adapter(data, lora=None, head=16).run(tmp_path / "head")
    assert sum(passes) == sum(len(read_nights(data, split).images) for split in ("train", "val"))
    metric = DreamSim(tmp_path / "head" / "model.safetensors")
    assert agreement(metric, data) == pytest.approx(results["validation agreement"])


def test_the_average_is_what_is_validated_and_kept(tmp_path: Path) -> None:
    data = write_judged_pictures(tmp_path / "data", triplets=150)
    changes: dict[str, Any] = {"batch": 50, "loss": VoteLossConfig("logistic")}
    tuning(data, average=0.9, **changes).run(tmp_path / "average")
    tuning(data, **changes).run(tmp_path / "plain")
    assert difference(tmp_path / "average", tmp_path / "plain") == 0  # training itself is the same
    saved = torch.load(tmp_path / "average" / "checkpoints" / "step-00000008.pt", weights_only=True)
    best = torch.load(tmp_path / "average" / "checkpoints" / "best.pt", weights_only=True)
    assert best["step"] == 8  # it is still improving
    for name, value in best["weights"].items():
        torch.testing.assert_close(value, saved["average"][name])
    assert any(not torch.equal(value, saved["weights"][name]) for name, value in best["weights"].items())


def test_half_precision_trains_in_float32_weights(data: Path, plain_run: Path, tmp_path: Path) -> None:
    results = tuning(data, precision="bf16").run(tmp_path)
    assert torch.isfinite(torch.tensor(results["validation loss"]))
    assert 0 < difference(tmp_path, plain_run) < 0.05
    assert all(value.dtype == torch.float32 for value in last_weights(tmp_path).values())


def test_half_precision_of_accelerators_is_refused_on_a_cpu(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="precision='fp16' needs an accelerator"):
        tuning(data, precision="fp16").run(tmp_path)


def test_a_run_starts_from_an_earlier_one(data: Path, tmp_path: Path) -> None:
    tuning(data, steps=2).run(tmp_path / "first")
    second = tuning(data, model=str(tmp_path / "first"), scratch=None, steps=2)
    assert second.model == str(tmp_path / "first" / "model.safetensors")
    assert second.run(tmp_path / "second")["steps"] == 2


def test_ties_alone_leave_the_agreement_out(tmp_path: Path) -> None:
    data = write_judged_pictures(tmp_path / "data")
    text = (data / "data.csv").read_text().splitlines()
    rows = [line.split(",") for line in text]
    tied = [",".join([r[0], "0.5", "0.5", *r[3:]]) if r[7] == "val" else ",".join(r) for r in rows]
    (data / "data.csv").write_text("\n".join(tied) + "\n")
    results = tuning(data, steps=2).run(tmp_path / "run")
    assert "validation agreement" not in results and results["validation loss"] > 0
    assert "validation agreement" not in DreamSim(tmp_path / "run" / "model.safetensors").card["reference"]


def test_a_broken_picture_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    data = write_judged_pictures(tmp_path / "data")
    (data / "ref" / "3.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"1 of 12 pictures cannot be read: .*3\.png"):
        tuning(data).run(tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_tensorboard_gets_the_course_of_the_run(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    tuning(data, trackers=("tensorboard",), steps=2).run(tmp_path)
    assert list(tmp_path.rglob("events.out.tfevents.*"))


def test_a_tracker_that_is_not_installed_is_left_out(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    find: Callable[..., Any] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else find(name, *rest))
    tuning(data, trackers=("wandb",), steps=2).run(tmp_path)
    assert "the tracker wandb is not installed" in caplog.text


@pytest.mark.slow
def test_a_compiled_run_has_the_same_parameters(data: Path, tmp_path: Path) -> None:
    """In a process of its own, where the shape checks do not wrap every function that the compiler traces."""
    tuning(data, steps=3).run(tmp_path / "plain")
    process = launch(data, {tmp_path / "compiled": {"steps": 3, "compile": True}}, timeout=400)
    assert process.returncode == 0, process.stderr
    assert difference(tmp_path / "plain", tmp_path / "compiled") < 1e-3


@pytest.mark.parametrize("trained", ["adapter", "head", "all weights"])
def test_loaded_weights_stay_float32_under_another_default_dtype(trained: str, data: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "adapter": {},
        "head": {"lora": None, "head": 16, "average": 0.9},
        "all weights": {"lora": None, "all_weights": True, "loss": VoteLossConfig("bradley_terry")},
    }[trained]
    torch.set_default_dtype(torch.float64)
    try:
        adapter(data, steps=2, **changes).run(tmp_path)
        metric = DreamSim(tmp_path / "model.safetensors")
    finally:
        torch.set_default_dtype(torch.float32)
    assert {value.dtype for value in last_weights(tmp_path).values()} == {torch.float32}
    assert metric.dtype == torch.float32

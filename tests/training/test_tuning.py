import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from judged_pictures import write_judged_pictures

from dreamsim_guidance import DreamSim
from dreamsim_guidance.data.readers.nights import read_nights
from dreamsim_guidance.evaluation.judging import evaluate
from dreamsim_guidance.evaluation.metrics.embedding_metric import EmbeddingMetric
from dreamsim_guidance.training.augmentation import Augmentation
from dreamsim_guidance.training.base_models import Scratch
from dreamsim_guidance.training.loop import Loop
from dreamsim_guidance.training.optimiser import Optimiser
from dreamsim_guidance.training.tuning import LoRA, Tuning
from dreamsim_guidance.training.vote_losses import VoteLossConfig

SAME = 1e-5
"""Parameters on another number of processes: sums in another order."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_judged_pictures(tmp_path_factory.mktemp("judged"))


def tuning(data: Path, **changes: Any) -> Tuning:
    """A small network from nothing for a few steps, without what is random beside the batches."""
    loop = Loop(
        optimiser=Optimiser(kind="adamw", learning_rate=1e-3, betas=(0.9, 0.98)),
        batch=6, steps=8, save_every=2, validate_every=4, log_every=1, workers=0, trackers=(),
    )  # fmt: skip
    small = Scratch(size=32, width=32, depth=2, heads=2, patch=8)
    default = Tuning(data, "scratch", small, lora=None, all_weights=True, loop=loop, normalize_embeds=True, seed=0)
    own = {name: value for name, value in changes.items() if name in Tuning.__dataclass_fields__}
    rest = {name: value for name, value in changes.items() if name not in own}
    return replace(default, **{"loop": replace(loop, **rest), **own})


def adapter(data: Path, **changes: Any) -> Tuning:
    """An adapter on the pocket ensemble."""
    return tuning(
        data, **{"model": "pocket", "scratch": None, "all_weights": False, "lora": LoRA(4, 8.0, 0.3), **changes}
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    newest = sorted((folder / "checkpoints").glob("step-*.pt"))[-1]
    return torch.load(newest, weights_only=True)["weights"]


def agreement(metric: DreamSim, data: Path) -> float:
    """With the majority, on the validation split, as `dreamsim-guidance evaluate` finds it."""
    report = evaluate(read_nights(data, "val"), {"it": EmbeddingMetric("it", metric)}, progress=False).report
    return report.agreement["it"]["majority"].value


def difference(a: Path, b: Path) -> float:
    x, y = weights(a), weights(b)
    assert x.keys() == y.keys() and x
    return max(float((x[name] - y[name]).abs().max()) for name in x)


def test_a_small_network_learns_what_people_chose(tmp_path: Path) -> None:
    data = write_judged_pictures(tmp_path / "data", triplets=150)
    results = tuning(data, batch=50, steps=80, validate_every=20).run(tmp_path / "run")
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
    assert {re.search(r"lora_[AB]", name) is not None for name in weights(tmp_path)} == {True}
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
    monkeypatch.setattr(
        Ensemble, "forward", lambda self, x, squash=True: passes.append(len(x)) or forward(self, x, squash)
    )
    results = adapter(data, lora=None, head=16).run(tmp_path / "head")
    assert sum(passes) == sum(len(read_nights(data, split).images) for split in ("train", "val"))
    metric = DreamSim(tmp_path / "head" / "model.safetensors")
    assert agreement(metric, data) == pytest.approx(results["validation agreement"])


def test_accumulated_gradients_are_those_of_the_whole_batch(data: Path, tmp_path: Path) -> None:
    tuning(data).run(tmp_path / "whole")
    tuning(data, piece=2).run(tmp_path / "pieces")
    assert difference(tmp_path / "whole", tmp_path / "pieces") < SAME


def test_recomputed_blocks_change_nothing(data: Path, tmp_path: Path) -> None:
    tuning(data).run(tmp_path / "kept")
    tuning(data, gradient_checkpointing=True).run(tmp_path / "recomputed")
    assert difference(tmp_path / "kept", tmp_path / "recomputed") < SAME


def launch(
    folder: Path, data: Path, *before: str, script: str = "tuned_in_processes.py", **changes: Any
) -> subprocess.Popen[str]:
    """The run in processes of its own, as a user would start it."""
    words = [sys.executable, *before, str(Path(__file__).parent / script), str(folder), str(data), json.dumps(changes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)


TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


@pytest.mark.parametrize(
    ("sharded", "lora"), [(False, False), (True, False), (True, True)], ids=["replicated", "sharded", "sharded adapter"]
)
def test_two_processes_end_with_the_parameters_of_one(data: Path, tmp_path: Path, sharded: bool, lora: bool) -> None:
    """gloo; batches of 5 over 16 triplets: shares and the last batch of an epoch are uneven."""
    if lora:
        adapter(data, batch=5, lora=LoRA(4, 8.0, dropout=0.0)).run(tmp_path / "one")
    else:
        tuning(data, batch=5).run(tmp_path / "one")
    process = launch(tmp_path / "two", data, *TWO, batch=5, sharded=sharded, lora=lora)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert f"processes=2 sharded={sharded}" in said
    assert difference(tmp_path / "one", tmp_path / "two") < SAME
    images = torch.rand(2, 3, 32, 32)
    one, two = (DreamSim(tmp_path / name / "model.safetensors").embed(images) for name in ("one", "two"))
    torch.testing.assert_close(one, two, atol=SAME, rtol=0)


def test_a_killed_run_goes_on_to_the_same_parameters(data: Path, tmp_path: Path) -> None:
    """Stochastic depth, augmentation and an average are on: all that could differ."""
    changes = {"steps": 40, "random": True}
    process = launch(tmp_path / "killed", data, **changes)
    deadline = time.monotonic() + 200
    while not any((tmp_path / "killed" / "checkpoints").glob("step-*.pt")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    stopped = sorted(path.name for path in (tmp_path / "killed" / "checkpoints").glob("step-*.pt"))[-1]
    assert stopped < "step-00000040.pt"
    for name in ("killed", "whole"):
        process = launch(tmp_path / name, data, **changes)
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        assert ("going on from step" in said) == (name == "killed")
    assert difference(tmp_path / "killed", tmp_path / "whole") == 0
    histories = [json.loads((tmp_path / name / "history.json").read_text()) for name in ("killed", "whole")]
    for history in histories:
        for row in history:
            row.pop("images per second", None)
    assert histories[0] == histories[1]


def test_only_the_newest_checkpoints_stay_beside_the_best(data: Path, tmp_path: Path) -> None:
    tuning(data, keep=2).run(tmp_path)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["best.pt", "step-00000006.pt", "step-00000008.pt"]


def test_a_run_without_progress_stops_early_and_keeps_the_best(data: Path, tmp_path: Path) -> None:
    optimiser = Optimiser(learning_rate=3.0)  # far too large: everything after the first validation is worse
    results = tuning(data, optimiser=optimiser, steps=40, validate_every=2, patience=2).run(tmp_path)
    assert results["steps"] < 40 and results["step"] <= results["steps"] - 4


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


def test_half_precision_trains_in_float32_weights(data: Path, tmp_path: Path) -> None:
    results = tuning(data, precision="bf16").run(tmp_path / "half")
    tuning(data).run(tmp_path / "full")
    assert torch.isfinite(torch.tensor(results["validation loss"]))
    assert 0 < difference(tmp_path / "half", tmp_path / "full") < 0.05
    assert all(value.dtype == torch.float32 for value in weights(tmp_path / "half").values())


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


def test_ties_alone_leave_the_agreement_out(tmp_path: Path) -> None:
    data = write_judged_pictures(tmp_path / "data")
    text = (data / "data.csv").read_text().splitlines()
    rows = [line.split(",") for line in text]
    tied = [",".join([r[0], "0.5", "0.5", *r[3:]]) if r[7] == "val" else ",".join(r) for r in rows]
    (data / "data.csv").write_text("\n".join(tied) + "\n")
    results = tuning(data, steps=2).run(tmp_path / "run")
    assert "validation agreement" not in results and results["validation loss"] > 0
    assert "validation agreement" not in DreamSim(tmp_path / "run" / "model.safetensors").card["reference"]


def test_a_damaged_checkpoint_is_passed_over(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tuning(data).run(tmp_path / "whole")
    tuning(data).run(tmp_path / "damaged")
    newest = sorted((tmp_path / "damaged" / "checkpoints").glob("step-*.pt"))[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    (newest.parent / "tmp123.part").write_bytes(b"of a killed run")
    tuning(data).run(tmp_path / "damaged")
    assert "cannot be read and is passed over" in caplog.text
    assert difference(tmp_path / "damaged", tmp_path / "whole") == 0
    assert not list(newest.parent.glob("*.part"))
    (newest.parent / "best.pt").unlink()
    with pytest.raises(ValueError, match=r"has lost its best\.pt"):
        tuning(data).run(tmp_path / "damaged")


def test_an_early_stop_is_saved(data: Path, tmp_path: Path) -> None:
    optimiser = Optimiser(learning_rate=3.0)
    results = tuning(data, optimiser=optimiser, steps=40, validate_every=3, patience=2, save_every=100).run(tmp_path)
    history = json.loads((tmp_path / "history.json").read_text())
    assert history[-1]["step"] == results["steps"]
    assert (tmp_path / "checkpoints" / f"step-{results['steps']:08d}.pt").is_file()


def test_a_run_starts_from_an_earlier_one(data: Path, tmp_path: Path) -> None:
    tuning(data, steps=2).run(tmp_path / "first")
    second = tuning(data, model=str(tmp_path / "first"), scratch=None, steps=2)
    assert second.model == str(tmp_path / "first" / "model.safetensors")
    assert second.run(tmp_path / "second")["steps"] == 2


def test_half_precision_of_accelerators_is_refused_on_a_cpu(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="precision='fp16' needs an accelerator"):
        tuning(data, precision="fp16").run(tmp_path)


def test_a_checkpoint_of_another_run_is_refused(data: Path, tmp_path: Path) -> None:
    tuning(data, steps=4).run(tmp_path)
    with pytest.raises(ValueError, match="is a checkpoint of another run"):
        tuning(data, steps=4, loss=VoteLossConfig("logistic")).run(tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the loss became \w+ before step .*; lower the learning rate"):
        tuning(data, optimiser=Optimiser(learning_rate=1e30), steps=20).run(tmp_path)


def test_a_broken_picture_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    data = write_judged_pictures(tmp_path / "data")
    (data / "ref" / "3.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"1 of 12 pictures cannot be read: .*3\.png"):
        tuning(data).run(tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora": None, "all_weights": False, "scratch": None}, "nothing would be trained"),
        ({"all_weights": False, "lora": LoRA()}, "a model from nothing must be trained as a whole"),
        ({"lora": LoRA(), "all_weights": True}, "all_weights trains what an adapter would add to"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"average": 1.0}, "average is a momentum between 0 and 1"),
        ({"workers": -1}, "workers must not be negative"),
        ({"optimiser": {"learning_rate": -1.0}}, "learning_rate must be a positive number"),
        ({"optimiser": {"kind": "sgd"}}, "unknown kind 'sgd'; known: adam, adamw"),
        ({"optimiser": {"schedule": "step"}}, "unknown schedule 'step'; known: constant"),
        ({"head": 0, "all_weights": True}, "head is a width of at least 1"),
        ({"seed": -1}, "seed must not be negative"),
        ({"precision": "fp8"}, "unknown precision 'fp8'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    data: Path, changes: dict[str, Any], message: str, unchecked: None
) -> None:
    with pytest.raises(ValueError, match=message):
        tuning(data, **{k: Optimiser(**v) if k == "optimiser" else v for k, v in changes.items()})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LoRA(dropout=1.5), "a dropout from 0 to below 1"),
        (lambda: LoRA(targets="qkv"), "targets are several names"),  # type: ignore[arg-type]
        (lambda: Scratch(width=30), "size must be a multiple of patch, width of heads and of 4"),
        (lambda: Scratch(depth=0), "sizes must be at least 1"),
        (lambda: Augmentation(crop=2.0), "crop is a share of the area"),
    ],
)
def test_odd_parts_of_a_run_are_refused(build: Callable[[], Any], message: str, unchecked: None) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": Path("/nowhere")}, "weights are those of a published variant"),
        ({"pretrained": False}, "'pocket' comes with its weights"),
        ({"model": "scratch"}, "a model from nothing needs its sizes"),
    ],
)
def test_weights_that_would_not_be_read_are_refused(
    data: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        adapter(data, **changes).run(tmp_path)


def test_augmented_pictures_differ_and_stay_in_range() -> None:
    augmentation = Augmentation(degrees=10.0, brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1, blur=0.5)
    images = torch.rand(4, 3, 32, 32)
    seen = augmentation(images)
    assert seen.shape == images.shape and seen.min() >= 0 and seen.max() <= 1
    assert (seen - images).abs().max() > 0.05
    torch.manual_seed(5)
    first = augmentation(images)
    torch.manual_seed(5)
    torch.testing.assert_close(augmentation(images), first)


def test_twenty_steps_give_the_losses_of_a_loop_around_the_original(
    tmp_path: Path, narrow_original: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The original's loss, optimiser and batches of four embeddings a triplet; dropout off; then it loads our adapter."""
    from official_format import small, write_official
    from original_package import load_original

    from dreamsim_guidance.checkpoints.official import load_official
    from dreamsim_guidance.data.pictures import Pictures
    from dreamsim_guidance.training import tuning_run as home
    from dreamsim_guidance.training.triplet_batches import TripletBatches

    data = write_judged_pictures(tmp_path / "data", triplets=30, size=224)
    official = tmp_path / "official"
    write_official(official, "ensemble", 0, depth=12, dim=32, projection=24)
    narrow = small("ensemble", depth=12, dim=32, heads=2, projection=24)

    def base(*_: Any) -> DreamSim:
        checkpoint = load_official(narrow, weights=official, pretrained=False, progress=False)
        return DreamSim(checkpoint.ensemble, normalize_embeds=False)

    monkeypatch.setattr(home, "base_metric", base)
    loop = Loop(batch=4, steps=20, save_every=20, validate_every=20, log_every=1, workers=0, trackers=())
    config = Tuning(data, "ensemble", lora=LoRA(dropout=0.0), loop=loop)
    torch.manual_seed(config.seed)
    config.metric().save_adapter(official / "ensemble_lora")
    theirs = load_original(official, "ensemble", normalize_embeds=False)
    trained = [p.requires_grad_(True) for name, p in theirs.named_parameters() if "lora_" in name]
    optimiser = torch.optim.Adam(trained, lr=3e-4, betas=(0.5, 0.999), weight_decay=0)
    judgments = read_nights(data, "train")
    pictures = Pictures(judgments.images, 224)
    batches = TripletBatches(judgments, pictures, 4, 20, config.seed)
    expected = []
    for step in range(20):
        chosen = batches.triplets(step)
        reference, left, right = (
            torch.stack([pictures[int(i)] for i in column[chosen]]).float() / 255
            for column in (judgments.reference, judgments.a, judgments.b)
        )
        y = torch.tensor(judgments.votes_b[chosen] > judgments.votes_a[chosen]).float() * 2 - 1
        logit = theirs(reference, left) - theirs(reference, right)
        loss = (0.05 - logit * y).clamp(min=0).sum() / len(chosen)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        expected.append(loss.item())
    config.run(tmp_path / "run")
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    losses = [row["loss"] for row in history if "loss" in row]
    assert len(losses) == 20 and losses[0] != pytest.approx(losses[-1], rel=1e-2)
    assert losses == pytest.approx(expected, rel=1e-4)

    best = torch.load(tmp_path / "run" / "checkpoints" / "best.pt", weights_only=True)
    assert best["step"] == 20
    for file in (tmp_path / "run" / "adapter").iterdir():
        (official / "ensemble_lora" / file.name).write_bytes(file.read_bytes())
    tuned = load_original(official, "ensemble", normalize_embeds=False)
    images = pictures[0][None].float() / 255, pictures[1][None].float() / 255
    with warnings.catch_warnings(), torch.no_grad():
        assert float(tuned(*images)) == pytest.approx(float(theirs(*images)), rel=1e-4)
        ours = DreamSim(tmp_path / "run" / "model.safetensors")
        assert float(ours(*images)) == pytest.approx(float(tuned(*images)), rel=1e-4)


@pytest.mark.slow
def test_a_compiled_run_has_the_same_parameters(data: Path, tmp_path: Path) -> None:
    """In a process of its own, where the shape checks do not wrap every function that the compiler traces."""
    tuning(data, steps=3).run(tmp_path / "plain")
    process = launch(tmp_path / "compiled", data, steps=3, compile=True)
    _, said = process.communicate(timeout=400)
    assert process.returncode == 0, said
    assert difference(tmp_path / "plain", tmp_path / "compiled") < 1e-3

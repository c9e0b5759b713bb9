"""Claims of exactness: runs that must end with the same parameters, and the original's training step for step.

Runs are compared in float64, where rounding leaves differences of 1e-13 at most: Adam divides by small gradients, which
magnifies it. In float32 the same differences reach 1.1e-5. Largest differences found (AMD EPYC, torch 2.14.1):

    ATEN_CPU_CAPABILITY, MKL_CBWR    two processes    pieces     recomputed, resumed    losses of the original (float32)
    default, COMPATIBLE (oneDNN SSE4.1)    2.3e-14    4.2e-16                      0                             2.8e-7
    avx2, AVX2                             6.4e-14    7.5e-16                      0                             8.9e-8
    avx512, MKL's own choice               2.9e-14    4.7e-16                      0                             2.3e-7
    avx512, COMPATIBLE                     2.7e-14    6.8e-16                      0                             1.0e-7
    bound                                    1e-10      1e-10        1e-10, resumed 0                     1e-5 + 1e-4 x
"""

import json
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from judged_pictures import write_judged_pictures
from tiny_tuning import TWO_PROCESSES, InDouble, adapter, difference, launch, tuning
from tuned_in_processes import randomness

from dreamsim_guidance import DreamSim
from dreamsim_guidance.data.readers.nights import read_nights
from dreamsim_guidance.training.loop import Loop
from dreamsim_guidance.training.tuning import LoRA, Tuning
from dreamsim_guidance.training.vote_loss_config import VoteLossConfig

pytestmark = pytest.mark.exact

SAME = 1e-10


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Batches of 5 over 16 triplets: shares, pieces and the last batch of an epoch are uneven."""
    folder = tmp_path_factory.mktemp("whole")
    tuning(data, InDouble, batch=5, loss=VoteLossConfig("logistic")).run(folder)
    return folder


@pytest.fixture(scope="module")
def whole_adapter(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole adapter")
    adapter(data, InDouble, batch=5, loss=VoteLossConfig("logistic"), lora=LoRA(4, 8.0, dropout=0.0)).run(folder)
    return folder


@pytest.fixture(scope="module")
def two_processes(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the same runs in two processes (gloo), each way of spreading the model."""
    folder = tmp_path_factory.mktemp("two processes")
    common = {"double": True, "batch": 5, "loss": "logistic"}
    runs = {
        folder / "replicated": common,
        folder / "sharded": {**common, "sharded": True},
        folder / "sharded adapter": {**common, "sharded": True, "adapter": True},
    }
    process = launch(data, runs, *TWO_PROCESSES)
    assert process.returncode == 0, process.stderr
    for run in runs:
        assert f"{run.name}: processes=2 sharded={'sharded' in run.name}" in process.stderr
    return folder


@pytest.mark.parametrize("way", ["replicated", "sharded", "sharded adapter"])
def test_two_processes_end_with_the_parameters_of_one(
    way: str, two_processes: Path, request: pytest.FixtureRequest
) -> None:
    one = request.getfixturevalue("whole_adapter" if "adapter" in way else "whole")
    assert difference(one, two_processes / way) < SAME
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    metrics = [DreamSim(run / "model.safetensors") for run in (one, two_processes / way)]
    assert (
        metrics[0].card["reference"]["step"] == metrics[1].card["reference"]["step"] > 0
    )  # the best weights are trained ones
    embedded = [metric.embed(images) for metric in metrics]
    assert embedded[0].dtype == torch.float64
    torch.testing.assert_close(*embedded, atol=SAME, rtol=0)


def test_accumulated_gradients_are_those_of_the_whole_batch(data: Path, whole: Path, tmp_path: Path) -> None:
    tuning(data, InDouble, batch=5, piece=2, loss=VoteLossConfig("logistic")).run(tmp_path)
    assert difference(whole, tmp_path) < SAME


def test_recomputed_blocks_change_nothing(data: Path, whole: Path, tmp_path: Path) -> None:
    tuning(data, InDouble, batch=5, gradient_checkpointing=True, loss=VoteLossConfig("logistic")).run(tmp_path)
    assert difference(whole, tmp_path) < SAME


def test_a_killed_run_goes_on_to_the_same_parameters(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Stochastic depth, augmentation and an average are on: all that could differ. Checkpoints are at steps 4 and 8."""
    process = launch(data, {tmp_path / "killed": {"random": True, "dies_at": 5}})
    assert process.returncode == -signal.SIGKILL, process.stderr
    checkpoints = sorted(path.name for path in (tmp_path / "killed" / "checkpoints").glob("step-*.pt"))
    assert checkpoints[-1] == "step-00000004.pt"
    tuning(data, **randomness()).run(tmp_path / "whole")
    assert "going on from step" not in caplog.text
    with caplog.at_level("INFO"):
        tuning(data, **randomness()).run(tmp_path / "killed")
    assert "going on from step 4 of 8" in caplog.text
    assert difference(tmp_path / "killed", tmp_path / "whole") == 0
    histories = [json.loads((tmp_path / name / "history.json").read_text()) for name in ("killed", "whole")]
    for history in histories:
        for row in history:
            row.pop("images per second", None)
    assert histories[0] == histories[1]


def test_twenty_steps_give_the_losses_of_a_loop_around_the_original(
    tmp_path: Path, narrow_original: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The original's loss, optimiser and batches of four embeddings a triplet; dropout off; then it loads our adapter."""
    from official_format import small, write_official
    from original_package import load_original

    from dreamsim_guidance.checkpoints.official import load_official
    from dreamsim_guidance.data.pictures import Pictures
    from dreamsim_guidance.training import tuning_run as home
    from dreamsim_guidance.training.triplet_batches import TripletBatches, TripletSet

    data = write_judged_pictures(tmp_path / "data", triplets=20, size=224)
    official = tmp_path / "official"
    write_official(official, "ensemble", 0, depth=12, dim=32, projection=24)
    narrow = small("ensemble", depth=12, dim=32, heads=2, projection=24)

    def base(*_: Any) -> DreamSim:
        checkpoint = load_official(narrow, weights=official, pretrained=False, progress=False)
        return DreamSim(checkpoint.ensemble, normalize_embeds=False)

    monkeypatch.setattr(home, "base_metric", base)
    loop = Loop(batch=2, steps=20, save_every=20, validate_every=20, log_every=1, workers=0, trackers=())
    config = Tuning(data, "ensemble", lora=LoRA(dropout=0.0), loop=loop)
    torch.manual_seed(config.seed)
    config.metric().save_adapter(official / "ensemble_lora")
    theirs = load_original(official, "ensemble", normalize_embeds=False)
    trained = [p.requires_grad_(True) for name, p in theirs.named_parameters() if "lora_" in name]
    optimiser = torch.optim.Adam(trained, lr=3e-4, betas=(0.5, 0.999), weight_decay=0)
    judgments = read_nights(data, "train")
    pictures = Pictures(judgments.images, 224)
    batches = TripletBatches([TripletSet(judgments, pictures)], 2, 20, config.seed)
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
    # a loss is 0.05 minus the difference of two distances of order one: where it is small, its absolute error is stable
    assert losses == pytest.approx(expected, rel=1e-4, abs=1e-5)

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

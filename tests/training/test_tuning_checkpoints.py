import json
import shutil
from pathlib import Path

import pytest
from tiny_tuning import difference, tuning

from dreamsim_guidance.training.optimiser import Optimiser
from dreamsim_guidance.training.vote_losses import VoteLossConfig


def test_only_the_newest_checkpoints_stay_beside_the_best(data: Path, tmp_path: Path) -> None:
    tuning(data, keep=2, save_every=2, steps=6).run(tmp_path)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["best.pt", "step-00000004.pt", "step-00000006.pt"]


def test_a_run_without_progress_stops_early_and_keeps_the_best(data: Path, tmp_path: Path) -> None:
    optimiser = Optimiser(learning_rate=3.0)  # far too large: everything after the first validation is worse
    results = tuning(data, optimiser=optimiser, steps=40, validate_every=2, patience=2).run(tmp_path)
    assert results["steps"] < 40 and results["step"] <= results["steps"] - 4


def test_an_early_stop_is_saved(data: Path, tmp_path: Path) -> None:
    optimiser = Optimiser(learning_rate=3.0)
    results = tuning(data, optimiser=optimiser, steps=40, validate_every=3, patience=2, save_every=100).run(tmp_path)
    history = json.loads((tmp_path / "history.json").read_text())
    assert history[-1]["step"] == results["steps"]
    assert (tmp_path / "checkpoints" / f"step-{results['steps']:08d}.pt").is_file()


def test_a_damaged_checkpoint_is_passed_over(
    data: Path, plain_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(plain_run, tmp_path / "damaged")
    newest = sorted((tmp_path / "damaged" / "checkpoints").glob("step-*.pt"))[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    (newest.parent / "tmp123.part").write_bytes(b"of a killed run")
    tuning(data).run(tmp_path / "damaged")
    assert "cannot be read and is passed over" in caplog.text
    assert difference(tmp_path / "damaged", plain_run) == 0
    assert not list(newest.parent.glob("*.part"))
    (newest.parent / "best.pt").unlink()
    with pytest.raises(ValueError, match=r"has lost its best\.pt"):
        tuning(data).run(tmp_path / "damaged")


def test_a_checkpoint_of_another_run_is_refused(data: Path, tmp_path: Path) -> None:
    tuning(data, steps=4).run(tmp_path)
    with pytest.raises(ValueError, match="is a checkpoint of another run"):
        tuning(data, steps=4, loss=VoteLossConfig("logistic")).run(tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the loss became \w+ before step .*; lower the learning rate"):
        tuning(data, optimiser=Optimiser(learning_rate=1e30), steps=20).run(tmp_path)

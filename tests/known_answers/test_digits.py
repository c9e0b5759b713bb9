"""The comparison of guidance methods on digits: a tiny run, its judge, its loss, and settings that are refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dreamsim_guidance.known_answers.digit_judge import DigitJudge
from dreamsim_guidance.known_answers.digit_models import train_guide
from dreamsim_guidance.known_answers.digit_rows import Bench, ClassLoss
from dreamsim_guidance.known_answers.digit_set import CLASSES, digits
from dreamsim_guidance.known_answers.guided_digits import DigitStrengths, GuidedDigits

TINY = GuidedDigits(
    methods=("none", "mpgd", "dps+ensemble+noise"),
    steps=20,
    samples=40,
    training_steps=500,
    width=128,
    guide_steps=300,
    classifiers=2,
    strengths=DigitStrengths(mpgd=3.0),
)


def test_a_tiny_run_trains_guides_and_judges_and_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = TINY.run(tmp_path)
    rows = {row["method"]: row for row in results["rows"]}
    assert list(rows) == list(TINY.methods)
    # with so little training the prior draws no digits yet, but the classifier that guides accepts the guided samples
    assert rows["mpgd"]["guide"] > rows["none"]["guide"] + 0.4
    assert results["real"]["judge"] > 0.95
    assert "dps+ensemble+noise" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "digits.png").stat().st_size > 1000

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("dreamsim_guidance.known_answers.digit_rows.train_denoiser", never)
    monkeypatch.setattr("dreamsim_guidance.known_answers.digit_rows.train_guide", never)
    modified = (tmp_path / "rows" / "none.json").stat().st_mtime_ns
    (tmp_path / "rows" / "mpgd.json").unlink()
    resumed = TINY.run(tmp_path)
    assert {name: value for name, value in resumed["rows"][1].items() if name != "seconds"} == {
        name: value for name, value in rows["mpgd"].items() if name != "seconds"
    }
    assert (tmp_path / "rows" / "none.json").stat().st_mtime_ns == modified
    ddpm = Bench(replace(TINY, sampler="ddpm"), tmp_path).row("mpgd")
    assert ddpm["guide"] > rows["none"]["guide"] + 0.4


def test_the_judge_reads_digits_and_its_frechet_distance_grows_when_they_lack_variety() -> None:
    all_digits = digits()
    assert len(all_digits.labels) == 1797
    assert float(all_digits.images.max()) == 1.0 and float(all_digits.images.min()) == 0.0
    guiding, judging = all_digits.halves(0)
    assert len(guiding.labels) + len(judging.labels) == 1797
    judge = DigitJudge(judging, judging)
    right = judge(guiding.images, guiding.labels)
    assert right.accuracy > 0.95
    wrong = judge(guiding.images, (guiding.labels + 1) % CLASSES)
    assert wrong.accuracy < 0.05 and wrong.frechet > 5 * right.frechet
    same = judge(judging.images, judging.labels)
    assert same.frechet == pytest.approx(0, abs=1e-6)
    means = torch.stack([judging.images[judging.labels == k].mean(0) for k in range(CLASSES)])
    collapsed = judge(means.repeat_interleave(2, dim=0), torch.arange(CLASSES).repeat_interleave(2))
    assert collapsed.accuracy > 0.9 and collapsed.diversity == 0 and collapsed.frechet > 2 * right.frechet


def test_the_loss_is_minus_the_logarithm_of_the_mean_probability() -> None:
    few = digits().part(torch.arange(6))
    guides = [train_guide(digits(), steps=20, seed=k) for k in range(2)]
    mean = sum(guide(few.images).exp() for guide in guides) / 2
    expected = -mean[torch.arange(6), few.labels].log()
    torch.testing.assert_close(ClassLoss(guides, few.labels)(few.images), expected)


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown method 'mpg' \(did you mean 'mpgd'\?\); known: none, mpgd"):
        GuidedDigits(methods=("mpg",))
    with pytest.raises(ValueError, match=r"unknown modifier '\+blur' of dps; known: \+ensemble, \+noise"):
        GuidedDigits(methods=("dps+blur",))
    with pytest.raises(ValueError, match="samples must be at least 20"):
        GuidedDigits(samples=10)
    with pytest.raises(ValueError, match="steps must divide 1000 for ddim, got 30"):
        GuidedDigits(steps=30)
    with pytest.raises(ValueError, match="two or more images of each class"):
        all_digits = digits()
        DigitJudge(all_digits, all_digits)(all_digits.images[:5], all_digits.labels[:5])
    assert GuidedDigits(sampler="ddpm", steps=30).steps == 30

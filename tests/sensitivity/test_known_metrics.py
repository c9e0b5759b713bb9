"""Every part reads off metrics whose sensitivities are known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from sensitivity import known_metrics as known

from dreamsim_guidance.evaluation.statistics.intervals import Interval
from dreamsim_guidance.sensitivity import Analysis, Sensitivity, sensitivity

METRICS = {
    name: getattr(known, name)
    for name in ("mean_colour", "histogram", "luminance", "mean_luma", "spectrum", "nothing", "noise", "corners")
} | {
    "offset": lambda x, y: known.luminance(x, y) + 7,
    "constant": lambda x, y: torch.full((len(x),), 7.0),
    "similarity": lambda x, y: 1 - known.luminance(x, y),
}
WITHOUT_SCALE = {"nothing", "noise", "constant", "similarity"}
PLACES = {"shape", "layout", "rotation", "perspective"}


@pytest.fixture(scope="module")
def result() -> Sensitivity:
    analysis = Analysis(
        parts=("factors", "masks", "features", "robustness"), scenes=12, triplets=50, pictures=6, size=64, resamples=300
    )
    return sensitivity(METRICS, analysis, progress=False)


def top(result: Sensitivity, name: str) -> dict[str, float]:
    return {factor: steps[-1].relative.value for factor, steps in result.factors[name].steps.items()}


def covers(interval: Interval, value: float) -> bool:
    return interval.low <= value <= interval.high


def test_a_colour_metric_reacts_to_colour_more_than_to_places(result: Sensitivity) -> None:
    for name in ("mean_colour", "histogram"):
        shares = result.factors[name].share
        assert shares["colour"].low > max(shares[f].high for f in ("rotation", "layout", "perspective"))


def test_a_metric_of_corners_reacts_to_the_background_most(result: Sensitivity) -> None:
    shares = result.factors["corners"].share
    assert shares["background"].low > 0.2
    # styles paint the background too; all other factors leave the corners nearly as they are
    assert shares["background"].value > 3 * max(s.value for f, s in shares.items() if f not in ("background", "style"))
    assert top(result, "corners")["rotation"] < 0.05


def test_distances_rise_with_the_known_size_of_a_step(result: Sensitivity) -> None:
    steps = result.factors["mean_colour"].steps["colour"]
    assert [s.known for s in steps] == sorted(s.known for s in steps)
    assert steps[0].distance.value < steps[1].distance.value < steps[2].distance.value


def test_shares_of_factors_add_up_to_one(result: Sensitivity) -> None:
    for name, profile in result.factors.items():
        if name not in WITHOUT_SCALE:
            assert sum(share.value for share in profile.share.values()) == pytest.approx(1)


def test_a_background_metric_keeps_its_decisions_with_the_background_alone(result: Sensitivity) -> None:
    masks = result.masks["corners"]
    assert masks.background.low > 0.8
    assert covers(masks.foreground, 0.5) or masks.foreground.value == 0.5
    assert masks.difference.high < 0


def test_decisions_follow_the_feature_that_a_metric_measures(result: Sensitivity) -> None:
    for name, feature, other in (("histogram", "colour", "layout"), ("luminance", "layout", "colour")):
        features = result.features[name]
        assert features[feature].agreement.value > 0.97
        assert features[feature].correlation.value > 0.97
        assert features[feature].joint.low > max(0.0, features[other].joint.high)


def test_a_metric_of_luma_is_blind_to_hue(result: Sensitivity) -> None:
    for name in ("mean_luma", "luminance"):
        curve = result.robustness[name].curves["hue"]
        assert max(r.value for r in curve.relative) < 0.02
    assert result.robustness["histogram"].curves["hue"].relative[-1].low > 0.3


def test_a_shift_invariant_metric_does_not_see_shifts(result: Sensitivity) -> None:
    curves = result.robustness["spectrum"].curves
    assert max(r.value for r in curves["shift, wrapped"].relative) < 1e-3
    assert (
        result.robustness["spectrum"].shift_variance.value < 0.5 * result.robustness["luminance"].shift_variance.value
    )
    assert curves["contrast"].relative[-1].low > 0.05


def test_a_colour_histogram_withstands_shifts_and_a_layout_does_not(result: Sensitivity) -> None:
    assert result.robustness["histogram"].curves["shift, wrapped"].relative[-1].value < 1e-3
    assert result.robustness["luminance"].curves["shift, wrapped"].relative[-1].low > 0.1


def test_brightness_moves_a_mean_steadily(result: Sensitivity) -> None:
    assert result.robustness["mean_luma"].curves["brightness"].rising.low > 0.95


def test_a_constant_metric_has_no_profile(result: Sensitivity) -> None:
    for steps in result.factors["nothing"].steps.values():
        assert all(step.distance.value == 0 and math.isnan(step.relative.value) for step in steps)
    assert all(math.isnan(share.value) for share in result.factors["nothing"].share.values())
    assert result.masks["nothing"].decided == 0
    assert math.isnan(result.masks["nothing"].foreground.value)
    for correlation in result.features["nothing"].values():
        assert correlation.agreement.count == 0
        assert math.isnan(correlation.correlation.value) and math.isnan(correlation.joint.value)
    for curve in result.robustness["nothing"].curves.values():
        assert all(r.value == 0 for r in curve.distance) and curve.rising.value == 0


def test_an_offset_changes_no_relative_distance(result: Sensitivity) -> None:
    for factor, value in top(result, "luminance").items():
        assert top(result, "offset")[factor] == pytest.approx(value, abs=1e-4)
    assert result.factors["offset"].identical.value == 7 and result.factors["luminance"].identical.value == 0
    variances = (result.robustness[name].shift_variance.value for name in ("luminance", "offset"))
    assert next(variances) == pytest.approx(next(variances), abs=1e-4)


def test_a_metric_that_does_not_grow_with_the_difference_has_no_scale(result: Sensitivity) -> None:
    assert {note.split()[0] for note in result.notes()} == WITHOUT_SCALE
    for name in WITHOUT_SCALE:
        assert all(math.isnan(value) for value in top(result, name).values())
        assert all(math.isnan(share.value) for share in result.factors[name].share.values())
        assert math.isnan(result.robustness[name].shift_variance.value)
    assert "constant does not tell unrelated pictures from equal ones (mean distance 7 against 7)" in result.notes()[-2]
    assert result.masks["constant"].decided == 0
    assert (
        result.features["similarity"]["layout"].agreement.high < 0.1
    )  # its decisions are those of luminance, reversed


def test_intervals_of_a_metric_without_information_cover_chance(result: Sensitivity) -> None:
    masks, features = result.masks["noise"], result.features["noise"]
    intervals = [(masks.foreground, 0.5), (masks.background, 0.5), (masks.difference, 0.0)]
    for c in features.values():
        intervals += [(c.agreement, 0.5), (c.correlation, 0.0), (c.joint, 0.0)]
    intervals += [(curve.rising, 0.0) for curve in result.robustness["noise"].curves.values()]
    missed = sum(not covers(interval, chance) for interval, chance in intervals)
    assert missed <= 0.2 * len(intervals)


def write_triplets(folder: Path, count: int = 24, size: int = 48) -> Path:
    """Pictures of random colours whose middle quarter and surroundings vary on their own, and masks of that quarter."""
    random = np.random.default_rng(0)
    (folder / "masks").mkdir(parents=True)
    lines = ["id,left_vote,right_vote,votes,ref_path,left_path,right_path,split"]
    mask = np.zeros((size, size), np.uint8)
    mask[size // 4 : size - size // 4, size // 4 : size - size // 4] = 255
    for n in range(count):
        for role in "rab":
            pixels = np.kron(random.integers(0, 256, (8, 8, 3), np.uint8), np.ones((size // 8, size // 8, 1), np.uint8))
            PILImage.fromarray(pixels).save(folder / f"{n}_{role}.png")
            PILImage.fromarray(mask).save(folder / "masks" / f"{n}_{role}.png")
        lines.append(f"{n},1,0,7,{n}_r.png,{n}_a.png,{n}_b.png,train")
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("fill", ["grey", "mean", "blur"])
def test_foreground_and_background_metrics_are_told_apart_by_given_masks(tmp_path: Path, fill: Any) -> None:
    data = write_triplets(tmp_path / "set")
    analysis = Analysis(parts=("masks",), data=data, masks=data / "masks", fill=fill, resamples=200)
    masks = sensitivity({"centre": known.centre, "around": known.surroundings}, analysis, progress=False).masks
    assert masks["centre"].foreground.value == 1 and covers_chance(masks["centre"].background)
    assert masks["around"].background.value == 1 and covers_chance(masks["around"].foreground)
    assert masks["centre"].decided == masks["around"].decided == 1


def covers_chance(interval: Interval) -> bool:
    return interval.value == 0.5 or covers(interval, 0.5)

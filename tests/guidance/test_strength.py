"""A strength has the same effect whatever the model predicts, for every scaling of the state and at every image size.

The effect is the mean of guided samples of a standard normal prior, whose denoiser is known in closed form.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dreamsim_guidance.guidance import DPS, MPGD, FlowChef, Method, guide
from dreamsim_guidance.known_answers.exact_pipelines import exact_pipeline, final_state
from dreamsim_guidance.known_answers.gaussian_mixture import gaussian

TARGET = 0.9


def towards_grey(images: Tensor) -> Tensor:
    return (images - TARGET).square().flatten(1).mean(1)


def mean_of_samples(method: Method, sampler: str, prediction: str = "epsilon", side: int = 4) -> float:
    prior = gaussian(torch.zeros(side * side, dtype=torch.float64), torch.eye(side * side, dtype=torch.float64))
    pipe, arguments = exact_pipeline(prior, (1, side, side), sampler, prediction)
    with guide(pipe, towards_grey, method), final_state(pipe.scheduler) as last:
        pipe(batch_size=64, num_inference_steps=30, generator=torch.Generator().manual_seed(0), **arguments)
    return float(last[0].mean())


@pytest.mark.parametrize("method", [MPGD(0.5), DPS(2.0), FlowChef(0.3)], ids=lambda method: type(method).__name__)
def test_the_effect_of_a_strength_does_not_depend_on_what_the_model_predicts(method: Method) -> None:
    expected = mean_of_samples(method, "ddim", "epsilon")
    assert expected > 0.1  # the prior's mean is 0, the target's state 0.8
    for prediction in ("v_prediction", "sample"):
        assert mean_of_samples(method, "ddim", prediction) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("method", [MPGD(0.5), DPS(2.0)], ids=lambda method: type(method).__name__)
def test_the_effect_of_a_strength_does_not_depend_on_the_scaling_of_the_state(method: Method) -> None:
    expected = mean_of_samples(method, "ddim")
    # samplers visit different noise levels; Euler, the variance exploding form of the same schedule, agrees better than a flow
    assert mean_of_samples(method, "euler") == pytest.approx(expected, rel=0.1)
    assert mean_of_samples(method, "flow") == pytest.approx(expected, rel=0.35)


@pytest.mark.parametrize("method", [MPGD(0.5), DPS(2.0)], ids=lambda method: type(method).__name__)
def test_the_effect_of_a_strength_does_not_depend_on_the_size_of_the_image(method: Method) -> None:
    small, large = (mean_of_samples(method, "ddim", side=side) for side in (4, 12))
    assert large == pytest.approx(small, abs=0.05)

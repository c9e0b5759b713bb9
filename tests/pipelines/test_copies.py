"""A copy of a pipeline that is made while it is guided is an unguided pipeline that shares nothing with the original."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_pipeline import TinyPipeline
from tiny_pipelines import build
from torch import Tensor

from dreamsim_guidance.guidance import DPS, MPGD, TFG, Method, guide
from dreamsim_guidance.pipelines.patches import Patches


def brightness(images: Tensor) -> Tensor:
    return (images - 0.2).square().flatten(1).mean(1)


def pickled(pipe: Any) -> Any:
    return pickle.loads(pickle.dumps(pipe))


both_ways = pytest.mark.parametrize("copied", [copy.deepcopy, pickled], ids=["deepcopy", "pickle"])


@both_ways
@pytest.mark.parametrize("method", [MPGD(20.0), DPS(20.0), TFG(20.0, recurrence=2)], ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("family", ["ddim", "sd-v", "sd-img2img", "flux-dev"])
def test_a_copy_from_inside_a_guide_is_an_unguided_pipeline(
    family: str, method: Method, copied: Callable[[Any], Any]
) -> None:
    tiny = build(family)
    unguided = tiny.call(steps=2)
    with guide(tiny.pipe, brightness, method) as log:
        guided = tiny.call(steps=2)
        twin = TinyPipeline(family, copied(tiny.pipe), tiny.inputs)
        before = copy.deepcopy(log)
        assert torch.equal(twin.call(steps=2), unguided)
        assert log == before  # the run of the copy has not been logged
        assert torch.equal(tiny.call(steps=2), guided)
        with guide(twin.pipe, brightness, method):
            assert torch.equal(twin.call(steps=2), guided)
    assert torch.equal(twin.call(steps=2), unguided)
    assert torch.equal(tiny.call(steps=2), unguided)
    with guide(twin.pipe, brightness, method):
        assert torch.equal(twin.call(steps=2), guided)


def test_a_copy_made_while_a_call_runs_is_unguided() -> None:
    tiny, copies = build("sd-v"), []

    def copy_pipeline(pipe: Any, index: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        copies.append(copy.deepcopy(pipe))
        return kwargs

    unguided = tiny.call(steps=2)
    with guide(tiny.pipe, brightness, MPGD(20.0)):
        guided = tiny.call(steps=2)
        assert torch.equal(tiny.call(steps=2, callback_on_step_end=copy_pipeline), guided)
    for pipe in copies:
        assert torch.equal(TinyPipeline(tiny.family, pipe, tiny.inputs).call(steps=2), unguided)


class Counter:
    def __init__(self) -> None:
        self.count = 0

    def step(self) -> int:
        self.count += 1
        return self.count


@both_ways
def test_a_copy_has_the_method_that_was_there_before_the_patch(copied: Callable[[Any], Any]) -> None:
    counter = Counter()
    with Patches() as patches:
        patches.replace(counter, "step", lambda original: 10 * original())
        twin = copied(counter)
        assert (counter.step(), twin.step(), twin.count) == (10, 1, 1)
        with Patches() as inner_patches:
            inner_patches.replace(counter, "step", lambda original: 1 + original())
            assert (counter.step(), copied(counter).step()) == (21, 3)
    assert vars(counter) == {"count": 2}
    counter.step = abs  # type: ignore[assignment, method-assign]  # a replacement by other code
    with Patches() as patches:
        patches.replace(counter, "step", lambda original, x: 10 * original(x))
        assert (counter.step(-1), copied(counter).step(-1)) == (10, 1)

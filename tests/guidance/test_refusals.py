"""Clear errors and log entries where guidance fails: no scheduler, gradients that are not finite, lack of memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_pipelines import build
from torch import Tensor

from dreamsim_guidance.guidance import DPS, MPGD, TFG, Method, guide

both = pytest.mark.parametrize(
    "method", [MPGD(strength=5.0), DPS(strength=5.0)], ids=lambda method: type(method).__name__
)


def test_a_pipeline_needs_a_scheduler() -> None:
    class Painter:
        """An object that is no diffusion pipeline."""

    with pytest.raises(ValueError, match="Painter has no scheduler"), guide(Painter(), lambda images: images):
        pass


@pytest.mark.parametrize("method", [MPGD(), DPS(), TFG()], ids=lambda method: type(method).__name__)
def test_gradients_that_are_not_finite_are_left_out_and_counted(method: Method) -> None:
    tiny = build("sd-v")
    finite_loss, calls = tiny.loss(), []

    def loss(images: Tensor) -> Tensor:
        calls.append(1)
        factor = torch.tensor([float("nan"), 1.0]) if len(calls) == 2 else torch.ones(2)
        return finite_loss(images) * factor

    unguided = tiny.call(batch=2)
    with guide(tiny.pipe, loss, method) as log:
        images = tiny.call(batch=2)
    assert images.isfinite().all()
    assert log.skipped == 1 and "1 of 8 gradients were not finite" in log.summary()
    assert (finite_loss(images) < finite_loss(unguided)).all()


def test_lack_of_memory_says_what_helps() -> None:
    tiny = build("sd-v")

    def out_of_memory(images: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    message = r"CUDA out of memory.*AutoencoderTiny.*checkpointing=True"
    with pytest.raises(torch.OutOfMemoryError, match=message), guide(tiny.pipe, out_of_memory):
        tiny.call()


@pytest.mark.parametrize("method", [DPS(), MPGD()], ids=lambda method: type(method).__name__)
def test_lack_of_memory_in_the_denoiser_suggests_checkpointing_if_its_graph_is_kept(method: Method) -> None:
    tiny = build("sd-v")
    loss = tiny.loss()

    def out_of_memory(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    hook = tiny.denoiser.register_forward_hook(out_of_memory)
    with pytest.raises(torch.OutOfMemoryError) as caught, guide(tiny.pipe, loss, method):
        tiny.call()
    hook.remove()
    assert ("checkpointing=True" in str(caught.value)) == isinstance(method, DPS)
    tiny.call()


class BrokenBackward(torch.autograd.Function):
    """The identity, with a gradient that is NaN for the first image of a batch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        broken = gradient.clone()
        broken[0] = torch.nan
        return broken


def test_nan_gradients_from_the_denoiser_are_left_out_and_counted() -> None:
    tiny = build("flux-dev")
    loss, unguided = tiny.loss(), tiny.call(batch=2)
    hook = tiny.denoiser.register_forward_hook(lambda module, args, output: (BrokenBackward.apply(output[0]),))
    with pytest.warns(UserWarning, match="4 of the 8 gradients"), guide(tiny.pipe, loss, DPS()) as log:
        images = tiny.call(batch=2)
    hook.remove()
    assert torch.allclose(images[0], unguided[0], atol=1e-4)
    assert float(loss(images)[1]) < float(loss(unguided)[1])
    assert [entry.skipped for entry in log.entries] == [1] * 4

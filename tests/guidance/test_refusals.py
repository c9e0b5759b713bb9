"""What cannot be guided says so: pipelines without a scheduler, broken gradients, lack of memory."""

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
        """No diffusion at all."""

    with pytest.raises(ValueError, match="Painter has no scheduler"), guide(Painter(), lambda images: images):
        pass


@pytest.mark.parametrize("method", [MPGD(), DPS(), TFG()], ids=lambda method: type(method).__name__)
def test_gradients_that_are_not_finite_are_left_out_and_counted(method: Method) -> None:
    tiny = build("sd-v")
    good, looks = tiny.loss(), []

    def loss(images: Tensor) -> Tensor:
        looks.append(1)
        broken = torch.tensor([float("nan"), 1.0]) if len(looks) == 2 else torch.ones(2)
        return good(images) * broken

    unguided = tiny.call(batch=2)
    with guide(tiny.pipe, loss, method) as log:
        images = tiny.call(batch=2)
    assert images.isfinite().all()
    assert log.skipped == 1 and "1 of 8 gradients were not finite" in log.summary()
    assert (good(images) < good(unguided)).all()


def test_lack_of_memory_says_what_helps() -> None:
    tiny = build("sd-v")

    def hungry(images: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    helpful = r"CUDA out of memory.*AutoencoderTiny.*checkpointing=True"
    with pytest.raises(torch.OutOfMemoryError, match=helpful), guide(tiny.pipe, hungry):
        tiny.call()


@pytest.mark.parametrize("method", [DPS(), MPGD()], ids=lambda method: type(method).__name__)
def test_lack_of_memory_in_the_denoiser_says_what_helps_where_its_graph_is_kept(method: Method) -> None:
    tiny = build("sd-v")
    loss = tiny.loss()

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    hook = tiny.denoiser.register_forward_hook(full)
    with pytest.raises(torch.OutOfMemoryError) as caught, guide(tiny.pipe, loss, method):
        tiny.call()
    hook.remove()
    assert ("checkpointing=True" in str(caught.value)) == isinstance(method, DPS)
    tiny.call()


class BrokenBackward(torch.autograd.Function):
    """The identity, whose gradient for the first of a batch is not a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        broken = gradient.clone()
        broken[0] = torch.nan
        return broken


def test_gradients_that_the_denoiser_breaks_are_left_out_and_counted() -> None:
    tiny = build("flux-dev")
    loss, unguided = tiny.loss(), tiny.call(batch=2)
    hook = tiny.denoiser.register_forward_hook(lambda module, args, output: (BrokenBackward.apply(output[0]),))
    with pytest.warns(UserWarning, match="4 of the 8 gradients"), guide(tiny.pipe, loss, DPS()) as log:
        images = tiny.call(batch=2)
    hook.remove()
    assert torch.allclose(images[0], unguided[0], atol=1e-4)
    assert float(loss(images)[1]) < float(loss(unguided)[1])
    assert [entry.skipped for entry in log.entries] == [1] * 4

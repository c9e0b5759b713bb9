"""Parts of a denoiser that cut the gradient are refused by name, and what only looks like one is not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_pipelines import build
from torch import Tensor, nn

from dreamsim_guidance import differentiable
from dreamsim_guidance.guidance import DPS, MPGD, guide
from dreamsim_guidance.inversion import Noise
from dreamsim_guidance.pipelines.gradient_path import refusing_cut_gradients

LIBRARY = torch.library.Library("dreamsim_guidance_tests", "DEF")
LIBRARY.define("inference_only(Tensor x) -> Tensor")


@torch.library.impl(LIBRARY, "inference_only", "CPU")
def _inference_only(x: Tensor) -> Tensor:
    """A kernel that was written for inference: registered without a backward."""
    with torch._C._AutoDispatchBelowAutograd():
        return 1.5 * x


def cut(x: Tensor) -> Tensor:
    """A kernel of a package that knows no autograd, such as the one for attention in eight bits."""
    return torch.from_numpy((1.5 * x.detach()).numpy())


def unfinished(x: Tensor) -> Tensor:
    return torch.ops.dreamsim_guidance_tests.inference_only(x)


class Layer(nn.Linear):
    """Stands for a quantised layer."""

    kernel: Any = staticmethod(cut)

    def forward(self, x: Tensor) -> Tensor:
        return type(self).kernel(super().forward(x))


class Network(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.last = inner, nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x + self.inner(x))  # the residual connection still carries a gradient


def run(network: nn.Module) -> Tensor:
    with refusing_cut_gradients(network):
        return network(torch.ones(1, 4, requires_grad=True))


@pytest.mark.parametrize("kernel", [cut, unfinished])
def test_a_layer_without_a_backward_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, kernel: Any) -> None:
    monkeypatch.setattr(Layer, "kernel", staticmethod(kernel))
    network = Network(nn.Sequential(nn.Linear(4, 4), Layer(4, 4))).requires_grad_(False)
    with pytest.raises(ValueError, match=r"no gradient passes through 'inner\.1' \(Layer\) of Network"):
        run(network)
    assert not any(part._forward_hooks for part in network.modules())


class Positions(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.arange(x.shape[-1]).to(x).sin()


def test_what_depends_on_the_shape_alone_is_no_cut() -> None:
    assert run(Network(Positions())).requires_grad


def test_layers_with_a_backward_pass_and_no_hook_stays() -> None:
    network = Network(nn.Sequential(nn.Linear(4, 4), nn.GELU()))
    assert run(network).requires_grad
    assert not any(part._forward_hooks for part in network.modules())


def test_compiled_networks_are_not_watched() -> None:
    network = Network(Layer(4, 4)).requires_grad_(False)
    network.inner.compile(backend="eager")
    assert run(network).requires_grad
    torch._dynamo.reset()


@pytest.mark.parametrize("family", ["sd-v", "sd3", "flux-schnell"])
def test_attention_without_a_backward_is_refused_where_a_gradient_must_pass(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = build(family)
    attention = torch.nn.functional.scaled_dot_product_attention

    def without_graph(*args: Any, **kwargs: Any) -> Tensor:
        return attention(*args, **kwargs).detach()

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", without_graph)
    part: Any = next(module for module in tiny.denoiser.modules() if hasattr(module, "processor"))
    part.processor._attention_backend = None if family == "sd-v" else "native"
    through = Noise(tiny.pipe, num_inference_steps=1, **tiny.inputs(1))
    latents = through.sample(1, torch.Generator().manual_seed(0))
    assert through(latents).isfinite().all()  # no gradient is needed here
    backend = "" if family == "sd-v" else ", attention backend native"
    message = rf"no gradient passes through '[\w.]+' \(\w*Attention{backend}\).*set_attention_backend"
    with pytest.raises(ValueError, match=message), differentiable(tiny.pipe):
        through(latents.requires_grad_())
    loss = tiny.loss(steps=2)
    with pytest.raises(ValueError, match=message), guide(tiny.pipe, loss, DPS()):
        tiny.call(steps=2)
    with guide(tiny.pipe, loss, MPGD()) as log:
        tiny.call(steps=2)
    assert any(entry.guided for entry in log.entries)

"""Freezing a pipeline's networks for a while, and checkpointing their activations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import nn

__all__ = [
    "checkpointed",
    "denoiser_of",
    "frozen",
    "networks_of",
    "refuse_inference_tensors",
    "refuse_meta_tensors",
    "without_gradients",
]

_SWITCHES = ("gradient_checkpointing", "_gradient_checkpointing_func")


def denoiser_of(pipe: Any) -> nn.Module | None:
    """The network that a pipeline calls at each step; None if it has none."""
    for name in ("transformer", "unet", "prior"):
        network = getattr(pipe, name, None)
        if isinstance(network, nn.Module):
            return network
    return None


def networks_of(pipe: Any) -> list[nn.Module]:
    """All networks of a pipeline."""
    return [module for module in getattr(pipe, "components", {}).values() if isinstance(module, nn.Module)]


def refuse_inference_tensors(pipe: Any) -> None:
    """Raise `RuntimeError` if the pipeline was loaded under `torch.inference_mode()`."""
    for network in networks_of(pipe):
        if any(parameter.is_inference() for parameter in network.parameters()):
            raise RuntimeError(
                f"{type(network).__name__} was loaded under torch.inference_mode(), whose tensors can never take part in a "
                "gradient; load the pipeline outside of it."
            )


def refuse_meta_tensors(networks: Iterable[nn.Module]) -> None:
    """Raise `RuntimeError` if a network that is going to be run is on the meta device, which has shapes but no numbers."""
    for network in networks:
        if any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers())):
            raise RuntimeError(
                f"{type(network).__name__} is on the meta device, where tensors have shapes and no numbers, so it cannot be "
                "run; load its weights onto a real device first."
            )


@contextmanager
def without_gradients(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Switch off `requires_grad` of all parameters in the block, so that nothing is kept for their gradients.

    To be used around differentiated code only: torch multiplies matrices in another order where a weight requires a gradient,
    even under `no_grad`, and the pipeline's own results must not change in their last bit.
    """
    trainable = [p for network in networks for p in network.parameters() if p.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def frozen(pipe: Any) -> AbstractContextManager[None]:
    """Switch off `requires_grad` of all the pipeline's parameters in the block."""
    return without_gradients(networks_of(pipe))


@contextmanager
def checkpointed(pipe: Any) -> Iterator[None]:
    """Switch on gradient checkpointing in all networks of the pipeline that support it, in the block."""
    before: list[tuple[nn.Module, dict[str, Any]]] = []
    try:
        for module in networks_of(pipe):
            if getattr(module, "_supports_gradient_checkpointing", False):
                for part in module.modules():
                    before.append((part, {name: vars(part)[name] for name in _SWITCHES if name in vars(part)}))
                module.enable_gradient_checkpointing()  # type: ignore[operator]
        yield
    finally:
        for part, switches in before:
            for name in _SWITCHES:
                vars(part).pop(name, None)
            vars(part).update(switches)

"""Networks without gradients of their own for a while, and with checkpointed activations where that is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import nn

__all__ = ["checkpointed", "denoiser_of", "frozen", "networks_of", "refuse_inference_tensors", "without_gradients"]

_SWITCHES = ("gradient_checkpointing", "_gradient_checkpointing_func")


def denoiser_of(pipe: Any) -> nn.Module | None:
    """The network that a pipeline calls at each step."""
    for name in ("transformer", "unet", "prior"):
        found = getattr(pipe, name, None)
        if isinstance(found, nn.Module):
            return found
    return None


def networks_of(pipe: Any) -> list[nn.Module]:
    """All networks of a pipeline."""
    return [module for module in getattr(pipe, "components", {}).values() if isinstance(module, nn.Module)]


def refuse_inference_tensors(pipe: Any) -> None:
    """Raise `RuntimeError` if the pipeline was loaded under `torch.inference_mode()`."""
    for network in networks_of(pipe):
        if any(parameter.is_inference() for parameter in network.parameters()):
            raise RuntimeError(
                f"{type(network).__name__} was loaded under torch.inference_mode(), whose tensors can take part in no gradient "
                "ever; load the pipeline outside of it."
            )


@contextmanager
def without_gradients(networks: Iterable[nn.Module]) -> Iterator[None]:
    """No parameter asks for a gradient, so that nothing is kept for one; put back after.

    Only around what is differentiated: torch multiplies matrices in another order where a weight asks for a gradient, even
    under `no_grad`, and what the pipeline computes for itself shall not change in its last bit.
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
    """No parameter of the pipeline asks for a gradient; put back after."""
    return without_gradients(networks_of(pipe))


@contextmanager
def checkpointed(pipe: Any) -> Iterator[None]:
    """The pipeline's networks checkpoint their activations if they can; put back after."""
    switches: list[tuple[nn.Module, dict[str, Any]]] = []
    try:
        for module in networks_of(pipe):
            if getattr(module, "_supports_gradient_checkpointing", False):
                for part in module.modules():
                    switches.append((part, {name: vars(part)[name] for name in _SWITCHES if name in vars(part)}))
                module.enable_gradient_checkpointing()  # type: ignore[operator]
        yield
    finally:
        for part, kept in switches:
            for name in _SWITCHES:
                vars(part).pop(name, None)
            vars(part).update(kept)

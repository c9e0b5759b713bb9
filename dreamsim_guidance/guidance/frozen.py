"""Networks without gradients of their own for a while, and with checkpointed activations where that is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

__all__ = ["denoiser_of", "frozen", "networks_of"]

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


@contextmanager
def frozen(pipe: Any, checkpointing: bool = False) -> Iterator[None]:
    """No parameter of the pipeline asks for a gradient, and its networks checkpoint if they can; all put back after."""
    trainable = [p for module in networks_of(pipe) for p in module.parameters() if p.requires_grad]
    switches: list[tuple[nn.Module, dict[str, Any]]] = []
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        for module in networks_of(pipe) if checkpointing else ():
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
        for parameter in trainable:
            parameter.requires_grad_(True)

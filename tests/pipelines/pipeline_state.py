"""The state of a pipeline that guidance might leave changed, for comparison before and after."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def state_of(pipe: Any, of_scheduler: bool = True) -> dict[str, Any]:
    """Attributes, hooks, flags and configurations of the pipeline and its parts; comparable with `==`.

    of_scheduler: include the scheduler's counters and history, which a run without guidance changes too.
    """
    state: dict[str, Any] = {"grad": torch.is_grad_enabled(), "pipe": names_of(pipe)}
    components = {name: part for name, part in pipe.components.items() if part is not None}
    for name, part in components.items():
        state[name] = names_of(part)
        if hasattr(part, "config"):
            state[f"{name}.config"] = str(part.config)
        if isinstance(part, nn.Module):
            for path, module in part.named_modules():
                state[f"{name}.{path}"] = names_of(module)
                state[f"{name}.{path} hooks"] = [len(getattr(module, hooks)) for hooks in HOOKS]
                state[f"{name}.{path} modes"] = module.training, getattr(module, "gradient_checkpointing", None)
            for path, parameter in part.named_parameters():
                state[f"{name}.{path} parameter"] = parameter.requires_grad, parameter.grad is None, parameter.dtype
    if of_scheduler:
        state["scheduler values"] = {name: plain(value) for name, value in vars(pipe.scheduler).items()}
    for depth, block in enumerate(blocks_of(pipe)):
        state[f"block {depth}"] = names_of(block)
    return state


def names_of(owner: Any) -> list[str]:
    return sorted(vars(owner))


def plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    return [plain(item) for item in value] if isinstance(value, list | tuple) else str(value)


def blocks_of(block: Any) -> list[Any]:
    outer = getattr(block, "_blocks", None)
    inner = [part for sub in getattr(block, "sub_blocks", {}).values() for part in [sub, *blocks_of(sub)]]
    return inner + (blocks_of(outer) if outer is not None else [])

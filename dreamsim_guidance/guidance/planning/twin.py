"""Copies of networks with shapes instead of numbers: they take no memory and compute nothing.

A twin has the class and the configuration of its original, and PyTorch's fake tensors for weights. Inside a FakeTensorMode it
runs its real code on shapes. Outside it takes its original's place in code that works with numbers: it returns zeros of the
shapes that the original would return, and reports each call to a listener.
"""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves

__all__ = ["Listener", "as_fake", "bytes_of", "mapped", "tensors_in", "twin_of", "twin_of_object", "without_numbers"]

Listener = Callable[[nn.Module, str, tuple[Any, ...], dict[str, Any], Any], None]
"""Receives each call from outside: the twin, the method's name, its arguments and its result, all with numbers."""

_OPAQUE = (type, types.ModuleType, str, bytes, int, float)
"""Objects that hold no tensors, or that are shared by everyone."""

_ENTRANCES = ("__call__", "encode", "decode")


def without_numbers() -> FakeTensorMode:
    """The mode in which twins run; of real tensors only the shapes are used."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def twin_of(module: nn.Module, mode: FakeTensorMode, listener: Listener | None = None) -> nn.Module:
    """A twin of `module`, on the CPU, without hooks of offloading, in the same training or evaluation mode."""
    module = getattr(module, "_orig_mod", module)  # inside torch.compile's wrapper
    twin = twin_of_object(module, mode)
    if any(hasattr(part, "_hf_hook") for part in twin.modules()):
        from accelerate.hooks import remove_hook_from_module

        remove_hook_from_module(twin, recurse=True)
    twin.requires_grad_(False)
    twin.__class__ = _stand_in(type(module), mode, listener)
    return twin


def twin_of_object(owner: Any, mode: FakeTensorMode) -> Any:
    """A deep copy whose tensors are fake and on the CPU."""
    memo: dict[int, Any] = {}
    with mode:
        for tensor in tensors_in(owner):
            fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
            memo[id(tensor)] = nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake
        return copy.deepcopy(owner, memo)


def tensors_in(owner: Any) -> Iterator[Tensor]:
    """All tensors that belong to an object, also through containers, closures, partial functions and attributes."""
    seen: set[int] = set()
    waiting = [owner]
    while waiting:
        owner = waiting.pop()
        if id(owner) in seen or isinstance(owner, _OPAQUE):
            continue
        seen.add(id(owner))
        if isinstance(owner, Tensor):
            yield owner
        elif isinstance(owner, dict):
            waiting += list(owner.values())
        elif isinstance(owner, list | tuple | set):
            waiting += list(owner)
        elif isinstance(owner, functools.partial):
            waiting += [owner.func, owner.args, owner.keywords]
        elif isinstance(owner, types.MethodType):
            waiting.append(owner.__self__)
        elif isinstance(owner, types.FunctionType):
            waiting += [cell.cell_contents for cell in owner.__closure__ or () if _filled(cell)]
        elif hasattr(owner, "__dict__"):
            waiting.append(vars(owner))


def bytes_of(*owners: Any) -> int:
    """Bytes of all tensors that belong to these objects, each storage once."""
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors_in(owners)}
    return sum(storages.values())


def as_fake(value: Any, mode: FakeTensorMode) -> Any:
    """The same value with its tensors replaced by their shapes, on the CPU."""
    return mapped(value, functools.partial(_fake, mode))


def _fake(mode: FakeTensorMode, tensor: Tensor) -> Tensor:
    if isinstance(tensor, FakeTensor):
        return tensor
    with mode:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")


def _as_zeros(value: Any) -> Any:
    return mapped(value, lambda tensor: torch.zeros(tensor.shape, dtype=tensor.dtype))


def mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The same structure with `function` applied to its tensors, in order; results of libraries keep their class."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        changed = {key: mapped(item, function) for key, item in value.items()}
        return changed if type(value) is dict else type(value)(**changed)
    if isinstance(value, list | tuple):
        items = [mapped(item, function) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if any(isinstance(item, Tensor) for item in getattr(value, "__dict__", {}).values()):  # a distribution
        changed_object = copy.copy(value)
        vars(changed_object).update({key: mapped(item, function) for key, item in vars(value).items()})
        return changed_object
    return value


def _stand_in(kind: type[nn.Module], mode: FakeTensorMode, listener: Listener | None) -> type[nn.Module]:
    """A subclass whose entrances accept numbers as well as shapes."""

    def entrance(name: str) -> Callable[..., Any]:
        original = getattr(kind, name)

        @functools.wraps(original)
        def enter(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if any(isinstance(leaf, FakeTensor) for leaf in tree_leaves((args, kwargs))):
                return original(self, *args, **kwargs)
            shapes = as_fake((args, kwargs), mode)
            try:
                with mode:
                    result = original(self, *shapes[0], **shapes[1])
            except Exception as error:
                raise RuntimeError(
                    f"{kind.__name__} cannot be run on shapes alone ({type(error).__name__}: {error}). If it encodes the "
                    "prompt, pass embeddings instead, such as prompt_embeds=."
                ) from error
            zeros = _as_zeros(result)
            if listener is not None:
                listener(self, name, args, kwargs, zeros)
            return zeros

        return enter

    def to(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        dtype = torch._C._nn._parse_to(*args, **kwargs)[1]
        with mode:
            for part in self.modules() if dtype is not None else ():
                for key, parameter in part._parameters.items():
                    if parameter is not None and parameter.is_floating_point():
                        part._parameters[key] = nn.Parameter(parameter.detach().to(dtype), False)
                for key, buffer in part._buffers.items():
                    if buffer is not None and buffer.is_floating_point():
                        part._buffers[key] = buffer.to(dtype)
        return self

    members: dict[str, Any] = {name: entrance(name) for name in _ENTRANCES if hasattr(kind, name)}
    return type(kind.__name__, (kind,), {**members, "to": to, "__module__": kind.__module__})


def _filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018  # empty cells raise
    except ValueError:
        return False
    return True

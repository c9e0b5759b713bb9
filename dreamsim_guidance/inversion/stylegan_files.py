"""Read the weights of StyleGAN2-ADA and StyleGAN3 files without running the code that the files carry.

An official file is a pickle of a dictionary with the networks G, D and G_ema. Each of their modules was written by NVIDIA's
`torch_utils.persistence` as the source text of its class and the module's state, and `pickle.load` executes that text. Here
the text is skipped, and the weights are taken from the state: `_parameters`, `_buffers` and `_modules`, as in `state_dict`.

NVIDIA's code and weights are under licences of theirs that exclude commercial use; this library contains neither.

Karras et al., Training Generative Adversarial Networks with Limited Data, NeurIPS 2020;
Karras et al., Alias-Free Generative Adversarial Networks, NeurIPS 2021.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamsim_guidance.files.inert_pickle import read_pickle
from dreamsim_guidance.files.names import printable

__all__ = ["read_stylegan_pkl"]


def read_stylegan_pkl(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the generator G_ema of a StyleGAN2-ADA or StyleGAN3 file; no code of the file is executed or imported.

    path: `.pkl` file of NVIDIA's PyTorch code or of a training with it. Files of the TensorFlow code must be converted first.

    Returns `(state_dict, config)`. `state_dict` holds the generator's parameters and persistent buffers on the CPU, in the
    file's precision and under the names of `Module.state_dict`. `config` holds what the generator was made with, as values
    that JSON has: `class_name`, `init_args` (list) and `init_kwargs` (dict; `z_dim`, `w_dim`, `img_resolution`, ...).

    Raises ValueError, which names what a file asks for beyond weights, and for damaged, empty and other files; OSError if the
    file cannot be opened.
    """
    with Path(path).open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise ValueError(f"{path} is empty; get the file again.")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content[:4] == b"PK\x03\x04":
                raise ValueError(
                    f"{path} is a zip, not a StyleGAN pickle. If torch.save wrote it, read its weights with "
                    "torch.load(path, map_location='cpu', weights_only=True)."
                )
            try:
                return _generator(content)
            except Exception as error:  # a hostile file can make any part fail in any way
                reason = printable(f"{'' if type(error) is ValueError else type(error).__name__ + ': '}{error}"[:500])
                raise ValueError(
                    f"{path} cannot be read as a StyleGAN2-ADA or StyleGAN3 file: {reason}. Nothing in it was executed."
                ) from error


@dataclass(eq=False)
class _Module:
    """A module as it lies in the file."""

    class_name: str
    state: dict[str, Any]


@dataclass(eq=False)
class _Array:
    """An array of NumPy, which a pickle makes empty and fills later."""

    values: np.ndarray | None = None


class _StorageReader:
    """Read the bytes in which a pickled tensor keeps its numbers, torch.save's format before torch 1.6, onto the CPU.

    Five pickles (a magic number, a version, the machine, the storage's type and length, the keys), then the length and the
    data; the device is ignored.
    `limit` bounds the bytes of all storages together: a file that refers to the same bytes again and again is refused.
    """

    def __init__(self, limit: int) -> None:
        self.unread = limit

    def __call__(self, content: Any) -> Tensor:
        self.unread -= len(content)
        if self.unread < 0:
            raise ValueError("its tensors are larger than the file")
        stream = io.BytesIO(content)
        magic, _, machine = (read_pickle(stream, {}) for _ in range(3))
        if magic != 0x1950A86A20F9469CFC6C or not machine["little_endian"]:
            raise ValueError("a tensor's numbers are not in PyTorch's format of little-endian machines")
        kind, dtype, _, _, count, view = read_pickle(stream, _STORAGES, persistent=lambda identity: identity)
        read_pickle(stream, {})
        length = int.from_bytes(stream.read(8), "little")
        data = bytearray(memoryview(content)[stream.tell() :])
        if kind != "storage" or view is not None or not length == count == len(data) / dtype.itemsize:
            raise ValueError("a tensor's numbers are damaged")
        return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)


# The functions that a file may call. Their arguments come from the file, and may be anything.


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *flags: Any) -> Tensor:
    if len(flags) > 2 and flags[2]:  # requires_grad, hooks, metadata
        raise ValueError("it has a tensor with lazy conjugation or negation")
    count = math.prod(size)
    end = offset + 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else offset
    if (
        not isinstance(storage, Tensor)
        or min(offset, *size, *stride, 0) < 0
        or len(size) > 8
        or max(count, end) > storage.numel()
    ):
        raise ValueError(f"it has a tensor of shape {tuple(size[:8])!r:.100} that does not fit its numbers")
    return storage.as_strided(size, stride, offset)  # never enlarges the storage, as Tensor.set_ does


def _tensor_with_attributes(function: Any, _type: Any, arguments: Any, _state: Any) -> Any:
    return function(*arguments)


def _parameter(tensor: Any, *_requires_grad_hooks_and_state: Any) -> Any:
    return tensor


def _mapping() -> dict[Any, Any]:
    return {}


def _set(items: Any) -> list[Any]:
    """A set of an old pickle, as its list: a copy at each call would let a small file take much memory."""
    if type(items) is not list:
        raise ValueError("it has a set that is not made of a list")
    return items


def _dtype(code: Any, *_flags: Any) -> np.dtype:
    if not re.fullmatch("[biuf][1248]", code):
        raise ValueError(f"it asks for an array of type {code[:100]!r}")
    return np.dtype(f"<{code}")


def _values(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(dtype, np.dtype):
        raise ValueError("it has an array without a type")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if order in ("F", True) else "C")


def _scalar(dtype: Any, data: Any) -> Any:
    return _values(data, dtype, (1,), "C").item()


def _empty_array(*_: Any) -> _Array:
    return _Array()


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    return _Array(_values(data, dtype, shape, order))


def _build(thing: Any, state: Any) -> None:
    if isinstance(thing, np.dtype) and state[1] in ("<", "|", "="):
        return
    if not isinstance(thing, _Array):
        raise ValueError(f"it sets the state of a {type(thing).__name__}")
    _, shape, dtype, column_major, data = state
    thing.values = _values(data, dtype, shape, column_major)


def _persistent_object(meta: Any) -> _Module:
    if meta["type"] != "class" or type(meta["class_name"]) is not str or type(meta["state"]) is not dict:
        raise ValueError("it has a module without a class or a state")
    return _Module(meta["class_name"], meta["state"])  # meta["module_src"], the source text, is not used


def _tensorflow_network() -> None:
    raise ValueError("it was written by the TensorFlow code; convert it with legacy.py of NVIDIA's PyTorch code")


_STORAGES = {
    f"{module}.{kind}Storage": dtype
    for module in ("torch", "torch.cuda")
    for kind, dtype in {
        "Float": torch.float32,
        "Double": torch.float64,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}

_NAMES: Mapping[str, Any] = {
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent_object,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _tensor_with_attributes,
    "collections.OrderedDict": _mapping,
    "dnnlib.util.EasyDict": _mapping,
    "builtins.set": _set,
    "numpy.dtype": _dtype,
    **{
        f"numpy.{core}.{name}": function
        for core in ("core", "_core")
        for name, function in {
            "multiarray.scalar": _scalar,
            "multiarray._reconstruct": _empty_array,
            "numeric._frombuffer": _array,
        }.items()
    },
    **dict.fromkeys(("torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter", "numpy.ndarray")),
    "dnnlib.tflib.network.Network": _tensorflow_network,
}
"""What a file may name. Types that are only passed on are None."""


def _generator(content: mmap.mmap) -> tuple[dict[str, Tensor], dict[str, Any]]:
    names = {**_NAMES, "torch.storage._load_from_bytes": _StorageReader(len(content))}
    networks = read_pickle(content, names, build=_build)
    if type(networks) is not dict or not isinstance(networks.get("G_ema"), _Module):
        holds = ", ".join(map(str, networks))[:200] if type(networks) is dict else f"a {type(networks).__name__}"
        raise ValueError(f"it has no network G_ema, it holds {holds or 'nothing'}")
    generator: _Module = networks["G_ema"]
    config = {
        "class_name": generator.class_name,
        "init_args": generator.state["_init_args"],
        "init_kwargs": generator.state["_init_kwargs"],
    }
    return dict(_tensors(generator, "", set())), _plain(config, iter(range(10_000)))


def _tensors(module: Any, prefix: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    if not isinstance(module, _Module) or id(module) in seen:
        raise ValueError(f"{prefix[:200] or 'G_ema'} is not a module, or is one that occurs twice")
    seen.add(id(module))
    transient = module.state.get("_non_persistent_buffers_set", ())
    buffers = {name: buffer for name, buffer in module.state["_buffers"].items() if name not in transient}
    for name, tensor in (module.state["_parameters"] | buffers).items():
        if tensor is None:
            continue
        if type(name) is not str or not isinstance(tensor, Tensor):
            raise ValueError(f"{prefix[:200]}{name!s:.100} is not a tensor")
        yield prefix + name, tensor
    for name, child in module.state["_modules"].items():
        if child is not None:
            yield from _tensors(child, f"{prefix}{name}.", seen)


def _plain(value: Any, budget: Iterator[int]) -> Any:
    """`value` as JSON has it; at most as many values as `budget` yields, since a small file can repeat a list exponentially."""
    if next(budget, None) is None:
        raise ValueError("its settings are too many")
    if isinstance(value, _Array) and value.values is not None:
        value = value.values.tolist() if value.values.size else []
    if isinstance(value, dict):
        return {str(key): _plain(entry, budget) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry, budget) for entry in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f"its settings contain a {type(value).__name__}")

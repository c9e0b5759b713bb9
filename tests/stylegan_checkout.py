"""A folder with the structure of NVIDIA's StyleGAN code, and files as that code writes them. No line of it is NVIDIA's.

What matters is the same: the names in the pickle, the source text in it, and states of modules with parameters, buffers,
settings and NumPy's numbers.
"""

from __future__ import annotations

import importlib
import io
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

PERSISTENCE = """
import inspect
import sys


def _reconstruct_persistent_obj(meta):
    space = {"__name__": "imported"}
    exec(meta["module_src"], space)
    thing = object.__new__(persistent_class(space[meta["class_name"]]))
    thing.__dict__.update(meta["state"])
    return thing


def persistent_class(original):
    class Decorator(original):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self._init_args, self._init_kwargs = args, kwargs

        def __reduce__(self):
            source = getattr(sys.modules.get(original.__module__), "TRAP", None) or "raise SystemError('it ran')"
            state = super().__reduce__()[2]
            meta = dict(type="class", version=6, module_src=source, class_name=original.__name__, state=state)
            return _reconstruct_persistent_obj, (meta,), None

        def __deepcopy__(self, memo):
            import copy

            twin = object.__new__(type(self))
            twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
            return twin

    Decorator.__name__ = original.__name__
    return Decorator
"""

DNNLIB = """
class EasyDict(dict):
    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name)
"""

STYLEGAN2 = """
import numpy as np
import torch
from torch_utils import persistence


@persistence.persistent_class
class Layer(torch.nn.Module):
    def __init__(self, inputs, outputs, bias=True):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(outputs, inputs))
        self.bias = torch.nn.Parameter(torch.randn(outputs)) if bias else None
        self.weight_gain = 1 / np.sqrt(inputs)

    def forward(self, x):
        y = x @ self.weight.T * float(self.weight_gain)
        return y if self.bias is None else y + self.bias


@persistence.persistent_class
class Generator(torch.nn.Module):
    def __init__(self, z_dim, img_resolution, mapping_kwargs={}):
        super().__init__()
        self.mapping = Layer(z_dim, 4, **mapping_kwargs)
        self.b4 = Layer(4, 3, bias=False)
        self.resolutions = [2**i for i in range(2, int(np.log2(img_resolution)) + 1)]
        self.register_buffer("w_avg", torch.randn(4))
        self.register_buffer("filter", torch.randn(3, 5).T)
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("coarse", torch.randn(2, 2).half())
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("scratch", torch.randn(2), persistent=False)
        self.register_buffer("nothing", None)

    def forward(self, z):
        return self.b4(self.mapping(z) + self.w_avg)
"""

STYLEGAN3 = """
import numpy as np
import torch
from torch_utils import persistence


@persistence.persistent_class
class SynthesisInput(torch.nn.Module):
    def __init__(self, bandwidth, size):
        super().__init__()
        self.bandwidth = np.float64(bandwidth)
        self.size = np.broadcast_to(np.asarray(size), [2])
        self.margins = np.arange(6, dtype=np.float32).reshape(2, 3)
        self.register_buffer("transform", torch.eye(3))
        self.register_buffer("freqs", torch.randn(4, 2))


@persistence.persistent_class
class Generator(torch.nn.Module):
    def __init__(self, z_dim, sizes, cutoff, magnitude_ema_beta=0.5, **synthesis_kwargs):
        super().__init__()
        self.input = SynthesisInput(cutoff, int(sizes[0]))
        self.L0_36_512 = torch.nn.Module.__new__(SynthesisInput)
        self.L0_36_512.__init__(np.float32(2), 4)
        self.register_buffer("magnitude_ema", torch.ones([]))
        self.weight = torch.nn.Parameter(torch.randn(z_dim, 3))

    def forward(self, z):
        return z @ self.weight
"""


def checkout(folder: Path, **networks: str) -> Path:
    """A folder of code with `training/NAME.py` for each of `networks`, all of `torch_utils` and `dnnlib` that they need."""
    files = {f"training/{name}.py": text for name, text in networks.items()}
    files |= {"torch_utils/persistence.py": PERSISTENCE, "dnnlib/util.py": DNNLIB, "legacy.py": ""}
    files |= {f"{name}/__init__.py": "" for name in ("training", "torch_utils")} | {
        "dnnlib/__init__.py": "from .util import EasyDict\n"
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@contextmanager
def imported(code: Path) -> Iterator[None]:
    """`code` as NVIDIA's own scripts import it."""
    before = dict(sys.modules)
    sys.path.insert(0, str(code))
    try:
        yield
    finally:
        sys.path.remove(str(code))
        for name in ("training", "torch_utils", "dnnlib", "legacy"):
            for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == name]:
                del sys.modules[loaded]
                if loaded in before:
                    sys.modules[loaded] = before[loaded]


def write(path: Path, code: Path, module: str, protocol: int, trap: str, **settings: Any) -> torch.nn.Module:
    """Write a training's file of `module.Generator(**settings)`, whose source text is `trap`; returns the generator."""
    with imported(code):
        networks = importlib.import_module(f"training.{module}")
        networks.TRAP = trap  # type: ignore[attr-defined]
        easy = importlib.import_module("dnnlib").EasyDict
        generator = networks.Generator(**{k: easy(v) if isinstance(v, dict) else v for k, v in settings.items()})
        content = {"G": generator, "D": None, "G_ema": generator, "augment_pipe": None}
        content["training_set_kwargs"] = easy(class_name="training.dataset.ImageFolderDataset", max_size=3)
        path.write_bytes(pickle.dumps(content, protocol=protocol))
    return generator


def storage_bytes(
    data: bytes, count: int, kind: Any = torch.FloatStorage, place: str = "cuda:0", **wrong: Any
) -> bytes:
    """What `torch.storage._load_from_bytes` reads: a storage of any device."""
    header = ("storage", kind, "1", place, count, wrong.get("view"))
    machine = {"protocol_version": 1001, "little_endian": wrong.get("little_endian", True), "type_sizes": {}}
    file = io.BytesIO()
    for value in (wrong.get("magic", 0x1950A86A20F9469CFC6C), 1001, machine):
        pickle.dump(value, file, protocol=2)

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing: Any) -> Any:
            return header if thing is header else None

    Pickler(file, protocol=2).dump(header)
    pickle.dump(["1"], file, protocol=2)
    file.write(wrong.get("length", count).to_bytes(8, "little") + data)
    return file.getvalue()

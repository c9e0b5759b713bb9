"""Build the generator of a StyleGAN file with the user's own checkout of NVIDIA's code.

That code and the published weights are under NVIDIA's licences, which exclude commercial use; this library contains neither.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dreamsim_guidance.inversion.stylegan_files import read_stylegan_pkl

__all__ = ["load_stylegan"]


def load_stylegan(path: str | os.PathLike[str], *, code: str | os.PathLike[str]) -> nn.Module:
    """Build the generator G_ema of a StyleGAN file with your own checkout of NVIDIA's code, and fill in its weights.

    path: as in `read_stylegan_pkl`; the code inside the file is not executed.
    code: folder with a checkout of the repository that wrote the file, `stylegan2-ada-pytorch` or `stylegan3`. Its modules
        `training/networks*.py` are imported and executed; the first that builds a network with the file's weights is used.
        The arguments of its constructor come from the file. NVIDIA's licence excludes commercial use.

    Returns the generator on the CPU, in evaluation mode, with parameters that need no gradient. While it is built, `code` is
    first on `sys.path`, and modules of other projects with the names in it (`training`, for example) are set aside; afterwards
    `sys.path` is as before and `sys.modules` has no module of `code`. So the generator can be copied, but not pickled.

    Raises FileNotFoundError if `code` has no `training/networks*.py`; ValueError for a file that cannot be read or does not fit
    the code, with the reasons; ImportError for packages that the code needs.
    """
    folder = Path(code).resolve()
    candidates = sorted(folder.glob("training/networks*.py"))
    if not candidates:
        raise FileNotFoundError(
            f"{folder} has no training/networks*.py; give the folder of a checkout of stylegan2-ada-pytorch or stylegan3."
        )
    state, config = read_stylegan_pkl(path)
    reasons = []
    with _imports_from(folder), torch.random.fork_rng(devices=[]):
        for candidate in candidates:
            network = getattr(importlib.import_module(f"training.{candidate.stem}"), config["class_name"], None)
            if not (isinstance(network, type) and issubclass(network, nn.Module)):
                reasons.append(f"{candidate.name} has no network {config['class_name']!r}")
                continue
            try:
                generator = network(*config["init_args"], **config["init_kwargs"])
                generator.load_state_dict(state)
            except Exception as error:  # of code that is not ours, with another network's arguments
                reasons.append(f"{candidate.name}: {str(error)[:300] or type(error).__name__}")
            else:
                return generator.eval().requires_grad_(False)
    raise ValueError(
        f"{path} fits no network in {folder}; use the checkout that wrote the file. Tried: {'; '.join(reasons)}"
    )


_IMPORTING = threading.Lock()


@contextmanager
def _imports_from(folder: Path) -> Iterator[None]:
    """Import the modules of `folder` before all others, whatever is imported under their names, and forget them afterwards."""
    names = {entry.stem for entry in folder.iterdir() if entry.suffix == ".py" or any(entry.glob("*.py"))}
    names -= sys.stdlib_module_names

    def take_out() -> dict[str, Any]:
        return {name: sys.modules.pop(name) for name in [*sys.modules] if name.partition(".")[0] in names}

    with _IMPORTING:
        path, others = sys.path.copy(), take_out()
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()
        try:
            yield
        finally:
            take_out()
            sys.modules.update(others)
            sys.path[:] = path

"""Errors for losses from other packages, when the package is not installed or its weights cannot be downloaded."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch

__all__ = ["building", "extra"]


def extra(module: str, what: str) -> ModuleType:
    """Import a module of the extra `losses`. Raises ImportError with the command that installs it.

    module: full name of the module.
    what: the loss that needs it, for the message.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(
            f"{what} needs the package {package}, which is not installed ({error}); "
            'pip install "dreamsim-guidance[losses]".'
        ) from error


@contextlib.contextmanager
def building(what: str, url: str) -> Iterator[None]:
    """Turn a failed download of torchvision weights into an OSError that says where to put the file.

    what: the loss that needs the weights, for the message.
    url: where the weights are published.
    """
    try:
        yield
    except OSError as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise OSError(
            f"{what} needs weights that are not cached and could not be downloaded ({error}); "
            f"put {url} into {folder}, or pass network=... with your own weights."
        ) from error

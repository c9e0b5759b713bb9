"""Packages and weights that the baselines need: obtained at once, or refused at once with a message that says what to do."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

from dreamsim_guidance.files.network import is_offline, reachable

__all__ = ["MetricUnavailableError", "torchmetrics", "torchvision_weights"]


class MetricUnavailableError(OSError):
    """A metric cannot run because weights or a package are missing; the message says what to do."""


def torchmetrics(name: str, module: str) -> ModuleType:
    """Import a module of torchmetrics. Raises MetricUnavailableError, with the command that installs it, if it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MetricUnavailableError(
            f'{name} needs torchmetrics, which is not installed; pip install "dreamsim-guidance[losses]".'
        ) from error


def torchvision_weights(name: str, url: str) -> Path:
    """Return the file of torchvision's weights at `url`, downloaded to where torchvision looks for it if it is not there."""
    import torch

    from dreamsim_guidance.files.download import DownloadError, download

    file = Path(torch.hub.get_dir(), "checkpoints", url.rsplit("/", 1)[-1])
    if file.is_file():
        return file
    why = "nothing may be downloaded" if is_offline() else f"{urlsplit(url).hostname} cannot be reached"
    if not is_offline() and reachable(url):
        try:
            return download(url, file, attempts=2, timeout=15.0)
        except (DownloadError, ValueError) as error:
            why = str(error)
    raise MetricUnavailableError(f"{name} needs the weights {url} ({why}); put the file into {file.parent}.")

"""What other metrics need: packages and weights that are obtained at once, or refused at once with what to do."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

from dreamsim_guidance.files.network import is_offline, reachable

__all__ = ["MetricUnavailableError", "torchmetrics", "torchvision_weights"]


class MetricUnavailableError(OSError):
    """A metric cannot run here for want of weights or of a package; the message says what to do."""


def torchmetrics(name: str, module: str) -> ModuleType:
    """A module of torchmetrics; MetricUnavailableError with the line that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MetricUnavailableError(
            f'{name} needs torchmetrics, which is not installed; pip install "dreamsim-guidance[losses]".'
        ) from error


def torchvision_weights(name: str, url: str) -> Path:
    """The file of torchvision's weights at `url`, downloaded if need be to where torchvision looks for it."""
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

"""Weights that other packages download: had at once, or refused at once with what to do, never waited for.

A package that finds no network tries each file again and again, for a minute or more. Here the host is asked first, for
a few seconds; where it does not answer, the package is told to look into its cache only.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

from dreamsim_guidance.files.cache import is_offline

__all__ = ["MetricUnavailableError", "answers", "hub_weights", "torchmetrics", "torchvision_weights"]

_PATIENCE = 5.0
_MEMORY = 60.0
"""Seconds to wait for a host's answer, and for which the answer is believed."""

_asked: dict[str, tuple[float, bool]] = {}


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


@contextlib.contextmanager
def hub_weights(name: str, what: str) -> Iterator[None]:
    """Around the call of timm or open_clip that loads the weights `what` from the Hugging Face Hub."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    offline = before or is_offline() or not answers(constants.ENDPOINT)
    quiet = logging.root.manager.disable
    try:
        if offline:
            constants.HF_HUB_OFFLINE = True
            logging.disable(logging.CRITICAL)  # a failure is told once, below
        yield
    except (OSError, RuntimeError) as error:
        host = urlsplit(constants.ENDPOINT).hostname
        why = f"{host} cannot be reached" if offline else " ".join(str(error).split())[:200]
        raise MetricUnavailableError(
            f"{name} needs the weights {what}, which are not in {constants.HF_HUB_CACHE} ({why}); run it once where there "
            "is a connection and copy that folder here."
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = before
        logging.disable(quiet)


def torchvision_weights(name: str, url: str) -> Path:
    """The file of torchvision's weights at `url`, downloaded if need be to where torchvision looks for it."""
    import torch

    from dreamsim_guidance.files.download import DownloadError, download

    file = Path(torch.hub.get_dir(), "checkpoints", url.rsplit("/", 1)[-1])
    if file.is_file():
        return file
    why = "nothing may be downloaded" if is_offline() else f"{urlsplit(url).hostname} cannot be reached"
    if not is_offline() and answers(url):
        try:
            return download(url, file, attempts=2, timeout=15.0)
        except (DownloadError, ValueError) as error:
            why = str(error)
    raise MetricUnavailableError(f"{name} needs the weights {url} ({why}); put the file into {file.parent}.")


def answers(url: str) -> bool:
    """Whether the host of `url` answers at all, within seconds; remembered for a minute."""
    parts = urlsplit(url)
    host = f"{parts.scheme}://{parts.netloc}/"
    known = _asked.get(host)
    if known is not None and time.monotonic() - known[0] < _MEMORY:
        return known[1]
    said: list[bool] = []
    # in a thread of its own: looking up a name has no limit of time
    asking = threading.Thread(target=lambda: said.append(_ask(host)), daemon=True)
    asking.start()
    asking.join(_PATIENCE + 1)
    _asked[host] = (time.monotonic(), bool(said and said[0]))
    return _asked[host][1]


def _ask(host: str) -> bool:
    try:
        urllib.request.urlopen(urllib.request.Request(host, method="HEAD"), timeout=_PATIENCE).close()
    except urllib.error.HTTPError as error:
        error.close()
    except (OSError, ValueError):
        return False
    return True

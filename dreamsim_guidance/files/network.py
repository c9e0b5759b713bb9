"""Whether the network may be used, and whether a host answers.

Libraries that find no network try each file again and again, for a minute or more. Here the host is asked once, for a few
seconds, and where it does not answer, files come from local caches only. Nothing is switched for the whole process: callers
pass the answer on, for example as `local_files_only`.
"""

from __future__ import annotations

import os
import threading
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

__all__ = ["hub_available", "is_offline", "reachable"]

_TRUE = {"1", "on", "yes", "true"}
_PATIENCE = 5.0
_MEMORY = 60.0
"""Seconds to wait for a host's answer, and seconds for which the answer is reused."""

_answers: dict[str, tuple[float, bool]] = {}


def is_offline(offline: bool | None = None) -> bool:
    """Whether downloads are forbidden: `offline`, or if None, `DREAMSIM_GUIDANCE_OFFLINE` or `HF_HUB_OFFLINE`."""
    if offline is not None:
        return offline
    return any(os.environ.get(name, "").lower() in _TRUE for name in ("DREAMSIM_GUIDANCE_OFFLINE", "HF_HUB_OFFLINE"))


def hub_available(offline: bool | None = None) -> bool:
    """Whether the Hugging Face Hub may be used and answers; else only its cache is left (`local_files_only=True`).

    offline: as in `is_offline`. False also skips the question whether the Hub answers.
    """
    from huggingface_hub import constants

    return not is_offline(offline) and (offline is False or reachable(constants.ENDPOINT))


def reachable(url: str) -> bool:
    """Whether the host of `url` answers at all, with whatever status, within 6 seconds. Remembered for a minute."""
    parts = urlsplit(url)
    host = f"{parts.scheme}://{parts.netloc}/"
    answer = _answers.get(host)
    if answer is not None and time.monotonic() - answer[0] < _MEMORY:
        return answer[1]
    answers: list[bool] = []
    # in a thread of its own: looking up a name has no time limit
    asking = threading.Thread(target=lambda: answers.append(_ask(host)), daemon=True)
    asking.start()
    asking.join(_PATIENCE + 1)
    _answers[host] = (time.monotonic(), bool(answers and answers[0]))
    return _answers[host][1]


def _ask(host: str) -> bool:
    try:
        urllib.request.urlopen(urllib.request.Request(host, method="HEAD"), timeout=_PATIENCE).close()
    except urllib.error.HTTPError as error:
        error.close()
    except (OSError, ValueError):
        return False
    return True

"""A connection to Ray: to a running cluster, or to one on this machine that lasts as long as the job."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dreamsim_guidance.retrieval.extras import need

__all__ = ["Sizes", "connected", "need_ray", "quiet", "sizes_for"]

_READERS = 1
"""Processors that must be left for tasks that read; without any, actors would wait for ever."""


@dataclass(frozen=True)
class Sizes:
    """How many actors embed, and the GPUs of each."""

    workers: int
    gpus: float


@contextmanager
def connected(address: str | None, workers: int | None, gpus: float | int | None) -> Iterator[Sizes]:
    """Connect to Ray for the time of a block, and choose the actors by what the cluster has.

    address: of a running cluster ("auto", "ray://host:10001", ...); None takes the environment variable RAY_ADDRESS, and
        without it starts Ray on this machine. A connection that exists already is used, and left as it is.
    workers: actors; by default as many as the cluster's GPUs allow, or one less than its processors if it has none.
    gpus: of each actor, may be a fraction; by default 1 if the cluster has any, else 0.

    Raises ModuleNotFoundError without Ray, ConnectionError if no cluster answers at the address, ValueError for more actors
    than the cluster can hold.
    """
    sizes_for({"CPU": float("inf"), "GPU": float("inf")}, 1 if workers is None else workers, gpus)
    ray = need_ray()
    with quiet():
        started = not ray.is_initialized()
        if started:
            _start(ray, address or os.environ.get("RAY_ADDRESS"), workers)
        try:
            yield sizes_for(ray.cluster_resources(), workers, gpus)
        finally:
            if started:
                ray.shutdown()


def need_ray() -> Any:
    """Import Ray, and see that lance-ray is there too. Raises ModuleNotFoundError with the command that installs them."""
    ray = need("ray", "scale")
    need("lance_ray", "scale")
    return ray


def _start(ray: Any, address: str | None, workers: int | None) -> None:
    if address:
        try:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, ValueError, TimeoutError, RuntimeError) as error:
            raise ConnectionError(
                f"no Ray cluster at '{address}' ({error}); start one with `ray start --head`, or leave the address out."
            ) from error
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # logical processors: more than there are, so that few processors can hold the actors asked for and still read
    processors = max(os.cpu_count() or 1, (workers or 1) + 2 * _READERS)
    ray.init(
        address="local",
        num_cpus=processors,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )


def sizes_for(resources: Mapping[str, Any], workers: int | None, gpus: float | int | None) -> Sizes:
    """Choose the actors by the resources of a cluster. Arguments and errors as for `connected`."""
    if (workers is not None and workers < 1) or (gpus is not None and gpus < 0):
        raise ValueError(f"workers must be at least 1 and GPUs at least 0, got {workers} and {gpus}.")
    processors, cards = resources.get("CPU", 0), resources.get("GPU", 0)
    each = (1.0 if cards else 0.0) if gpus is None else gpus
    room = processors - _READERS
    if workers is None:
        workers = max(1, int(min(cards // each if each else room, room)))
    if workers > room:
        raise ValueError(
            f"{workers} workers need {workers + _READERS} processors, one of them to read pictures, and the cluster has "
            f"{processors:g}; give fewer workers, or add machines."
        )
    if workers * each > cards:
        raise ValueError(
            f"{workers} workers with {each:g} GPUs each need more than the {cards:g} GPUs of the cluster; give fewer workers, "
            "or a smaller share of a GPU."
        )
    return Sizes(workers, float(each))


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Ray's progress bars, its messages below errors, and its warnings about its own settings off the terminal."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"ray\.")
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"ray\.")
        # starting Ray forks, and the child becomes another program at once
        warnings.filterwarnings("ignore", message=".*lance is not fork-safe")
        warnings.filterwarnings("ignore", message="lancedb fork support is experimental")
        data = need("ray.data", "scale")
        context = data.DataContext.get_current()
        logger = logging.getLogger("ray.data")
        before = (logger.level, context.enable_progress_bars)
        logger.setLevel(logging.ERROR)
        context.enable_progress_bars = False
        try:
            yield
        finally:
            logger.setLevel(before[0])
            context.enable_progress_bars = before[1]

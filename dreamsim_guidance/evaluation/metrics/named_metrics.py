"""Metrics of picture files by name, for `evaluate` and `evaluate reconstructions`.

ensemble, dino_vitb16, ...                  published variants of DreamSim; "pocket", which ships with the package
photographs, photographs_spatial            real towers from the extra [photographs]
robust, robust_fare, robust_tecoa           robustly trained towers of the Hub
model.safetensors, a run's folder           trained models
mse, psnr, ssim, ms-ssim                    pixels
lpips, dists, st-lpips, dino, clip, open_clip, mae, resnet50
my_metric.py:distance, package.module:name  any callable (images, images) -> (b,), lower is more similar; a class, such as an
                                            nn.Module, is made without arguments
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import nn

from dreamsim_guidance.evaluation.metrics.baselines import BASELINES, COMPARES, TOWERS, build_compare, build_tower
from dreamsim_guidance.evaluation.metrics.differentiable import DifferentiableMetric, ImageMetric
from dreamsim_guidance.evaluation.metrics.embedding_cache import EmbeddingCache
from dreamsim_guidance.evaluation.metrics.embedding_metric import EmbeddingMetric
from dreamsim_guidance.evaluation.metrics.pair_metric import Compare, PairMetric
from dreamsim_guidance.evaluation.metrics.weights_access import MetricUnavailableError
from dreamsim_guidance.evaluation.metrics.work import Work
from dreamsim_guidance.files.pictures import Reading
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.metric.photographs import PHOTOGRAPHS
from dreamsim_guidance.metric.robust import ROBUST
from dreamsim_guidance.metric.variants import VARIANTS
from dreamsim_guidance.processes import agreed, process_device

__all__ = [
    "BASELINES",
    "FileMetric",
    "MetricUnavailableError",
    "callable_named",
    "embedding_metric",
    "embedding_network",
    "file_metric",
    "load_metrics",
    "true_name",
]

_MODEL_FILE = "model.safetensors"

_FORMER_NAMES = {"l2": "mse"}


@runtime_checkable
class FileMetric(Protocol):
    """A distance between picture files; lower is more similar."""

    name: str

    def distances(self, pairs: Sequence[tuple[Path, Path]], progress: bool = True) -> NDArray[np.float64]:
        """Return one finite number for each pair, `(n,)`; `progress` shows a bar on stderr.

        Raises MetricUnavailableError (an OSError) where weights or a package are missing, ValueError for pictures that
        cannot be read or compared.
        """


def load_metrics(
    names: Sequence[str],
    device: str | None = None,
    cache: bool | str | os.PathLike[str] = True,
    workers: int = 0,
    batch: int | None = None,
    reading: Reading = "upright",
) -> dict[str, FileMetric]:
    """Return metrics by their `true_name`, in order. Names are checked now; weights are read, or downloaded, at the first use.

    names: as listed at the top of this file.
    device: by default an accelerator if there is one.
    cache: where embeddings are kept: True, the default, in the user's cache folder, a path in that folder, False nowhere.
    workers: processes that read pictures ahead; by default none.
    batch: images that go through a network at once; by default 32, and 8 pairs.
    reading: "upright", the default, reads files as `load_image` does, "original" as the original package (see
        `files.pictures`).

    Raises ValueError for an unknown name, FileNotFoundError for a file or folder that does not exist.
    """
    return {name: file_metric(name, None, device, cache, workers, batch, reading) for name in map(true_name, names)}


def true_name(metric: str) -> str:
    """Return the name under which a metric is reported: "mse" for its former name "l2", any other name unchanged."""
    return _FORMER_NAMES.get(metric, metric)


def file_metric(
    metric: str | os.PathLike[str] | DreamSim | Compare,
    name: str | None = None,
    device: str | None = None,
    cache: bool | str | os.PathLike[str] = True,
    workers: int = 0,
    batch: int | None = None,
    reading: Reading = "upright",
) -> FileMetric:
    """Return one metric of picture files: by name, from a `DreamSim`, or from a callable (images, images) -> (b,).

    name: under which it is reported; by default that of the metric. The other arguments and the errors are those of
        `load_metrics`.
    """
    store = None if cache is False else EmbeddingCache(None if cache is True else cache)
    options: dict[str, Any] = {"reading": reading} | ({} if batch is None else {"batch": batch})

    def of(loaded: DreamSim, called: str) -> FileMetric:
        if loaded.ensemble.spatial:  # maps have hundreds of thousands of numbers: too many to keep for every picture
            size = max(config.image_size for config in loaded.ensemble.configs)
            return PairMetric(called, loaded.compare, size, str(loaded.device), workers, symmetric=True, **options)
        return EmbeddingMetric(called, loaded, store, workers, **options)

    def embedding(build: Callable[[str], DreamSim], called: str) -> FileMetric:
        return _Deferred(called, lambda: of(build(process_device(device)), called))

    def pairwise(build: Callable[[str], tuple[Compare, int | None]], called: str, symmetric: bool) -> FileMetric:
        def make() -> FileMetric:
            on = process_device(device)
            compare, side = build(on)
            return PairMetric(called, compare, side, on, workers, symmetric=symmetric, **options)

        return _Deferred(called, make)

    if isinstance(metric, DreamSim):
        return of(metric, name or metric.variant or "dreamsim")
    if callable(metric):
        compare: Compare = metric
        return pairwise(
            lambda on: (compare, None), name or str(getattr(metric, "__name__", type(metric).__name__)), False
        )
    text = true_name(os.fspath(metric))
    called = name or text
    if text in COMPARES:
        return pairwise(lambda on: build_compare(text, on), called, True)
    if text in TOWERS:
        return embedding(lambda on: build_tower(text, on), called)
    if text in ("pocket", "pocket_robust") or text in VARIANTS or text in PHOTOGRAPHS or text in ROBUST:
        return embedding(lambda on: _published(text, on), called)
    path = Path(text)
    if path.is_dir():
        if not (path / _MODEL_FILE).is_file():
            raise FileNotFoundError(
                f"the folder '{text}' holds no {_MODEL_FILE}; give the folder of a finished training."
            )
        path = path / _MODEL_FILE
    if path.suffix == ".safetensors":
        if not path.is_file():
            raise FileNotFoundError(f"there is no model file '{text}'; write one with DreamSim.save, or train one.")
        file = path
        return embedding(lambda on: DreamSim(file, device=on), called)
    if ":" in text:
        function = callable_named(text)
        if isinstance(function, DreamSim):
            return of(function, called)
        return pairwise(
            lambda on: (function.to(on) if isinstance(function, nn.Module) else function, None), called, False
        )
    names = ", ".join([*sorted(VARIANTS), *PHOTOGRAPHS, *ROBUST, "pocket", "pocket_robust", *COMPARES, *TOWERS])
    raise ValueError(
        f"unknown metric '{text}'; known: {names}, a model file (.safetensors), a run's folder, or file.py:function."
    )


def embedding_metric(metric: FileMetric) -> EmbeddingMetric | None:
    """Return the embeddings behind a named metric, whose weights are read now if needed; None if it compares pairs."""
    built = metric.built() if isinstance(metric, _Deferred) else metric
    return built if isinstance(built, EmbeddingMetric) else None


def embedding_network(metric: str | os.PathLike[str], device: str | None = None) -> DreamSim:
    """Return the network of a metric by name, for the embeddings of single pictures.

    Arguments and errors as for `file_metric`, and ValueError for a metric that compares pairs and has no embeddings.
    """
    built = embedding_metric(file_metric(metric, device=device, cache=False))
    if built is None:
        raise ValueError(
            f"the metric '{metric}' compares pairs of pictures and has no embedding of one; give one that has, such as "
            "photographs, ensemble, dino_vitb16, or pocket."
        )
    return built.metric


class _Deferred:
    """A metric that is built when it is first used."""

    def __init__(self, name: str, build: Callable[[], FileMetric]) -> None:
        self.name = name
        self._build = build
        self._built: FileMetric | None = None

    @property
    def work(self) -> Work | None:
        """The work of the metric; None before its first use."""
        return getattr(self._built, "work", None)

    def distances(self, pairs: Sequence[tuple[Path, Path]], progress: bool = True) -> NDArray[np.float64]:
        return self.built().distances(pairs, progress)

    def on_images(self) -> ImageMetric:
        metric = self.built()
        assert isinstance(metric, DifferentiableMetric)  # it is an EmbeddingMetric or a PairMetric
        return metric.on_images()

    def built(self) -> FileMetric:
        """The metric itself; the first call builds it."""
        if self._built is None:
            self._built = agreed(self._build)
        return self._built


def _published(name: str, device: str) -> DreamSim:
    try:
        return DreamSim(name, device=device)
    except ModuleNotFoundError as error:
        raise MetricUnavailableError(str(error)) from error
    except OSError as error:
        raise MetricUnavailableError(
            f"{name}: {error} Or use pocket, the small models that ship with the package."
        ) from error


def callable_named(text: str, what: str = "metric", signature: str = "(images, images) -> (b,)") -> Callable[..., Any]:
    """The function that `file.py:name` or `module:name` names; if that is a class, an object made of it without arguments.

    A torch module is put into evaluation mode.

    what, signature: of the function, for messages. Raises ValueError or FileNotFoundError if there is no such function.
    """
    where, _, name = text.rpartition(":")
    if where.endswith(".py"):
        path = Path(where)
        if not path.is_file():
            raise FileNotFoundError(f"the {what} '{text}' names the file '{where}', which is not there.")
        spec = importlib.util.spec_from_file_location(f"_metric_{path.stem}", path)
        assert spec is not None and spec.loader is not None  # the name ends in .py
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    else:
        try:
            module = importlib.import_module(where)
        except ImportError as error:
            raise ValueError(
                f"the {what} '{text}' names the module '{where}', which cannot be imported ({error})."
            ) from error
    function = getattr(module, name, None)
    if isinstance(function, type):
        try:
            function = function()
        except Exception as error:  # a user's class may raise anything
            raise ValueError(
                f"the {what} '{text}' is a class and cannot be made without arguments ({error}); give a function, or an "
                "object of the class that the file makes itself."
            ) from error
    if not callable(function):
        raise ValueError(f"'{where}' has no function '{name}'; give file.py:function, {signature}.")
    return function.eval() if isinstance(function, nn.Module) else function

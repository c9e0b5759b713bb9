"""The analysis of what metrics attend to, from pictures to numbers.

    factors       one factor of a drawn scene changes at a time                  `factors.py`
    masks         decisions with the foreground or the background alone          `masking.py`
    features      decisions against colour, layout, depth and categories         `correlations.py`
    robustness    noise, blur, JPEG, shift, rotation, scale, colour              `robustness.py`
    maps          gradients and attention for one pair                           `maps.py`

Pictures are written as files, so that every metric of `evaluate` reads them as it reads any other, and embeddings are kept
beside the results: a further metric, or the same analysis again, costs only what is new.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from dreamsim_guidance.data.judgments import Judgments
from dreamsim_guidance.evaluation.judging import pairs_of
from dreamsim_guidance.evaluation.metrics.named_metrics import FileMetric, file_metric
from dreamsim_guidance.evaluation.metrics.pair_metric import Compare
from dreamsim_guidance.files.cache import locked
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.sensitivity.correlations import correlate
from dreamsim_guidance.sensitivity.factors import factor_profiles
from dreamsim_guidance.sensitivity.maps import pair_maps
from dreamsim_guidance.sensitivity.masking import masked_decisions
from dreamsim_guidance.sensitivity.prepared import prepare
from dreamsim_guidance.sensitivity.report import Sensitivity
from dreamsim_guidance.sensitivity.robustness import robustness_curves
from dreamsim_guidance.sensitivity.settings import PARTS, Analysis
from dreamsim_guidance.sensitivity.step_pairs import step_pairs

__all__ = ["sensitivity"]

AnyMetric = str | DreamSim | Compare | FileMetric
Distances = dict[str, NDArray[np.float64]]


def sensitivity(
    metrics: Sequence[AnyMetric] | Mapping[str, AnyMetric],
    analysis: Analysis | None = None,
    to: Path | None = None,
    *,
    device: str | None = None,
    batch: int | None = None,
    progress: bool = True,
    tell: Callable[[str], object] = lambda line: print(line, file=sys.stderr),
) -> Sensitivity:
    """Analyse what metrics attend to, and return all numbers; with `to`, also write page, JSON and maps into that folder.

    metrics: names as for `evaluate`, `DreamSim`s, callables (images, images) -> (b,), or metrics of `load_metrics`; in a
        mapping, by the names under which they are reported.
    analysis: parts and pictures; by default `Analysis()`, which needs no data.
    device, batch: as for `load_metrics`.
    progress: whether to show bars on stderr. tell: receives one line for each metric that cannot run.

    A metric that cannot run in one part is left out there and listed in `failed`. Raises ValueError if none can run in any
    part, for an unknown metric, one that is given twice, and for data that do not go together; FileNotFoundError for missing
    files.
    """
    analysis = analysis or Analysis()
    if to is None:
        with tempfile.TemporaryDirectory() as work:
            return _analyse(metrics, analysis, Path(work), Path(work, "embeddings"), device, batch, progress, tell)
    to.mkdir(parents=True, exist_ok=True)
    with locked(to / "sensitivity"), _emptied(to / ".pictures") as work:
        result = _analyse(metrics, analysis, work, to / "embeddings", device, batch, progress, tell)
        result.write(to)
    return result


def _named(
    metrics: Sequence[AnyMetric] | Mapping[str, AnyMetric], cache: Path, device: str | None, batch: int | None
) -> dict[str, FileMetric]:
    """Metrics of files by name. Raises ValueError for none and for one name twice, and as `file_metric`."""
    if isinstance(metrics, str):
        raise ValueError(f"metrics are several names, e.g. ['pocket', 'ssim'], got {metrics!r}.")
    items: list[tuple[str | None, AnyMetric]] = (
        list(metrics.items()) if isinstance(metrics, Mapping) else [(None, metric) for metric in metrics]
    )
    by_name: dict[str, FileMetric] = {}
    for name, metric in items:
        made = _of_files(metric, name, cache, device, batch)
        called = name or made.name
        if called in by_name:
            raise ValueError(f"the metric '{called}' is given twice; give it once, or under two names.")
        by_name[called] = made
    if not by_name:
        raise ValueError("at least one metric is needed, got none.")
    return by_name


def _of_files(metric: AnyMetric, name: str | None, cache: Path, device: str | None, batch: int | None) -> FileMetric:
    if isinstance(metric, FileMetric) and not isinstance(metric, str | DreamSim):
        return metric
    return file_metric(cast("str | DreamSim | Compare", metric), name, device, cache, batch=batch)


def _analyse(
    metrics: Sequence[AnyMetric] | Mapping[str, AnyMetric],
    analysis: Analysis,
    work: Path,
    cache: Path,
    device: str | None,
    batch: int | None,
    progress: bool,
    tell: Callable[[str], object],
) -> Sensitivity:
    by_name = _named(metrics, cache, device, batch)
    prepared = prepare(analysis, work, progress)
    bootstrap = analysis.bootstrap
    failed: dict[str, dict[str, str]] = {}

    def measured(part: str, pairs: Sequence[tuple[Path, Path]], among: Sequence[str] | None = None) -> Distances:
        return _distances(
            {n: m for n, m in by_name.items() if among is None or n in among}, part, pairs, failed, progress, tell
        )

    results: dict[str, Any] = {}
    if (pictures := prepared.factors) is not None:
        distances = measured("factors", step_pairs(pictures.references, pictures.variants))
        results["factors"] = factor_profiles(distances, pictures, bootstrap)
    if (source := prepared.triplets) is not None and {"masks", "features"} & set(analysis.parts):
        judgments = source.judgments
        whole = measured("triplets", pairs_of(judgments))
        if (masked := prepared.masked) is not None:
            foreground = measured("masks", masked.foreground, list(whole))
            background = measured("masks", masked.background, list(foreground))
            results["masks"] = {
                name: masked_decisions(whole[name], foreground[name], background[name], judgments.reference, bootstrap)
                for name in background
            }
        if (vectors := prepared.vectors) is not None:
            results["features"] = {
                name: correlate(values, vectors, judgments, bootstrap) for name, values in whole.items()
            }
    if (distortions := prepared.distortions) is not None:
        distances = measured("robustness", step_pairs(distortions.references, distortions.variants))
        results["robustness"] = {n: robustness_curves(d, distortions, bootstrap) for n, d in distances.items()}
    if prepared.pair is not None:
        results["pictures"], results["maps"] = pair_maps(by_name, prepared.pair, progress)
    if failed and not any(results.get(part) for part in PARTS):
        reasons = [f"{name}: {why}" for name, whys in failed.items() for why in dict.fromkeys(whys.values())]
        raise ValueError(f"no metric could run ({'; '.join(reasons)})")
    return Sensitivity(tuple(by_name), _settings(analysis), prepared.facts, failed=failed, **results)


def _distances(
    metrics: Mapping[str, FileMetric],
    part: str,
    pairs: Sequence[tuple[Path, Path]],
    failed: dict[str, dict[str, str]],
    progress: bool,
    tell: Callable[[str], object],
) -> Distances:
    distances = {}
    for name, metric in metrics.items():
        try:
            values = np.asarray(metric.distances(pairs, progress), dtype=np.float64)
            if values.shape != (len(pairs),) or not np.isfinite(values).all():
                raise ValueError(
                    f"it gave {values.shape} distances, {int((~np.isfinite(values)).sum())} of them not finite."
                )
        except Exception as error:  # a user's metric may raise anything, and the others must still run
            failed.setdefault(name, {})[part] = " ".join(str(error).split()) or type(error).__name__
            tell(f"{name} did not run ({part}): {failed[name][part]}")
            continue
        distances[name] = values
    return distances


def _settings(analysis: Analysis) -> dict[str, Any]:
    settings = {f.name: getattr(analysis, f.name) for f in fields(analysis)}
    if isinstance(analysis.data, Judgments):
        settings["data"] = f"{len(analysis.data)} triplets"
    settings["saliency"] = None if analysis.saliency is None else getattr(analysis.saliency, "__name__", "a function")
    return settings


@contextmanager
def _emptied(folder: Path) -> Iterator[Path]:
    """A new folder, without what an interrupted run left in it; removed at the end."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)

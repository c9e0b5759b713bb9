"""Tuning runs of a few seconds, in this process or in others, and what they left compared."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from dreamsim_guidance import DreamSim
from dreamsim_guidance.data.readers.nights import read_nights
from dreamsim_guidance.evaluation.judging import evaluate
from dreamsim_guidance.evaluation.metrics.embedding_metric import EmbeddingMetric
from dreamsim_guidance.training.base_models import Scratch
from dreamsim_guidance.training.loop import Loop
from dreamsim_guidance.training.optimiser import Optimiser
from dreamsim_guidance.training.tuning import LoRA, Tuning


@dataclass(frozen=True)
class InDouble(Tuning):
    """A run whose weights, gradients and optimiser state are float64."""

    def metric(self) -> DreamSim:
        return super().metric().double()


def tuning(data: Path, kind: type[Tuning] = Tuning, **changes: Any) -> Tuning:
    """All weights of a small random network, 8 steps on batches of 6; nothing is random but the order of the triplets.

    `changes` are fields of `Tuning` or of its `Loop`.
    """
    loop = Loop(
        optimiser=Optimiser(kind="adamw", learning_rate=1e-3, betas=(0.9, 0.98)),
        batch=6, steps=8, save_every=4, validate_every=4, log_every=1, workers=0, trackers=(),
    )  # fmt: skip
    small = Scratch(size=32, width=32, depth=2, heads=2, patch=8)
    default = kind(data, "scratch", small, lora=None, all_weights=True, loop=loop, normalize_embeds=True, seed=0)
    in_loop = {name: changes.pop(name) for name in [f.name for f in fields(Loop)] if name in changes}
    return replace(default, loop=replace(loop, **in_loop), **changes)


def adapter(data: Path, kind: type[Tuning] = Tuning, **changes: Any) -> Tuning:
    """The same for an adapter on the pocket ensemble."""
    pocket: dict[str, Any] = {"model": "pocket", "scratch": None, "all_weights": False, "lora": LoRA(4, 8.0, 0.3)}
    return tuning(data, kind, **{**pocket, **changes})


def last_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The trained parameters in the newest checkpoint of a run."""
    newest = sorted((folder / "checkpoints").glob("step-*.pt"))[-1]
    return torch.load(newest, weights_only=True)["weights"]


def difference(a: Path, b: Path) -> float:
    """The largest difference between the trained parameters of two runs."""
    x, y = last_weights(a), last_weights(b)
    assert x.keys() == y.keys() and x
    return max(float((x[name] - y[name]).abs().max()) for name in x)


def agreement(metric: DreamSim, data: Path) -> float:
    """With the majority, on the validation split, as `dreamsim-guidance evaluate` measures it."""
    report = evaluate(read_nights(data, "val"), {"it": EmbeddingMetric("it", metric)}, progress=False).report
    return report.agreement["it"]["majority"].value


TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


def launch(
    data: Path, runs: dict[Path, dict[str, Any]], *launcher: str, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Carry out `runs` (changes of `tuning` by folder) in new processes, as `tuned_in_processes.py` describes."""
    jobs = [{"folder": str(folder), **changes} for folder, changes in runs.items()]
    script = Path(__file__).parent / "tuned_in_processes.py"
    words = [sys.executable, *launcher, str(script), str(data), json.dumps(jobs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=timeout)

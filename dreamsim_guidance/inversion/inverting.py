"""Find what makes a generator produce an image: one search and one descent, through any differentiable callable.

    min_leaves  loss(through(leaves)) + penalty(leaves)

Published methods are this loop over different leaves: latent codes, noise, an autoencoder's latents, pixels, weights. The
best of many starts, ranked by the loss itself, is what finds the right basin; the step size rises and falls as in the
projector of StyleGAN2, in units of the prior's scale.

Karras et al., Analyzing and improving the image quality of StyleGAN, CVPR 2020, appendix D (the step size's schedule; here
the first step is not 0, and the best step is returned, not the last).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dreamsim_guidance.inversion.descent import Descent, Plan
from dreamsim_guidance.inversion.problem import Leaves, Problem, named
from dreamsim_guidance.inversion.result import Inversion
from dreamsim_guidance.inversion.starts import Init, best_starts, check_leaves, start_of, units_of
from dreamsim_guidance.loss import Loss
from dreamsim_guidance.pipelines.decoder import bounded
from dreamsim_guidance.pipelines.interception import refuse_inference_mode
from dreamsim_guidance.preprocess import check_images, check_range
from dreamsim_guidance.schedule import Constant, Schedule

__all__ = ["Ramp", "invert"]

log = logging.getLogger(__name__)

Prior = float | Tensor | Mapping[str, Tensor] | None


@dataclass(frozen=True)
class Ramp(Schedule):
    """Rises linearly to `peak` over the first 5 % of the steps, and falls to 0 along a cosine over the last 50 %."""

    peak: float
    steps: int

    def __call__(self, step: int | float) -> float:
        passed = (step + 1) / max(self.steps, 1)
        down = 0.5 - 0.5 * math.cos(math.pi * min(1.0, max(0.0, 1 - step / max(self.steps, 1)) / 0.5))
        return self.peak * min(1.0, passed / 0.05) * down


def invert(
    loss: Callable[[Tensor], Tensor],
    through: Callable[..., Tensor],
    init: Init | None = None,
    steps: int = 400,
    *,
    batch: int = 1,
    lr: float | Schedule | None = None,
    optimiser: Literal["adam", "sgd", "lbfgs"] = "adam",
    clip: float | None = None,
    search: int = 256,
    restarts: int = 4,
    chunk: int = 32,
    centre: Prior = None,
    scale: Prior = None,
    penalty: Callable[..., Tensor] | None = None,
    project_: Callable[..., object] | None = None,
    value_range: tuple[float, float] | None = None,
    judges: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
    stop_below: float | None = None,
    patience: int | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 100,
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
    progress: bool | str = True,
) -> Inversion:
    """Find the leaves for which `loss(through(leaves))` is lowest, and return the best step of every sample.

    loss: maps images `(b, 3, h, w)` in [0, 1] to one value per image, `(b,)`. The scheduled weights of a `Loss` follow the
        step; steps are compared by their totals, so that a weight that rises favours early ones. A reference of another size
        than the images is resized. Sample i has reference i, where there are several. With `batch` 1, the loss must take
        several images at once.
    through: the generator, `callable(**leaves) -> images`, or `callable(leaf)` where `init` is or draws a tensor. Its
        attributes `init`, `centre`, `scale`, `penalty`, `project_`, `value_range` and `lr` are the defaults of the arguments of
        the same name. If it has an attribute `batch`, its samples differ (in a label, for example): row k * batch + i of all
        leaves belongs to sample i, and its `init(n, generator)` draws `n * batch` rows; if it has an attribute `shared` that
        is true, all samples share all leaves. A module without `init` is called without arguments, and its trainable
        parameters are the leaves; it is not changed.
    init: the start, a tensor `(b, ...)` or a mapping of them; or a sampler `(n, generator) -> them` of the prior. By
        default normal samples, if `centre` and `scale` are given.
    steps: number of steps, at least 0; a step evaluates loss and gradient once.
    batch: number of samples; only for a sampler, and by default that of the generator if it has an attribute `batch`.
    lr: step size in units of the prior's scale, by default 0.3, which rises over the first 5 % of the steps and falls over
        the last 50 % (`Ramp`); or a schedule. For L-BFGS it is the length of the first step.
    optimiser: "adam"; "sgd", gradient descent with Nesterov's momentum of 0.9; or "lbfgs", which needs far fewer steps on
        smooth losses, but more memory, 20 times the leaves.
    clip: the gradient of each sample, in units of the prior, is shortened to at most this length; not for L-BFGS.
    search: how many samples of the prior are ranked by the loss, without gradients; only for a sampler.
    restarts: how many of the best descend, of each sample; after each 15 % of the steps the worse half of them is dropped.
    chunk: how many samples are rendered at once in the search.
    centre, scale: of the prior, a number, a tensor that broadcasts to the leaf, or a mapping of them by leaf.
    penalty: added to the loss, called as `through` is, and returns one value per row of the leaves; of one with a method
        `at(step)`, that of the step is added.
    project_: called with a mapping of the leaves after each step, without gradients; it replaces or changes them in place.
    value_range: what black and white are in the generator's images, by default (0, 1). An overshoot u beyond them becomes
        u / (1 + 4 |u|), as in `guide`, so that the loss sees what could be a picture and every pixel keeps its gradient.
    judges: metrics that take no part, from images to one value per image; they judge the result.
    stop_below: a sample stops when its loss is at most this; looked at every 25 steps.
    patience: a sample stops when its loss has not improved for so many steps.
    seed: decides the samples. With the same seed, generator and machine, the result is the same.
    checkpoint: a file from which an interrupted run goes on, to the same result; it is written after the first step and every
        `checkpoint_every` steps, and removed in the end. It is refused where settings, or the loss of the first start, differ.
    callback: called as `callback(step, images, losses)` at every step, with the best start of each sample; see `Preview`.
    progress: whether to show a bar on stderr; a string is its label.

    Returns images, leaves, loss, history and more, see `Inversion`. A loss that becomes NaN stops its sample and keeps the
    best step so far. Numbers are read back from an accelerator every 25 steps, not at each.

    Half-precision leaves are optimised in float32, and rounded for each call of the generator.

    Raises ValueError or TypeError for images of a wrong shape or range, a loss or generator without a gradient (the message
    says where the graph ends), arguments out of range, and the checkpoint of another run; FloatingPointError if the loss of
    a sample was never finite; RuntimeError under `torch.inference_mode()`.
    """
    began = time.perf_counter()
    refuse_inference_mode()
    counts = {
        "batch": batch,
        "search": search,
        "restarts": restarts,
        "chunk": chunk,
        "checkpoint_every": checkpoint_every,
    }
    for name, count in {**counts, "steps": steps + 1}.items():
        if count < 1:
            raise ValueError(f"{name} must be at least {0 if name == 'steps' else 1}, got {count - (name == 'steps')}.")
    if optimiser not in ("adam", "sgd", "lbfgs"):
        raise ValueError(f"unknown optimiser '{optimiser}'; known: adam, sgd, lbfgs.")
    if clip is not None and (not clip > 0 or optimiser == "lbfgs"):
        raise ValueError(f"clip must be positive, and is not for L-BFGS, got {clip} for {optimiser}.")
    defaults = through if hasattr(through, "init") else None
    centre = getattr(defaults, "centre", None) if centre is None else centre
    scale = getattr(defaults, "scale", None) if scale is None else scale
    penalty = getattr(defaults, "penalty", None) if penalty is None else penalty
    low, high = getattr(defaults, "value_range", (0.0, 1.0)) if value_range is None else value_range
    lr = getattr(defaults, "lr", 0.3) if lr is None else lr

    penalty_of: Callable[[int], Any] = getattr(penalty, "at", lambda step: penalty)
    paired = isinstance(getattr(defaults, "batch", None), int)
    if paired and batch not in (1, through.batch):  # type: ignore[attr-defined]
        raise ValueError(f"the generator has {through.batch} samples, so batch cannot be {batch}.")  # type: ignore[attr-defined]
    batch = through.batch if paired else batch  # type: ignore[attr-defined]
    generate, init = start_of(through, init, centre, scale)
    sampled = not isinstance(init, Tensor | Mapping)
    each = batch if paired else 1
    count = max(search, restarts)
    drawn = init if isinstance(init, Tensor | Mapping) else init(count, torch.Generator().manual_seed(seed))
    check_leaves(drawn, count * each if sampled else None)
    by_name = not isinstance(drawn, Tensor)
    dtypes = {name: leaf.dtype for name, leaf in named(drawn).items()}
    starts = {name: _in_float32(leaf.detach()) for name, leaf in named(drawn).items()}

    def called(function: Callable[..., Any]) -> Callable[[Leaves], Any]:
        def call(leaves: Leaves) -> Any:
            leaves = {name: leaf.to(dtypes[name]) for name, leaf in leaves.items()}
            return function(**leaves) if by_name else function(leaves["leaf"])

        return call

    def unbounded(leaves: Leaves) -> Any:
        images = called(generate)(leaves)
        if not isinstance(images, Tensor):
            return images
        images = _in_float32(images)
        return images if (low, high) == (0.0, 1.0) else (images - low) / (high - low)

    with torch.no_grad():
        first = unbounded({name: leaf[:each] for name, leaf in starts.items()} if sampled else starts)
    _check_first(first, (low, high), each if sampled else None if by_name else len(starts["leaf"]))
    batch = batch if sampled else len(first)
    problem = Problem(
        _fitted(loss, first),
        lambda leaves: bounded(unbounded(leaves)),
        batch,
        units_of(starts, centre, scale),
        None if penalty is None else lambda leaves, step: called(penalty_of(step))(leaves),
        getattr(defaults, "project_", None) if project_ is None else project_,
        paired,
    )
    fingerprint = None
    if checkpoint is not None:
        with torch.no_grad():
            fingerprint = problem.values(bounded(first).expand(batch, -1, -1, -1), 0)[0]
    restarts = restarts if sampled else 1
    resumed = checkpoint is not None and Path(checkpoint).exists()
    if sampled and resumed:  # the checkpoint replaces them
        starts = {name: leaf[:1].repeat(restarts * batch, *(1,) * (leaf.ndim - 1)) for name, leaf in starts.items()}
    elif sampled:
        starts = best_starts(starts, problem, restarts, chunk)
    label = progress if isinstance(progress, str) else "inverting" if progress else None
    plan = Plan(
        steps=steps,
        rate=_rate(lr, steps, optimiser),
        optimiser=optimiser,
        clip=clip,
        stop_below=stop_below,
        patience=patience,
        shared=getattr(defaults, "shared", False)
        or any(leaf.ndim == 0 or len(leaf) != batch * restarts for leaf in starts.values()),
        checkpoint=None if checkpoint is None else Path(checkpoint),
        fingerprint=fingerprint,
        checkpoint_every=checkpoint_every,
        callback=callback,
        label=label,
    )
    if plan.shared and (optimiser == "lbfgs" or clip is not None):
        raise ValueError(
            "L-BFGS and clip need leaves with one row per image; use optimiser='adam' without clip for leaves that all images "
            "share."
        )
    descent = Descent(problem, plan, problem.units.units(starts), restarts)
    best = descent.run()
    if not bool(best.loss.isfinite().all()):
        samples = (~best.loss.isfinite()).nonzero().flatten().tolist()
        raise FloatingPointError(f"the loss of samples {samples} was never finite; check its terms on the start image.")
    if samples := descent.lost.nonzero().flatten().tolist():
        log.warning("the loss of samples %s stopped being finite; their best step is returned.", samples)
    with torch.no_grad():
        judged = {name: _fitted(judge, best.images, name)(best.images) for name, judge in (judges or {}).items()}
    if plan.checkpoint is not None:
        plan.checkpoint.unlink(missing_ok=True)
    return Inversion(
        best.images, best.leaves, best.loss, best.step, descent.history, judged, time.perf_counter() - began
    )


def _rate(lr: float | Schedule, steps: int, optimiser: str) -> Callable[[int], float]:
    if isinstance(lr, Schedule):
        return lr
    if not 0 <= lr < math.inf:
        raise ValueError(f"lr must be a number of at least 0 or a schedule, got {lr}.")
    return Constant(lr) if optimiser == "lbfgs" else Ramp(lr, steps)


def _in_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32 if it is in half precision, in which small steps and losses would be lost."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _fitted(loss: Callable[[Tensor], Tensor], images: Tensor, name: str = "loss") -> Loss:
    """The loss with its references in the images' size; a line of the log says so where that changes them."""
    if not isinstance(loss, Loss):
        return Loss.of(loss, name)
    height, width = images.shape[-2:]
    fitted = loss.resized((height, width))
    if fitted is not loss:
        log.warning("the reference of the loss was resized to the size of the images, %d x %d.", height, width)
    return fitted


def _check_first(images: object, value_range: tuple[float, float], count: int | None) -> None:
    """Raise ValueError or TypeError unless these are images, as many as leaves, of the range that was said."""
    name = "the images of the generator"
    check_images(images, name)
    assert isinstance(images, Tensor)
    if count is not None and len(images) != count:
        raise ValueError(f"through must return one image for each row of the leaf, got {len(images)} for {count}.")
    outside = ((images < -0.25) | (images > 1.25)).float().mean()
    if not bool(outside <= 0.1) or not bool(images.isfinite().all()):
        try:
            check_range(images, name)
        except ValueError as error:
            raise ValueError(
                f"{error} Say which values are black and white, e.g. value_range=(-1, 1); it is {value_range} now."
            ) from None

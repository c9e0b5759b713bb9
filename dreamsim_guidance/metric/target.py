"""A loss towards fixed reference images, whose embeddings are computed once; as a CUDA graph, if asked for."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamsim_guidance.capture import Graphs, Recorder, Watch, values_of
from dreamsim_guidance.loss import Loss
from dreamsim_guidance.metric.distance import half_chord
from dreamsim_guidance.types import AnyImage, Distance, Image, Mask

if TYPE_CHECKING:
    from dreamsim_guidance.metric.dreamsim import DreamSim
    from dreamsim_guidance.metric.tuned_ensemble import Adapters

__all__ = ["Reduction", "Target"]

Reduction = Literal["mean", "min"]


class Target(Loss):
    """Distance to fixed references, `target(images) -> (b,)`, in [0, 2]; made by `DreamSim.target`.

    It adds and scales like every `Loss`. The metric is shared, not owned: several targets of one metric hold one set of
    weights, and a module that holds a target gets none of them among its parameters or in its `state_dict`.

    `target.to(...)`, `.half()`, `.cuda()` and the like, also of a module that holds the target, move its references. The
    shared metric stays where it is; if it is not there already, the target continues with its own copy of it. To move
    many targets without copies, move the metric first. `requires_grad_`, `train` and `eval` do not reach the metric;
    `copy.deepcopy` and `pickle` copy it too.

    Adapters that are attached, loaded or chosen later change the metric, but not the references' embeddings, which were
    computed before; calling the target then raises ValueError. A target's own copy does not see those changes.

    With `capture=True` the distance and its gradient are recorded as a CUDA graph at the first call with images of a certain
    shape and dtype, and replayed afterwards (see `dreamsim_guidance.capture`). Up to eight kinds of images are kept. A
    recording takes the time of about five calls and holds the memory of one until `release`. Results are the same but for
    rounding. The distance takes part in autograd as always; second derivatives, `torch.func` and `torch.compile` run without
    the graph. References can be exchanged without a new recording, by `swap`. A metric that is moved, converted or given other
    weights is recorded anew. With hooks in the metric, parameters that require a gradient, or operations that cannot be
    recorded, the target runs without the graph and logs the reason once, at warning level. Copies and pickles record anew.

    Raises, when called, TypeError or ValueError for images that the metric cannot take (see `DreamSim`), for numbers of
    images and references that do not go together, for references on another device than the metric, and with `capture=True`
    for a metric that is not on a CUDA device.
    """

    name = "dreamsim"
    capturable = True
    directions: Tensor
    """Unit embeddings of the references, `(n, d)`."""
    mask: Tensor | None
    weights_of_references: Tensor | None
    references: Tensor | None
    """The pictures themselves, if they came in one batch: for judges that take no part."""

    def __init__(
        self,
        metric: DreamSim,
        directions: Float[Tensor, "n d"],
        mask: Mask | None = None,
        reduction: Reduction | None = None,
        weights: Sequence[float] | None = None,
        references: Image | None = None,
        adapters: Adapters | None = None,
        capture: bool | Recorder = False,
    ) -> None:
        super().__init__()
        if reduction not in (None, "mean", "min"):
            raise ValueError(f"unknown reduction '{reduction}'; known: mean, min, None (one reference each).")
        if reduction is not None and mask is not None and mask.shape[0] > 1:
            raise ValueError(
                f"with reduction='{reduction}' every image meets every reference under one mask, got {mask.shape[0]} masks; "
                "give one, or add up one target for each reference."
            )
        if weights is not None:
            if reduction != "mean":
                raise ValueError(f"weights need reduction='mean', got reduction={reduction!r}.")
            if len(weights) != len(directions) or not all(math.isfinite(w) for w in weights) or sum(weights) <= 0:
                raise ValueError(
                    f"{len(directions)} finite weights with a positive sum are needed, got {list(weights)}."
                )
        # inside a tuple, nn.Module does not see it: a model that holds this loss keeps its checkpoint and optimiser clean
        self._metric = (metric,)
        self._adapters = metric.adapter_state
        self.reduction = reduction
        self.chosen = adapters if adapters is None or isinstance(adapters, str) else tuple(adapters)
        # not persistent: they belong to the run, not to the checkpoint of a model that holds this loss
        self.register_buffer("directions", directions, persistent=False)
        # a copy: `swap` writes into it
        self.register_buffer("mask", None if mask is None else mask.detach().clone(), persistent=False)
        self.register_buffer("references", references, persistent=False)
        share = None if weights is None else torch.as_tensor(weights, dtype=directions.dtype, device=directions.device)
        self.register_buffer("weights_of_references", None if share is None else share / share.sum(), persistent=False)
        self._graphs = None if capture is False else Graphs(None if capture is True else capture)
        self._refuse_other_devices()

    @property
    def metric(self) -> DreamSim:
        """The metric: the one that made this target, or after `.to(...)` a copy that belongs to the target."""
        return self._metric[0]

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The metric."""
        return self._metric

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Target:
        super()._apply(fn, recurse)
        metric = self.metric
        probe = fn(torch.empty(0, dtype=metric.dtype, device=metric.device))
        if (probe.dtype, probe.device) != (metric.dtype, metric.device):
            self._metric = (copy.deepcopy(metric)._apply(fn),)
        return self

    def swap(self, images: Image | Sequence[Image], mask: Mask | None = None) -> None:
        """Take other references in place of the present ones. Recorded graphs stay valid.

        images, mask: as for `DreamSim.target`. The references may have another size in pixels; their number must be the same,
            and there must be a mask of the same shape, or none, as before.

        Raises as `DreamSim.target`, and ValueError for another number of references or another shape of mask.
        """
        directions, pictures = self.metric.embed_references(images, mask, self.chosen)
        for name, now, before in (("references", directions, self.directions), ("mask", mask, self.mask)):
            shape, needed = (None if x is None else tuple(x.shape) for x in (now, before))
            if shape != needed:
                raise ValueError(
                    f"swapped {name} must have the shape of those before, {needed}, got {shape}; for others make a new target "
                    "with metric.target(...)."
                )
        turn = nullcontext() if self._graphs is None else self._graphs.recorder.turn(self.directions.device)
        with turn, torch.no_grad():
            self.directions.copy_(directions)
            if self.mask is not None and mask is not None:
                self.mask.copy_(mask)
        if self.references is not None and pictures is not None and self.references.shape == pictures.shape:
            self.references.copy_(pictures)
        else:
            self.references = pictures
        self._adapters = self.metric.adapter_state

    def warm_up(self, shapes: Iterable[tuple[int, int, int]], dtype: torch.dtype = torch.float32) -> None:
        """Make one call, with a gradient and without, for each shape, so that later calls find everything prepared.

        shapes: (b, h, w) of batches of images. dtype: of the images.

        With `capture=True` these calls record their graphs, under the autocast that is active. Without it they load kernels
        and make tables, which takes the time of an ordinary first call.
        """
        for batch, height, width in shapes:
            images = torch.full((batch, 3, height, width), 0.5, dtype=dtype, device=self.metric.device)
            with torch.no_grad():
                self(images)
            with torch.enable_grad():
                self(images.requires_grad_()).sum().backward()

    def release(self) -> None:
        """Drop the recorded graphs and their memory. The next call records anew."""
        if self._graphs is not None:
            self._graphs.release()

    def forward(self, images: AnyImage) -> Distance:
        self._check_metric()
        self.metric.check(images, overshoot=True)
        if images.shape[0] == 1 and self.chosen is not None and not isinstance(self.chosen, str):
            images = images.expand(len(self.chosen), -1, -1, -1)  # the image is judged by each adapter
        if self.reduction is None and self.directions.shape[0] not in (1, images.shape[0]):
            raise ValueError(
                f"one reference, or one for each image, is needed, got {self.directions.shape[0]} references and "
                f"{images.shape[0]} images; to compare with all of them choose reduction='mean' or 'min'."
            )
        if self._graphs is None or torch.compiler.is_compiling():
            return self._distances(images)
        self._refuse_other_devices()
        return values_of(self._graphs, self._distances, images, self._watch, self._key())

    def _distances(self, images: Image) -> Distance:
        x = self.metric.directions(images, self.mask, self.chosen)
        pictures = images if self.references is None else self.references
        self.metric.check_grids(x, self.directions, images.shape[-2:], pictures.shape[-2:])
        if self.reduction is None:
            return half_chord(x, self.directions)
        distances = half_chord(x[:, None], self.directions[None])
        if self.reduction == "min":
            return distances.amin(1)
        return (
            distances.mean(1) if self.weights_of_references is None else (distances * self.weights_of_references).sum(1)
        )

    # What a recording depends on beside the images.

    def _watch(self) -> Watch:
        # not self: a target that is dropped frees its graphs at once, not at the next collection
        buffers = self._buffers
        return Watch([self.metric], lambda: [buffers[n] for n in ("directions", "mask", "weights_of_references")])

    @property
    def capture_key(self) -> Hashable:
        return (*self._key(), self._adapters)

    def _key(self) -> tuple[Hashable, ...]:
        metric = self.metric
        return metric.adapter_state, metric.resize, metric.normalize_embeds, self.reduction, self.chosen

    def _refuse_other_devices(self) -> None:
        device = self.metric.device
        if self._graphs is not None and not self._graphs.recorder.accepts(device):
            raise ValueError(
                f"capture=True records CUDA graphs, and the metric is on {device}; move it first, metric.to('cuda'), or make "
                "the target without capture."
            )

    def _check_metric(self) -> None:
        """The shared metric may have been moved or tuned since the references were embedded."""
        changes, active = self.metric.adapter_state
        if changes != self._adapters[0] or (self.chosen is None and active != self._adapters[1]):
            raise ValueError(
                "the metric's adapters or head changed after this target was made, and its references were embedded "
                "before; make a new one with metric.target(...)."
            )
        if self.directions.device != self.metric.device:
            raise ValueError(
                f"the target's references and its metric must be on one device, got {self.directions.device} and "
                f"{self.metric.device}; use target.to('{self.metric.device}')."
            )

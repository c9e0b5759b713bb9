"""The gradient of `gradient.py` as a CUDA graph: decoding, resizing, loss and both backward passes in one launch.

What changes from step to step is an input: the clean estimate, and the scheduled weights of the loss, which lie in a tensor
that is filled anew. Random views are drawn and applied outside, between three graphs: decoding, the loss of one view with its
gradient, and the way back through the decoder.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dreamsim_guidance.capture import Graphs, Recorder, Watch, settings, values_of
from dreamsim_guidance.guidance.gradient import Gradient, gradient_through, pulled_back
from dreamsim_guidance.guidance.views import Views
from dreamsim_guidance.loss import Loss, PairLoss
from dreamsim_guidance.loss.terms import scheduled_weights
from dreamsim_guidance.pipelines.decoder import Decoder
from dreamsim_guidance.pipelines.frozen import networks_of, without_gradients

__all__ = ["Capture", "CapturedGradient"]

log = logging.getLogger(__name__)

Capture = bool | Literal["auto"] | Recorder

_DECODERS = ("AutoencoderTiny", "AutoencoderKL")
"""Autoencoders of diffusers that make the same operations in every call. Those of videos keep a state."""


class CapturedGradient:
    """Runs `gradient_through` from recordings where that is possible; one object serves all calls of a pipeline.

    loss: as for `guide`.
    capture: True for whatever can be recorded; "auto" only where nothing speaks against it: on a CUDA device, with a pipeline
        that is not offloaded, pixels or an autoencoder whose decoding is known to be the same at every call, and a loss all of
        whose terms are `capturable`. A `Recorder` is True with another way of recording.
    """

    def __init__(self, loss: Callable[[Tensor], Tensor], capture: Capture = "auto") -> None:
        self.loss, self.capture = loss, capture
        recorder = None if isinstance(capture, bool | str) else capture
        self._whole, self._losses, self._back = (Graphs(recorder) for _ in range(3))
        self._decoding = Graphs(recorder, apart=True)  # what it keeps for the way back must outlast the losses' replays
        self._graphs = [self._whole, self._decoding, self._losses, self._back]
        self._weights: Tensor | None = None
        self._weights_now: list[float] = []
        """What `_weights` holds."""
        self._network: nn.Module | None = None
        self._decoded: dict[Hashable, tuple[int, Tensor, Tensor]] = {}
        """By kind of estimate: a number that changes with every recording, images and estimate with the graph between them."""
        self._count = 0
        self._decoder: Decoder | None = None
        self._reason: str | None = None
        """Why nothing is recorded with this decoder; each call of the pipeline has a decoder of its own."""
        self._explained = False

    def __call__(self, decoder: Decoder, views: Views, x0: Tensor, step: int) -> Gradient | None:
        """Images, losses and gradient as `gradient_through` returns them; None where it has to be called itself.

        Raises `ValueError` with `capture=True` for estimates on a device that has no graphs.
        """
        if self.capture is False or self._refused(decoder, x0.device):
            return None
        if self._network is not decoder.network:  # made anew for this call of the pipeline
            self.release()
            self._network, self._decoder = decoder.network, decoder
        with scheduled_weights() as values:
            views.at(step)
        parts = tuple(part.capture_key for part in _terms(self.loss))
        key = (*_kind(decoder, x0), views.images_per_reference, len(values), settings(x0.device), parts)
        weights = self._filled(values, x0.device)
        if views.augmented:
            with without_gradients(decoder.networks):
                result = self._apart(decoder, views, x0, step, key, weights)
        else:
            with torch.no_grad():  # a replay needs no parameter frozen, and a recording freezes them itself
                result = self._at_once(decoder, views, x0, step, key, weights)
        if result is not None:
            decoder.frames = max(1, len(result[0]) // len(x0))
        return result

    @property
    def recorded(self) -> bool:
        """Whether there are recordings, which hold memory."""
        return any(map(len, self._graphs))

    def release(self) -> None:
        """Drop all recordings and their memory."""
        self._drop_recordings()
        self._network = self._decoder = self._reason = None

    def _drop_recordings(self) -> None:
        for graphs in self._graphs:
            graphs.release()
        self._decoded.clear()

    def _at_once(
        self, decoder: Decoder, views: Views, x0: Tensor, step: int, key: Hashable, weights: Tensor
    ) -> Gradient | None:
        def work(estimate: Tensor) -> Gradient:
            respond = partial(views.gradient, step=step, loss=_bound(views, step, weights))
            return gradient_through(decoder, estimate, respond)

        watch = partial(self._watch, decoder)
        result: Any = self._whole.replayed(work, (x0,), watch, key)
        return result

    def _apart(
        self, decoder: Decoder, views: Views, x0: Tensor, step: int, key: Hashable, weights: Tensor
    ) -> Gradient | None:
        watch = partial(self._watch, decoder)

        def decode(estimate: Tensor) -> tuple[Tensor, ...]:
            self._decoded.pop(key, None)  # the graph of the rehearsal before, and its memory
            with torch.enable_grad():
                leaf = estimate.detach().clone().requires_grad_()  # the next step is copied into `estimate`
                images = decoder(leaf)
            self._count += 1
            self._decoded[key] = self._count, images, leaf
            return (images.detach(),)

        if key not in self._decoded and len(self._decoded) == self._decoding.size:
            self._drop_recordings()
        decoded = self._decoding.replayed(decode, (x0,), watch, key)
        if decoded is None:
            self._decoded.pop(key, None)
            return None
        number, recorded, leaf = self._decoded[key]

        def loss(images: Tensor) -> Tensor:
            return values_of(self._losses, _bound(views, step, weights), images, watch, key)

        def back(unit: Tensor) -> tuple[Tensor, ...]:
            # the graph stays: the next step's replay of the decoding fills the same memory
            return torch.autograd.grad(recorded, leaf, unit, retain_graph=True)

        losses, slope = views.gradient(decoded[0], step, loss)
        frames = len(decoded[0]) // len(x0)
        gradient = pulled_back(slope / frames, x0, lambda unit: self._back(back, (unit,), watch, (key, number))[0])
        return decoded[0], losses.view(len(x0), frames).mean(1), gradient

    def _filled(self, values: list[float], device: torch.device) -> Tensor:
        """The scheduled weights in the tensor that recordings read; filling it launches kernels and waits for nothing."""
        if self._weights is None or self._weights.device != device or len(self._weights) != len(values):
            self._weights = torch.zeros(len(values), dtype=torch.float64, device=device)
            self._weights_now = [0.0] * len(values)
        changed = [i for i, value in enumerate(values) if value != self._weights_now[i]]
        if changed:
            with self._whole.recorder.turn(device):  # not before the last replay has read them
                for i in changed:
                    self._weights[i].fill_(values[i])
            self._weights_now = list(values)
        return self._weights

    def _watch(self, decoder: Decoder) -> Watch:
        return Watch([*decoder.networks, *_networks(self.loss)], lambda: (self._weights,))

    def _refused(self, decoder: Decoder, device: torch.device) -> bool:
        if not self._whole.recorder.accepts(device):
            if self.capture != "auto":
                raise ValueError(
                    f"capture=True records CUDA graphs, and the pipeline works on {device}; use pipe.to('cuda'), or leave "
                    "capture out."
                )
            return True
        if self.capture == "auto" and self._decoder is not decoder:
            self._decoder, self._reason = decoder, self.reason(decoder)
        if self._reason is not None and not self._explained:
            log.debug("guidance runs without CUDA graphs: %s; capture=True tries them.", self._reason)
        self._explained = True
        return self._reason is not None

    def reason(self, decoder: Decoder) -> str | None:
        """Why nothing is recorded by default; None if it is."""
        offloaded = (
            "_hf_hook",
            "_diffusers_hook",
        )  # of accelerate, and of diffusers' group offloading and layerwise casting
        modules = (module for network in networks_of(decoder.pipe) for module in network.modules())
        if any(hasattr(module, name) for module in modules for name in offloaded):
            return "the pipeline is offloaded, and graphs hold memory"
        if decoder.decode is not None or not (decoder.pixels or type(decoder.vae).__name__ in _DECODERS):
            return "it is not known whether the decoder does the same in every call"
        if hasattr(decoder.pipe, "_unpack_latents_with_ids"):
            return "the pipeline reads the positions of its tokens on the host"
        if not isinstance(self.loss, Loss) or not all(part.capturable for part in _terms(self.loss)):
            return "not all terms of the loss are declared `capturable`"
        return None


def _bound(views: Views, step: int, weights: Tensor) -> Callable[[Tensor], Tensor]:
    with scheduled_weights(weights):
        return views.at(step)


def _kind(decoder: Decoder, x0: Tensor) -> tuple[Hashable, ...]:
    """What decides about the decoder's operations beside its network and the estimate's shape."""
    size = decoder.geometry.height, decoder.geometry.width
    clips = getattr(decoder.pipe.scheduler.config, "clip_sample", False)
    vae = decoder.network
    options = getattr(vae, "use_tiling", False), getattr(vae, "use_slicing", False)
    return (*size, clips, *options, tuple(x0.shape), x0.dtype)


def _modules(loss: Any) -> list[nn.Module]:
    return list(loss.modules()) if isinstance(loss, nn.Module) else []


def _terms(loss: Any) -> list[Any]:
    """The loss and the losses inside it."""
    return [part for part in _modules(loss) if isinstance(part, Loss | PairLoss)]


def _networks(loss: Any) -> list[nn.Module]:
    """The loss's modules, and what its parts use without owning it."""
    return _modules(loss)[:1] + [network for part in _terms(loss) for network in part.networks]

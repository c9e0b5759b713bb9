"""One call of a pipeline, made again and again with other latents: everything that stays the same is worked out once.

The shape of the latents is read from the pipeline's own `prepare_latents`, prompts are encoded once for each size of the batch,
random numbers are those of one seed for every sample, and scheduler and progress bar are afterwards as they were before.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dreamsim_guidance.pipelines.decoder import Decoder, Geometry
from dreamsim_guidance.pipelines.differentiable import differentiable
from dreamsim_guidance.pipelines.lock import lock_of
from dreamsim_guidance.pipelines.patches import Patches
from dreamsim_guidance.pipelines.scheduler import restore, scheduler_of, snapshot

__all__ = ["RepeatedCall"]

_REFUSED = {
    "latents": "they are set here",
    "output_type": "the clean latents are decoded here",
    "return_dict": "it is set here",
    "generator": "choose the noise inside the sampler by seed=",
    "num_images_per_prompt": "the number of images is that of the latents",
    "num_videos_per_prompt": "the number of images is that of the latents",
}

Replacement = tuple[Any, str, Callable[..., Any]]
"""A method, as owner and name, and the function that replaces it; that receives the method first."""


class RepeatedCall:
    """The call `pipe(**call)` with latents of any number.

    pipe: a diffusers pipeline with `latents=` that starts from noise and decodes with an autoencoder.
    call: the arguments that stay the same, `prompt` and others; several prompts make one image each.
    seed: of the random numbers that a stochastic sampler draws, the same for every sample.
    decode: a function from clean latents to images that replaces the pipeline's decoder, see `Decoder`.

    `like` are latents as the pipeline prepares them, one for each of `prompts` prompts; `decoder` decodes clean ones.
    Raises ValueError for a pipeline without `latents=` or autoencoder, one that starts from an image, one that takes latents in
    another layout than its sampler's, and for arguments that are set here.
    """

    def __init__(
        self, pipe: Any, call: Mapping[str, Any], seed: int = 0, decode: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        for name, reason in _REFUSED.items():
            if name in call:
                raise ValueError(f"leave {name} out of the pipeline's call: {reason}.")
        self.pipe, self.call, self.seed = pipe, dict(call), seed
        _refuse_start_from_image(pipe, call)
        parameters = inspect.signature(type(pipe).__call__).parameters
        self._count = next((n for n in ("num_images_per_prompt", "num_videos_per_prompt") if n in parameters), None)
        self._takes_generator = "generator" in parameters
        self._embeddings: list[Any] = []
        self._encoded_for = 0
        """For how many images the embeddings are."""
        with differentiable(pipe):  # refuses pipelines without `latents=`
            self.like, self.decoder = self._prepared(decode)
        if decode is None and self.decoder.network is None:
            raise ValueError(
                f"{type(pipe).__name__} has no autoencoder (`vae`); pass decode=, from its result to images."
            )
        self.prompts = self._encoded_for = len(self.like)

    @property
    def batches(self) -> bool:
        """Whether one call can make several images of one prompt."""
        return self._count is not None or self._embedded

    @property
    def _embedded(self) -> bool:
        return self.call.get("prompt_embeds") is not None

    def arguments(self, latents: Tensor) -> dict[str, Any]:
        """The arguments with which the pipeline makes one image of each of these latents."""
        count = len(latents) // self.prompts
        arguments = {**self.call, "latents": latents.to(self.like)}
        if self._takes_generator:
            arguments["generator"] = [torch.Generator().manual_seed(self.seed) for _ in latents]
        if self._embedded:  # some pipelines do not repeat embeddings that they are given
            return arguments | {k: _repeated(v, count) for k, v in self.call.items() if "prompt" in k}
        return arguments if self._count is None else arguments | {self._count: count}

    def run(self, arguments: Mapping[str, Any], *replacements: Replacement) -> Any:
        """The pipeline's result for these arguments, with some methods replaced during the call."""
        scheduler = scheduler_of(self.pipe)
        lock = lock_of(scheduler)
        lock.acquire()
        before = snapshot(scheduler)
        count = len(arguments["latents"]) if "latents" in arguments else 0
        if count != self._encoded_for:
            self._embeddings, self._encoded_for = [], count
        numbers = itertools.count()

        def encode(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            """What the same call returned in an earlier run."""
            number = next(numbers)
            if number == len(self._embeddings):
                self._embeddings.append(original(*args, **kwargs))
            return pytree.tree_map(lambda value: value, self._embeddings[number])  # new lists of the same tensors

        try:
            with _silent(self.pipe), Patches() as patches:
                patches.replace(self.pipe, "encode_prompt", encode)
                for owner, name, function in replacements:
                    patches.replace(owner, name, function)
                return self.pipe(**arguments, return_dict=False)[0]
        finally:
            restore(scheduler, before)
            lock.release()

    def _prepared(self, decode: Callable[[Tensor], Tensor] | None) -> tuple[Tensor, Decoder]:
        def prepare(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            arguments = inspect.signature(original).bind(*args, **kwargs).arguments
            result = original(*args, **kwargs)
            latents, *extras = result if isinstance(result, tuple) else (result,)
            geometry = Geometry.prepared(arguments, extras)
            again = None
            if not hasattr(self.pipe, "_unpack_latents_with_ids"):  # FLUX.2, which packs the latents that it is given
                again = original(**{**arguments, "latents": latents})
                again = again[0] if isinstance(again, tuple) else again
            if again is None or not _proportional(again, latents):
                raise ValueError(
                    f"{type(self.pipe).__name__} takes `latents` in another layout than its sampler's, so that the shape of "
                    "its noise is unknown here."
                )
            raise _Prepared(latents, Decoder(self.pipe, geometry, decode=decode))

        try:
            self.run({**self.call, "output_type": "latent"}, (self.pipe, "prepare_latents", prepare))
        except _Prepared as prepared:
            return prepared.like, prepared.decoder
        raise ValueError(f"{type(self.pipe).__name__} does not prepare its latents by `prepare_latents`.")


class _Prepared(Exception):
    """Ends a call of a pipeline once its latents are prepared."""

    def __init__(self, like: Tensor, decoder: Decoder) -> None:
        super().__init__()
        self.like, self.decoder = like, decoder


def _repeated(value: Any, count: int) -> Any:
    """Embeddings of one prompt, a tensor or a list of one tensor, repeated for a batch; anything else as it is."""
    if count == 1 or not isinstance(value, Tensor | list) or len(value) != 1:
        return value
    return value * count if isinstance(value, list) else value.repeat(count, *(1,) * (value.ndim - 1))


def _proportional(x: Tensor, y: Tensor) -> bool:
    """Whether x is a positive multiple of y."""
    if x.shape != y.shape:
        return False
    ratio = float((x * y).sum() / y.square().sum())
    return ratio > 0 and torch.allclose(x, ratio * y, rtol=1e-2, atol=1e-2 * ratio)


def _refuse_start_from_image(pipe: Any, call: Mapping[str, Any]) -> None:
    """Raise ValueError for a call that starts from a noised image; inpainting at full strength starts from noise."""
    strength = inspect.signature(type(pipe).__call__).parameters.get("strength")
    if strength is not None and call.get("strength", strength.default) < 0.999:
        raise ValueError(
            f"{type(pipe).__name__} starts from an image and not from noise alone; use the text-to-image pipeline with the "
            "same components, e.g. AutoPipelineForText2Image.from_pipe(pipe), or for inpainting strength=1.0."
        )


@contextmanager
def _silent(pipe: Any) -> Iterator[None]:
    """Hide the pipeline's own progress bar in the block: there would be one for every step of an optimiser."""
    before = vars(pipe).get("_progress_bar_config")
    vars(pipe)["_progress_bar_config"] = {**(before or {}), "disable": True}
    try:
        yield
    finally:
        del vars(pipe)["_progress_bar_config"]
        vars(pipe).update({} if before is None else {"_progress_bar_config": before})

"""Sample the pictures of a plan: references, and variations of them in four ways.

seed       from noise of its own: another sample of the same prompt, as in NIGHTS
noise      from noise on the great circle between the reference's noise a and other noise b, at the share f of the angle w:
               sin((1 - f) w) / sin(w) a + sin(f w) / sin(w) b
img2img    from the reference, which is encoded and sent through the share f of the noise schedule
guide      from noise of its own, guided so that the metric's distance d to the reference becomes the chosen distance c:
               loss = (d - c)^2 / (2 c),   whose gradient is that of the distance, times its relative error

Shoemake, Animating Rotation with Quaternion Curves, SIGGRAPH 1985; Meng et al., SDEdit, ICLR 2022.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from dreamsim_guidance.generation import named_models
from dreamsim_guidance.generation.plan import PlannedModel, Way
from dreamsim_guidance.generation.sampling import Sampler, method_of
from dreamsim_guidance.guidance import guide
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.pipelines.patches import Patches
from dreamsim_guidance.types import Distance, Image

__all__ = ["Drawn", "Source", "slerp"]


@dataclass(frozen=True)
class Drawn:
    """Pictures of one call, and what is recorded about each.

    images: `(b, 3, h, w)` in [0, 1], rounded to 8 bits, on the CPU.
    flagged: whether the model's safety checker objected; None without one.
    reached, strength, attempts: for guided pictures, the distance to the reference, the strength of the guidance that was kept,
        and how often the picture was sampled.
    """

    images: Image
    flagged: list[bool | None]
    reached: list[float] | None = None
    strength: list[float] | None = None
    attempts: list[int] | None = None


class Source:
    """A model of a plan, ready to sample. Raises the errors of `named_models.load`, and ValueError without prompts.

    planned: the model and its settings. device: where it runs.
    """

    def __init__(self, planned: PlannedModel, device: str) -> None:
        self.planned, self.device = planned, device
        self.model = named_models.find(planned.model, "words")
        self.pipe: Any = named_models.load(self.model, device, planned.dtype, scheduler=planned.scheduler)
        self.pipe.set_progress_bar_config(disable=True)
        if "prompt" not in inspect.signature(self.pipe.__call__).parameters:
            raise ValueError(f"'{planned.model}' takes no prompt; a plan needs a model that does.")

    @cached_property
    def settings(self) -> dict[str, Any]:
        """How pictures are sampled, for their records."""
        parameters = inspect.signature(self.pipe.__call__).parameters
        defaults = {
            name: getattr(parameters.get(name), "default", None) for name in ("num_inference_steps", "guidance_scale")
        }
        steps, scale = self.planned.steps or self.model.steps, self._scale
        return {
            "steps": defaults["num_inference_steps"] if steps is None else steps,
            "guidance_scale": defaults["guidance_scale"] if scale is None else scale,
            "scheduler": type(self.pipe.scheduler).__name__,
            "pipeline": type(self.pipe).__name__,
            "dtype": str(self.pipe.dtype).removeprefix("torch."),
            "device": self.device,
        }

    def references(self, prompts: Sequence[str], seeds: Sequence[int]) -> Drawn:
        """Sample one picture for each prompt, from the noise of its seed."""
        return _draw(self._sampler(prompts), seeds)

    def variations(
        self,
        way: Way,
        amount: float,
        prompts: Sequence[str],
        references: Callable[[], Image],
        reference_seeds: Sequence[int],
        seeds: Sequence[int],
        metric: Callable[[], DreamSim],
    ) -> Drawn:
        """Sample one variation of each reference.

        way, amount: see `generation.plan`. references, metric: called by the ways that need them.
        Raises ValueError where the model lacks what the way needs.
        """
        sampler = self._sampler(prompts)
        if way.way == "seed":
            return _draw(sampler, seeds)
        if way.way == "noise":
            with _noise_towards(self.pipe, seeds, amount):
                return _draw(sampler, reference_seeds)
        if way.way == "img2img":
            return _draw(replace(sampler, pipe=self._img2img, init=references(), init_strength=amount), seeds)
        return _guided(sampler, way, amount, references(), seeds, metric())

    def check(self, way: Way) -> None:
        """Raise ValueError if the model cannot make variations in this way, before anything is sampled."""
        if way.way == "noise" and not hasattr(self.pipe, "prepare_latents"):
            raise ValueError(
                f"the way 'noise' needs a pipeline with `prepare_latents`, which {type(self.pipe).__name__} lacks; leave it "
                "out."
            )
        if way.way == "img2img":
            _ = self._img2img
            steps = int(self.settings["steps"])
            least = min(amount for pair in way.amounts for amount in pair)
            if int(steps * least) < 1:
                raise ValueError(
                    f"an amount of {least:g} leaves less than one of {steps} steps for the way 'img2img'; choose at least "
                    f"{1 / steps:g}, or more steps."
                )
        if way.way == "guide":
            method_of(str(way.method), way.strength)

    @cached_property
    def _img2img(self) -> Any:
        from diffusers import AutoPipelineForImage2Image

        try:
            pipe = AutoPipelineForImage2Image.from_pipe(self.pipe)
        except ValueError as error:
            raise ValueError(
                f"diffusers has no img2img pipeline for {type(self.pipe).__name__} ({error}); leave the way 'img2img' out."
            ) from error
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @property
    def _scale(self) -> float | None:
        return self.model.cfg if self.planned.guidance_scale is None else self.planned.guidance_scale

    def _sampler(self, prompts: Sequence[str]) -> Sampler:
        size = self.planned.size or self.model.size
        return Sampler(
            self.pipe,
            tuple(prompts),
            self.planned.negative_prompt,
            steps=self.planned.steps or self.model.steps,
            cfg=self._scale,
            size=None if size is None else (size, size),
        )


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Return the point at `share`, in [0, 1], of the arc from each a to each b, `(n, ...)`; a line where they are parallel."""
    first, second = a.flatten(1).double(), b.flatten(1).double()
    cosine = torch.nn.functional.cosine_similarity(first, second, dim=1).clamp(-1, 1)
    angle = cosine.arccos()[:, None]
    sine = angle.sin()
    on_line = sine < 1e-6
    safe = torch.where(on_line, 1.0, sine)
    weights = (
        torch.where(on_line, 1 - share, ((1 - share) * angle).sin() / safe),
        torch.where(on_line, share, (share * angle).sin() / safe),
    )
    return (weights[0] * first + weights[1] * second).view_as(a).to(a.dtype)


@contextmanager
def _noise_towards(pipe: Any, seeds: Sequence[int], share: float) -> Iterator[None]:
    """Let the pipeline start from noise at `share` of the arc from its own noise to that of `seeds`, one for each picture."""

    def mixed(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        arguments = inspect.signature(original).bind(*args, **kwargs).arguments
        result = original(**arguments)
        others = original(**{**arguments, "generator": [torch.Generator().manual_seed(seed) for seed in seeds]})
        if not isinstance(result, tuple):
            return slerp(result, others, share)
        return (slerp(result[0], others[0], share), *result[1:])

    with Patches() as patches:
        patches.replace(pipe, "prepare_latents", mixed)
        yield


def _draw(sampler: Sampler, seeds: Sequence[int]) -> Drawn:
    result = sampler.pipe(**sampler.arguments(seeds))
    images = getattr(result, "images", None)
    if images is None or len(images) != len(seeds):
        raise ValueError(f"{type(sampler.pipe).__name__} does not return images; a pipeline for images is needed.")
    pixels = torch.as_tensor(images).movedim(-1, 1).float().clamp(0, 1)
    flags = getattr(result, "nsfw_content_detected", None)
    checked = getattr(sampler.pipe, "safety_checker", None) is not None
    flagged: list[bool | None] = (
        [bool(flag) for flag in flags] if flags is not None and checked else [None] * len(seeds)
    )
    return Drawn((pixels * 255).round() / 255, flagged)


def _guided(
    sampler: Sampler, way: Way, chosen: float, references: Image, seeds: Sequence[int], metric: DreamSim
) -> Drawn:
    """Guide each picture to its distance; sample those that miss it again, with twice the strength."""
    strength, tolerance = float(way.strength or 0), float(way.tolerance or 0)
    best: list[tuple[Tensor, bool | None, float, float]] = []
    tries = [0] * len(seeds)
    rest = list(range(len(seeds)))
    for attempt in range(int(way.attempts or 1)):
        prompts = tuple(sampler.prompt[i] for i in rest)
        target = metric.target(references[rest].to(metric.device))

        def loss(images: Tensor, target: Callable[[Tensor], Distance] = target) -> Tensor:
            return (target(images) - chosen).square() / (2 * chosen)

        with guide(sampler.pipe, loss, method_of(str(way.method), strength * 2**attempt), judges={}):
            drawn = _draw(replace(sampler, prompt=prompts), [seeds[i] for i in rest])
        with torch.no_grad():
            reached = target(drawn.images.to(metric.device)).tolist()
        for place, i in enumerate(rest):
            result = (drawn.images[place], drawn.flagged[place], reached[place], strength * 2**attempt)
            tries[i] += 1
            if attempt == 0:
                best.append(result)
            elif abs(result[2] - chosen) < abs(best[i][2] - chosen):
                best[i] = result
        rest = [i for i in rest if abs(best[i][2] - chosen) > tolerance]
        if not rest:
            break
    images, flagged, distances, strengths = zip(*best, strict=True)
    return Drawn(torch.stack(images), list(flagged), list(distances), list(strengths), tries)

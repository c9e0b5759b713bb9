"""Sample a pipeline with and without guidance from the same noise: what the command and the comparisons share.

Image i of a run starts from the seed `seed + i`. So the guided and the unguided image of one number start from the same
noise, and the images do not depend on the size of the batches.
"""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from dreamsim_guidance.files.names import suggestion
from dreamsim_guidance.guidance import Entry, Log, Method, guide
from dreamsim_guidance.guidance.methods import METHODS, method_class
from dreamsim_guidance.preprocess import resize
from dreamsim_guidance.types import Image

__all__ = ["Sampler", "log_of", "merged", "method_of"]


@dataclass(frozen=True)
class Sampler:
    """A pipeline and the arguments of its call, except for the noise. None and "" leave an argument out.

    pipe: a diffusers pipeline that makes images.
    prompt: one for all images, or one for each.
    steps: of the sampler.
    cfg: scale of classifier-free guidance; with a negative prompt it is passed as `true_cfg_scale` if the pipeline has it.
    size: height and width in pixels.
    eta: share of noise in DDIM's steps; 0 is deterministic.
    init: picture `(1, 3, h, w)` in [0, 1] to start from, instead of noise, or one for each image, `(b, 3, h, w)`.
    init_strength: how much of the way from that picture to noise, in (0, 1].
    """

    pipe: Any
    prompt: str | tuple[str, ...] = ""
    negative_prompt: str = ""
    steps: int | None = None
    cfg: float | None = None
    size: tuple[int, int] | None = None
    eta: float | None = None
    init: Image | None = field(default=None, repr=False)
    init_strength: float = 0.6

    def sample(
        self,
        seeds: Sequence[int],
        loss: Callable[[Tensor], Tensor],
        method: Method | None,
        label: str = "",
        **options: Any,
    ) -> tuple[Image, Log]:
        """Sample one image for each seed; return images `(b, 3, h, w)` in [0, 1] on the CPU, and the log of `guide`.

        loss: from images to their distances `(b,)`.
        method: None samples without guidance, and decodes only the result.
        label: text of the progress bar.
        options: further arguments of `guide`.

        Raises ValueError if the pipeline does not return images or does not accept an argument.
        """
        arguments = self.arguments(seeds)
        if method is None:
            options = {"judges": options.get("judges"), "window": (1.0, 1.0)}
        self.pipe.set_progress_bar_config(desc=label, disable=False, leave=False, mininterval=0.5)
        with guide(self.pipe, loss, method, **options) as log:
            result = self.pipe(**arguments)
        images = getattr(result, "images", None)
        if images is None or len(images) != len(seeds):
            raise ValueError(f"{type(self.pipe).__name__} does not return images; a pipeline for images is needed.")
        return torch.as_tensor(images).movedim(-1, 1).float().clamp(0, 1), log

    def arguments(self, seeds: Sequence[int]) -> dict[str, Any]:
        """The arguments of the pipeline's call. Raises ValueError for a setting that its signature does not accept."""
        accepted, count = inspect.signature(self.pipe.__call__).parameters, len(seeds)
        values: dict[str, Any] = {
            "num_inference_steps": self.steps,
            "eta": self.eta,
            "height": None if self.size is None else self.size[0],
            "width": None if self.size is None else self.size[1],
        }
        scale = "true_cfg_scale" if self.negative_prompt and "true_cfg_scale" in accepted else "guidance_scale"
        values[scale] = self.cfg
        if "prompt" in accepted:
            values["prompt"] = [self.prompt] * count if isinstance(self.prompt, str) else list(self.prompt)
            values["negative_prompt"] = [self.negative_prompt] * count if self.negative_prompt else None
        elif self.prompt or self.negative_prompt:
            raise ValueError(f"{type(self.pipe).__name__} takes no prompt; leave it out.")
        elif "batch_size" in accepted:
            values["batch_size"] = count
        if self.init is not None:
            if not {"image", "strength"} <= set(accepted):
                raise ValueError(f"{type(self.pipe).__name__} does not start from a picture; leave init out.")
            init = self.init if self.size is None else resize(self.init, self.size)
            values |= {"image": init.expand(count, -1, -1, -1), "strength": self.init_strength}
        for name, parameter in (("size", "height"), ("eta", "eta")):
            if getattr(self, name) is not None and parameter not in accepted and self.init is None:
                raise ValueError(f"{type(self.pipe).__name__} has no {parameter} to choose; leave {name} out.")
        arguments = {name: value for name, value in values.items() if value is not None and name in accepted}
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return {**arguments, "generator": generators, "output_type": "np"}


def method_of(name: str, strength: float | None = None, options: Sequence[str] = ()) -> Method:
    """A guidance method by its name.

    name: a short name, or a class of your own as package.module.Class. strength, options ("cap=0.2", "shift=-1"): fields that
    differ from the method's defaults. Raises `ValueError` for unknown names and impossible values.
    """
    if name not in METHODS and "." not in name:
        raise ValueError(f"unknown method '{name}'{suggestion(name, METHODS)}; known: {', '.join(METHODS)}.")
    kind: Any = method_class(name)
    names, values = {entry.name for entry in fields(kind)}, {}
    for option in options:
        key, equals, text = option.partition("=")
        if not equals or key not in names:
            raise ValueError(
                f"'{option}' is no option of {name}{suggestion(key, names)}; it has: {', '.join(sorted(names))}, each "
                "given as key=value."
            )
        try:
            values[key] = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            values[key] = text
    if strength is not None:
        values["strength"] = strength
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{name} cannot have {', '.join(options)}: {error}") from error


def merged(logs: Sequence[Log]) -> Log:
    """The logs of several batches as one log: lists are joined, seconds and skipped gradients added."""
    whole = Log()
    for steps in zip(*(log.entries for log in logs), strict=False):
        whole.entries.append(
            replace(
                steps[0],
                guided=any(step.guided for step in steps),
                distance=[value for step in steps for value in step.distance],
                gradient_norm=[value for step in steps for value in step.gradient_norm],
                move=[value for step in steps for value in step.move],
                skipped=sum(step.skipped for step in steps),
                seconds=sum(step.seconds for step in steps),
                judges={name: [v for step in steps for v in step.judges[name]] for name in steps[0].judges},
            )
        )
    for name in logs[0].final if logs else ():
        whole.final[name] = [value for log in logs for value in log.final[name]]
    return whole


def log_of(content: Mapping[str, Any]) -> Log:
    """The log from its `Log.to_dict`, or from the content of a file that `Log.save` wrote, where nan and inf are text."""
    return Log([_entry(step) for step in content["steps"]], final=_numbers(content["final"]))


def _entry(step: Mapping[str, Any]) -> Entry:
    lists = _numbers({name: step[name] for name in ("distance", "gradient_norm", "move")})
    single = {name: float(step[name]) for name in ("timestep", "noise", "seconds")}
    return Entry(**{**step, **lists, **single, "judges": _numbers(step["judges"])})


def _numbers(values: Mapping[str, Sequence[float | str | None]]) -> dict[str, list[float]]:
    """Numbers from JSON, in which one that is not defined is null."""
    return {name: [math.nan if value is None else float(value) for value in row] for name, row in values.items()}

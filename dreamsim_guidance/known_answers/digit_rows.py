"""The rows of the table of guided digits: models are trained once, then each row is sampled and judged."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler
from safetensors.torch import load_file
from torch import Tensor, nn

from dreamsim_guidance.files.atomic import new_folder, write_tensors, writing
from dreamsim_guidance.guidance import Method, guide
from dreamsim_guidance.guidance.methods import method_class
from dreamsim_guidance.known_answers.digit_judge import DigitJudge
from dreamsim_guidance.known_answers.digit_models import DigitDenoiser, DigitGuide, train_denoiser, train_guide
from dreamsim_guidance.known_answers.digit_set import CLASSES, digits
from dreamsim_guidance.known_answers.guided_digits import GuidedDigits

__all__ = ["Bench", "ClassLoss"]

_SHOWN = 40
"""Samples of each row that are stored for the picture."""


class ClassLoss:
    """A loss for `guide`: -log of the mean probability that the classifiers give to each image's class, in nats.

    labels: the class of each image, `(b,)`.
    """

    def __init__(self, classifiers: list[DigitGuide], labels: Tensor) -> None:
        self.classifiers, self.labels = classifiers, labels

    def __call__(self, images: Tensor) -> Tensor:
        log_probabilities = torch.stack([classifier(images) for classifier in self.classifiers])
        mean = log_probabilities.logsumexp(0) - math.log(len(self.classifiers))
        return -mean.gather(1, self.labels[:, None])[:, 0]


class Bench:
    """Prior, classifiers and judge of a run. The models are trained at the first use of `folder` and stored there."""

    def __init__(self, config: GuidedDigits, folder: Path) -> None:
        self.config, self.folder = config, folder
        every_digit = digits()
        self.guiding, self.judging = every_digit.halves(config.seed)
        self.judge = DigitJudge(self.judging, every_digit)
        self.labels = torch.arange(config.samples) % CLASSES
        settings: dict[str, Any] = {"clip_sample": False}  # clipping would undo guidance
        self.scheduler = (DDIMScheduler if config.sampler == "ddim" else DDPMScheduler)(**settings)
        self.denoiser = self._denoiser()
        self.classifiers = self._classifiers()

    def row(self, name: str) -> dict[str, Any]:
        """Sample and judge a row, store some of its images, and return its entries in the table.

        name: that of a method, with +ensemble or +noise as in `GuidedDigits.methods`.
        """
        method_name, *modifiers = name.split("+")
        config = self.config
        pipe = (DDIMPipeline if config.sampler == "ddim" else DDPMPipeline)(self.denoiser, self.scheduler)
        pipe.set_progress_bar_config(desc=name, leave=False)
        arguments: dict[str, Any] = {"eta": config.eta} if config.sampler == "ddim" else {}
        arguments |= {"batch_size": config.samples, "num_inference_steps": config.steps, "output_type": "pt"}
        arguments["generator"] = torch.Generator().manual_seed(config.seed)
        start = time.perf_counter()
        if method_name == "none":
            images = pipe(**arguments).images
        else:
            classifiers = self.classifiers if "ensemble" in modifiers else self.classifiers[:1]
            views: dict[str, Any] = {"views": 4, "augmentation": _noisy} if "noise" in modifiers else {}
            with guide(pipe, ClassLoss(classifiers, self.labels), self._method(method_name), **views):
                images = pipe(**arguments).images
        seconds = time.perf_counter() - start
        if not bool(images.isfinite().all()):
            images = images.nan_to_num(0.0)
        with writing(self.folder / "rows" / f"{name}.npy") as temporary:
            np.save(temporary, (images[:_SHOWN, 0] * 255).round().byte().numpy())
        strength = None if method_name == "none" else self._method(method_name).strength
        return {
            "method": name,
            "strength": strength,
            **self._scores(images, self.labels, self.judge),
            "seconds": round(seconds, 2),
        }

    def real(self) -> dict[str, float]:
        """The scores of real digits, as if they had been sampled: an upper limit for every row.

        The judge scores the classifiers' half of the digits, and its Frechet distance is that to the other half, which is not 0
        because the halves are small. The classifier is scored on the half that it was not trained on.
        """
        scores = self._scores(self.guiding.images, self.guiding.labels, DigitJudge(self.judging, self.judging))
        return {**scores, "guide": self._accuracy(self.judging.images, self.judging.labels)}

    def _scores(self, images: Tensor, labels: Tensor, judge: DigitJudge) -> dict[str, float]:
        scores = judge(images, labels)
        return {
            "guide": self._accuracy(images, labels),
            "judge": scores.accuracy,
            "frechet": scores.frechet,
            "diversity": scores.diversity,
        }

    @torch.no_grad()
    def _accuracy(self, images: Tensor, labels: Tensor) -> float:
        """The share of the images that the first classifier reads as their class."""
        return float((self.classifiers[0](images).argmax(1) == labels).float().mean())

    def _method(self, name: str) -> Method:
        short_name, _, rule = name.partition("_")
        kind: Any = method_class(short_name)
        method: Method = kind(rule=rule) if rule else kind()
        return method.with_strength(getattr(self.config.strengths, name, method.strength))

    def _denoiser(self) -> nn.Module:
        folder, config = self.folder / "denoiser", self.config
        if not folder.is_dir():
            trained = train_denoiser(
                digits(), DDPMScheduler(), config.training_steps, width=config.width, seed=config.seed
            )
            with new_folder(folder) as temporary:
                trained.save_pretrained(temporary)
        return DigitDenoiser.from_pretrained(folder).eval().requires_grad_(False)

    def _classifiers(self) -> list[DigitGuide]:
        classifiers = []
        for k in range(self.config.classifiers):
            file = self.folder / "guides" / f"{k}.safetensors"
            if not file.is_file():
                trained = train_guide(self.guiding, self.config.guide_steps, seed=self.config.seed + k)
                with writing(file) as temporary:
                    write_tensors(trained.state_dict(), temporary)
            classifier = DigitGuide()
            classifier.load_state_dict(load_file(file))
            classifiers.append(classifier.eval().requires_grad_(False))
        return classifiers


def _noisy(images: Tensor) -> Tensor:
    """The augmentation of rows with +noise."""
    return images + 0.2 * torch.randn_like(images)

"""A row of the digits benchmark: models trained or found, a guided run, and what the judge says."""

from __future__ import annotations

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
"""Samples of a row that are kept for the picture."""


class ClassLoss:
    """-log of the classifiers' mean probability of each image's class `labels`, in nats; a loss for `guide`."""

    def __init__(self, classifiers: list[DigitGuide], labels: Tensor) -> None:
        self.classifiers, self.labels = classifiers, labels

    def __call__(self, images: Tensor) -> Tensor:
        said = torch.stack([classifier(images) for classifier in self.classifiers])
        mean = said.logsumexp(0) - torch.tensor(float(len(said))).log()
        return -mean.gather(1, self.labels[:, None])[:, 0]


class Bench:
    """Prior, classifiers and judge of a run; the models are trained once and kept in `folder`."""

    def __init__(self, config: GuidedDigits, folder: Path) -> None:
        self.config, self.folder = config, folder
        known = digits()
        self.seen, self.held_out = known.halves(config.seed)
        self.judge = DigitJudge(self.held_out, known)
        self.labels = torch.arange(config.samples) % CLASSES
        settings: dict[str, Any] = {"clip_sample": False}  # it would cut what guidance adds
        self.scheduler = (DDIMScheduler if config.sampler == "ddim" else DDPMScheduler)(**settings)
        self.denoiser = self._denoiser()
        self.classifiers = self._classifiers()

    def row(self, name: str) -> dict[str, Any]:
        """Sample, judge, and keep some images for the picture."""
        method_name, *modifiers = name.split("+")
        config = self.config
        pipe = (DDIMPipeline if config.sampler == "ddim" else DDPMPipeline)(self.denoiser, self.scheduler)
        pipe.set_progress_bar_config(desc=name, leave=False)
        arguments: dict[str, Any] = {"eta": config.eta} if config.sampler == "ddim" else {}
        arguments |= {"batch_size": config.samples, "num_inference_steps": config.steps, "output_type": "pt"}
        arguments["generator"] = torch.Generator().manual_seed(config.seed)
        began = time.perf_counter()
        if method_name == "none":
            images = pipe(**arguments).images
        else:
            chosen = self.classifiers if "ensemble" in modifiers else self.classifiers[:1]
            views: dict[str, Any] = {"views": 4, "augmentation": _noisy} if "noise" in modifiers else {}
            with guide(pipe, ClassLoss(chosen, self.labels), self._method(method_name), **views):
                images = pipe(**arguments).images
        seconds = time.perf_counter() - began
        if not bool(images.isfinite().all()):
            images = images.nan_to_num(0.0)
        with torch.no_grad():
            content = float((self.classifiers[0](images).argmax(1) == self.labels).float().mean())
        with writing(self.folder / "rows" / f"{name}.npy") as temporary:
            np.save(temporary, (images[:_SHOWN, 0] * 255).round().byte().numpy())
        judged = self.judge(images, self.labels)
        strength = None if method_name == "none" else self._method(method_name).strength
        return {
            "method": name,
            "strength": strength,
            "guide": content,
            "judge": judged.accuracy,
            "frechet": judged.frechet,
            "diversity": judged.diversity,
            "seconds": round(seconds, 2),
        }

    def real(self) -> dict[str, float]:
        """The classifiers' half of the real digits as if it had been sampled: what judge and distance say of the truth.

        Its distance is to the other half: how far real digits are from real digits, which few samples make large.
        """
        with torch.no_grad():
            content = float(
                (self.classifiers[0](self.held_out.images).argmax(1) == self.held_out.labels).float().mean()
            )
        judged = DigitJudge(self.held_out, self.held_out)(self.seen.images, self.seen.labels)
        return {
            "guide": content,
            "judge": judged.accuracy,
            "frechet": judged.frechet,
            "diversity": judged.diversity,
        }

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
            with new_folder(folder) as made:
                trained.save_pretrained(made)
        return DigitDenoiser.from_pretrained(folder).eval().requires_grad_(False)

    def _classifiers(self) -> list[DigitGuide]:
        found = []
        for k in range(self.config.classifiers):
            file = self.folder / "guides" / f"{k}.safetensors"
            if not file.is_file():
                trained = train_guide(self.seen, self.config.guide_steps, seed=self.config.seed + k)
                with writing(file) as temporary:
                    write_tensors(trained.state_dict(), temporary)
            classifier = DigitGuide()
            classifier.load_state_dict(load_file(file))
            found.append(classifier.eval().requires_grad_(False))
        return found


def _noisy(images: Tensor) -> Tensor:
    return images + 0.2 * torch.randn_like(images)

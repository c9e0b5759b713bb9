"""Training of a small StyleGAN of easy scenes, for inversion through a GAN without a downloaded model.

The discriminator D learns to tell scenes from generated images, the generator G to be taken for scenes, both in one step:

    loss_D = E softplus(D(G(z))) + E softplus(-D(x)) + gamma / 2 E |grad D(x)|^2,     loss_G = E softplus(-D(G(z)))

The penalty of the gradient (R1) is computed at one step in `penalty_every`, chosen at random, with as many times its weight.
The average of the generator's weights is what is saved.

Goodfellow et al., Generative Adversarial Nets, NeurIPS 2014 (the non-saturating loss); Mescheder, Geiger, Nowozin, Which
training methods for GANs do actually converge?, ICML 2018 (R1); Karras et al., Analyzing and improving the image quality of
StyleGAN, CVPR 2020 (architecture); Karras et al., Progressive growing of GANs, ICLR 2018 (spread over a batch).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.func import functional_call

from dreamsim_guidance.data.scenes.drawing import picture_grid
from dreamsim_guidance.data.scenes.pocket_scenes import draw_pocket_scenes
from dreamsim_guidance.files.atomic import new_folder, write_json, write_tensors
from dreamsim_guidance.pocket_gan import PocketGenerator, ScaledLinear
from dreamsim_guidance.preprocess import save_image
from dreamsim_guidance.training.fit import Learner, fit
from dreamsim_guidance.training.pocket.diffusion import distance_to_scenes
from dreamsim_guidance.training.pocket.settings import TrainPocketGAN
from dreamsim_guidance.training.pocket.training_log import line_writer
from dreamsim_guidance.training.weight_average import AveragedCopy
from dreamsim_guidance.types import Image

__all__ = ["AdversarialLearner", "Discriminator", "sample_generator", "save_generator", "train_gan"]


def train_gan(settings: TrainPocketGAN, folder: Path) -> dict[str, Any]:
    """Carry out `TrainPocketGAN.run`."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    generator = PocketGenerator(settings.channels, settings.z_dim, settings.w_dim, settings.depth)
    _, pictures = draw_pocket_scenes(settings.scenes, generator.img_resolution)
    learner = AdversarialLearner(generator, pictures, settings)
    learner.to(memory_format=torch.channels_last)  # a third faster on CPUs
    average = learner.averaged

    def watch(step: int) -> None:
        images = sample_generator(average, min(48, settings.samples), settings.seed)
        save_image(picture_grid(images, 12), folder / "samples.png")
        save_generator(average, folder / "pocket_gan", {"steps": step})

    write = line_writer(folder / "training.txt")
    fit(
        learner,
        settings.schedule,
        settings.seed,
        folder / "gan.pt",
        "gan",
        write,
        watch,
        str(replace(settings, samples=0)),
    )
    images = sample_generator(average, settings.samples, settings.seed)
    results = {"parameters": sum(p.numel() for p in generator.parameters()), **distance_to_scenes(images)}
    save_generator(average, folder / "pocket_gan", {"steps": settings.schedule.steps, **results})
    return results


class AdversarialLearner(Learner):
    """Generator, its average, and discriminator, trained at once on the given pictures."""

    def __init__(
        self, generator: PocketGenerator, pictures: UInt8[Tensor, "n 3 h w"], settings: TrainPocketGAN
    ) -> None:
        super().__init__()
        self.generator, self.average = generator, AveragedCopy(generator, settings.average)
        self.discriminator = Discriminator(generator.channels)
        self.pictures, self.settings = pictures, settings

    @property
    def averaged(self) -> PocketGenerator:
        """The generator with averaged weights."""
        return cast(PocketGenerator, self.average.model)

    def loss(self, generator: torch.Generator, progress: float) -> Tensor:
        settings = self.settings
        chosen = torch.randint(len(self.pictures), (settings.batch,), generator=generator)
        real = self.pictures[chosen].float() / 127.5 - 1
        z = torch.randn(settings.batch, self.generator.z_dim, generator=generator, dtype=torch.float32)
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))  # decides the noise of the layers
        generated = self.generator(z, noise_mode="random")
        # the generator's term must leave the discriminator alone, and the other way round
        fixed = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        loss = F.softplus(-functional_call(self.discriminator, fixed, generated)).mean()
        loss = loss + F.softplus(self.discriminator(generated.detach())).mean()
        penalised = bool(torch.rand((), generator=generator) * settings.penalty_every < 1)
        real.requires_grad_(penalised)
        scores = self.discriminator(real)
        loss = loss + F.softplus(-scores).mean()
        if penalised:
            (slope,) = torch.autograd.grad(scores.sum(), real, create_graph=True)
            loss = loss + settings.gamma / 2 * settings.penalty_every * slope.square().sum((1, 2, 3)).mean()
        return loss

    def after_step(self, progress: float) -> None:
        self.average.update(self.generator)


@torch.no_grad()
def sample_generator(generator: PocketGenerator, count: int, seed: int, batch: int = 64) -> Image:
    """Generate `count` images in [0, 1], `batch` at a time, with the layers' constant noise."""
    z = torch.randn(count, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    return torch.cat([(generator(part) / 2 + 0.5).clamp(0, 1) for part in z.split(batch)])


@torch.no_grad()
def save_generator(generator: PocketGenerator, folder: Path, card: dict[str, Any]) -> None:
    """Write generator.safetensors in float16 and card.json, replacing `folder`; sets `w_avg` to the mean of 10,000 w."""
    z = torch.randn(10_000, generator.z_dim, generator=torch.Generator().manual_seed(0))
    generator.mapping.w_avg.copy_(generator.mapping(z)[:, 0].mean(0))
    sizes = {name: getattr(generator, name) for name in ("channels", "z_dim", "w_dim", "depth")}
    half = {name: value.half().contiguous() for name, value in generator.state_dict().items()}
    fresh = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    with new_folder(fresh) as temporary:
        write_tensors(half, temporary / "generator.safetensors")
        write_json(temporary / "card.json", {"recipe": "train-pocket-gan", "generator": sizes, **card})
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


class Discriminator(nn.Module):
    """Scores images `(b, 3, size, size)` in about [-1, 1], larger for scenes; residual blocks that halve the size.

    channels: those of the generator, from 4 x 4 pixels on.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        widths = list(reversed(channels))
        self.colours = ScaledConvolution(3, widths[0], 1)
        self.blocks = nn.ModuleList(Block(a, b) for a, b in pairwise(widths))
        self.last = ScaledConvolution(widths[-1] + 1, widths[-1], 3)
        self.hidden = ScaledLinear(16 * widths[-1], widths[-1])
        self.score = ScaledLinear(widths[-1], 1)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        x = F.leaky_relu(self.colours(images), 0.2)
        for block in self.blocks:
            x = block(x)
        # how much the batch varies, so that a generator that draws one image only is found out
        spread = (x.var(0, correction=0) + 1e-8).sqrt().mean()
        x = torch.cat([x, spread.expand(len(x), 1, *x.shape[2:])], 1)
        x = F.leaky_relu(self.last(x), 0.2).flatten(1)
        return self.score(F.leaky_relu(self.hidden(x), 0.2))[:, 0]


class Block(nn.Module):
    """Two convolutions, with a halving of the size between them, beside a shortcut of one pixel's convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second = ScaledConvolution(inputs, inputs, 3), ScaledConvolution(inputs, outputs, 3)
        self.shortcut = ScaledConvolution(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.avg_pool2d(F.leaky_relu(self.first(x), 0.2) * math.sqrt(2), 2)
        y = F.leaky_relu(self.second(y), 0.2) * math.sqrt(2)
        return (self.shortcut(F.avg_pool2d(x, 2)) + y) / math.sqrt(2)


class ScaledConvolution(nn.Module):
    """A convolution whose weights are of unit variance and scaled when they are used, as in `ScaledLinear`."""

    def __init__(self, inputs: int, outputs: int, side: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, side, side))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight / math.sqrt(self.weight[0].numel())
        return F.conv2d(x, weight, self.bias, padding=weight.shape[-1] // 2)

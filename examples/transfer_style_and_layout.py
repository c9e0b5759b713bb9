"""Combine the style of one picture with the layout of another, without training.

    python examples/transfer_style_and_layout.py             # offline, with the pocket model; writes transfer.png

Guidance takes any sum of losses. The layout of a picture is a blurred, grey version of it. The style is measured by the
DreamSim distance to the other picture, and by the mean and covariance of its colours (Reinhard et al., Color Transfer between
Images, IEEE CG&A 2001, matches mean and deviation channel by channel).
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamsim_guidance import MPGD, DreamSim, Loss, guide, save_image
from dreamsim_guidance.data import draw, pocket_scene
from dreamsim_guidance.pocket import load_pocket


def layout_of(images: Tensor) -> Tensor:
    """The blurred grey images, `(b, 64)`, scaled to mean 0 and deviation 1 so that brightness and contrast do not matter."""
    grey = F.adaptive_avg_pool2d(images.mean(1, keepdim=True), 8).flatten(1)
    return (grey - grey.mean(1, keepdim=True)) / (grey.var(1, keepdim=True) + 1e-4).sqrt()


def colours_of(images: Tensor) -> Tensor:
    """Mean and covariance of the colours, `(b, 12)`."""
    pixels = images.flatten(2)
    centred = pixels - pixels.mean(2, keepdim=True)
    return torch.cat([pixels.mean(2), (centred @ centred.mT / pixels.shape[2]).flatten(1)], dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strength", type=float, default=0.01)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--n", type=int, default=6)
    arguments = parser.parse_args()
    pipe, metric = load_pocket("pixels"), DreamSim("pocket")
    layout_image, style_image = (draw(pocket_scene(number, "test"), 32) for number in (3, 6))
    goals = layout_of(layout_image), colours_of(style_image)
    layout = Loss.of(lambda x: (layout_of(x) - goals[0]).square().mean(1), "layout")
    colours = Loss.of(lambda x: (colours_of(x) - goals[1]).square().sum(1), "colours")
    loss = metric.target(style_image) + 0.3 * layout + 2.0 * colours

    def sample() -> Tensor:
        noise = [torch.Generator().manual_seed(seed) for seed in range(arguments.n)]
        images = pipe(arguments.n, noise, num_inference_steps=arguments.steps, output_type="np").images
        return torch.from_numpy(images).permute(0, 3, 1, 2)

    rows = {"unguided": sample()}
    for name, terms in {"style alone": metric.target(style_image) + 2.0 * colours, "style and layout": loss}.items():
        with guide(pipe, terms, MPGD(strength=arguments.strength)):
            rows[name] = sample()
    for name, images in rows.items():
        print(f"{name:16}  " + ", ".join(f"{key} {value.mean():.4f}" for key, value in loss.terms(images).items()))
    pictures = [torch.cat([layout_image, style_image, images]) for images in rows.values()]
    save_image(torch.cat([torch.cat(list(row), dim=-1) for row in pictures], dim=-2), "transfer.png")
    print(f"transfer.png: the layout, the style, then samples; {', '.join(rows)}")


if __name__ == "__main__":
    main()

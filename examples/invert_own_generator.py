"""Reconstruct a picture through a generator of your own: any differentiable function from a tensor to images.

    python examples/invert_own_generator.py        # offline; writes own_generator.png

The generator here mixes the 64 principal components of drawn scenes. A sampler of its prior is all that `invert` needs to
search a good start; without one it descends from a tensor.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from dreamsim_guidance import DreamSim, invert, save_image
from dreamsim_guidance.data import draw, pocket_scene
from dreamsim_guidance.losses import MSE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--n", type=int, default=400, help="scenes of which the components are computed")
    arguments = parser.parse_args()
    scenes = torch.cat([draw(pocket_scene(number, "train"), 32) for number in range(arguments.n)]).flatten(1)
    mean = scenes.mean(0)
    _, deviations, components = torch.pca_lowrank(scenes, q=min(64, arguments.n), center=True)
    basis = (components * deviations / arguments.n**0.5).T

    def generator(z: Tensor) -> Tensor:
        return (mean + z @ basis).view(-1, 3, 32, 32)

    def prior(n: int, random: torch.Generator) -> Tensor:
        return torch.randn(n, len(basis), generator=random)

    metric, target = DreamSim("pocket"), draw(pocket_scene(2, "test"), 32)
    rows = [target]
    for name, loss in {"mse": MSE(target), "mse and DreamSim": MSE(target) + 0.1 * metric.target(target)}.items():
        result = invert(loss, through=generator, init=prior, scale=1.0, steps=arguments.steps, search=64)
        image = result.images.clamp(0, 1)
        rows.append(image)
        print(f"{name:16}  mse {float(MSE(target)(image)):.4f}, DreamSim {float(metric(image, target)):.4f}")
    save_image(torch.cat(rows, dim=-1), "own_generator.png")
    print("own_generator.png: the scene, and its reconstruction by each loss")


if __name__ == "__main__":
    main()

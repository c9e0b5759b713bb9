"""Compare two inversion methods as a reader would: their pictures, judged by metrics that took no part.

    python examples/compare_inversions.py          # offline; writes inversions/ and compare_inversions.png

Scenes are inverted through the pocket autoencoder, from the encoder's latents and from random ones, and
`dreamsim-guidance evaluate reconstructions` judges both folders against the targets.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from dreamsim_guidance import DreamSim, Latents, invert, save_image
from dreamsim_guidance.cli import main as command
from dreamsim_guidance.data import draw, pocket_scene
from dreamsim_guidance.losses import MSE
from dreamsim_guidance.pocket import load_pocket


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--n", type=int, default=3)
    arguments = parser.parse_args()
    metric, vae = DreamSim("pocket"), load_pocket("latents").vae
    targets = torch.cat([draw(pocket_scene(number, "test"), 64) for number in range(arguments.n)])
    loss = MSE(targets) + 0.1 * metric.target(targets)
    methods = {
        "from_encoder": invert(loss, through=Latents(vae, targets), steps=arguments.steps),
        "from_noise": invert(
            loss, Latents(vae, size=(64, 64)), steps=arguments.steps, batch=arguments.n, search=64, restarts=2
        ),
    }
    folders = {"targets": targets, **{name: result.images for name, result in methods.items()}}
    for name, images in folders.items():
        for number, image in enumerate(images):
            save_image(image[None], Path("inversions", name, f"{number}.png"))
    save_image(
        torch.cat([torch.cat(list(images), dim=-1) for images in folders.values()], dim=-2), "compare_inversions.png"
    )
    for name, result in methods.items():
        print(f"{name:12}  loss {float(result.loss.mean()):.4f}, {result.seconds:.0f} s")
    print("compare_inversions.png: targets, then both methods")
    words = [f"inversions/{name}" for name in folders]
    command(["evaluate", "reconstructions", *words, "--metric", "pocket", "--metric", "ssim"])


if __name__ == "__main__":
    main()

"""Guide one half of the picture and leave the other half to the model.

    python examples/guide_with_mask.py             # offline, with the pocket model; writes with_mask.png

Pixels outside the mask have no influence on the distance. The model still makes both halves fit together.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from dreamsim_guidance import MPGD, DreamSim, guide, save_image
from dreamsim_guidance.data import draw, pocket_scene
from dreamsim_guidance.pocket import load_pocket


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strength", type=float, default=0.01)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--n", type=int, default=6)
    arguments = parser.parse_args()
    pipe, metric = load_pocket("pixels"), DreamSim("pocket")
    reference = draw(pocket_scene(2, "test"), 32)
    left = torch.zeros(1, 1, 32, 32)
    left[..., :16] = 1

    def sample() -> Tensor:
        noise = [torch.Generator().manual_seed(seed) for seed in range(arguments.n)]
        images = pipe(arguments.n, noise, num_inference_steps=arguments.steps, output_type="np").images
        return torch.from_numpy(images).permute(0, 3, 1, 2)

    rows = {"unguided": sample()}
    for name, mask in {"guided on the left": left, "guided everywhere": None}.items():
        with guide(pipe, metric.target(reference, mask=mask), MPGD(strength=arguments.strength)):
            rows[name] = sample()
    print("                      left half  right half   (root mean square difference from the reference)")
    for name, images in rows.items():
        halves = [half.square().mean().sqrt() for half in (images - reference).split(16, dim=-1)]
        print(f"{name:20}  {halves[0]:9.4f}  {halves[1]:10.4f}")
    pictures = [torch.cat([reference, images]) for images in rows.values()]
    save_image(torch.cat([torch.cat(list(row), dim=-1) for row in pictures], dim=-2), "with_mask.png")
    print(f"with_mask.png: the reference, then samples; {', '.join(rows)}")


if __name__ == "__main__":
    main()

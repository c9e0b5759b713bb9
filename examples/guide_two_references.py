"""Guide a diffusion model towards two pictures at once, with weights that move from the first to the second.

    python examples/guide_two_references.py             # offline, with the pocket model; writes two_references.png
    python examples/guide_two_references.py --strength 0.03 --n 6

All rows start from the same noise. The first row shows the references and unguided samples; each of the others has different
weights of the two references.
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
    parser.add_argument("--n", type=int, default=5)
    arguments = parser.parse_args()
    pipe, metric = load_pocket("pixels"), DreamSim("pocket")
    references = [draw(pocket_scene(number, "test"), 32) for number in (0, 4)]

    def sample() -> Tensor:
        noise = [torch.Generator().manual_seed(seed) for seed in range(arguments.n)]
        images = pipe(arguments.n, noise, num_inference_steps=arguments.steps, output_type="np").images
        return torch.from_numpy(images).permute(0, 3, 1, 2)

    unguided = sample()
    rows = [torch.cat([*references, unguided])]
    print("weights of the references    distance to each")
    for share in (1.0, 0.75, 0.5, 0.25, 0.0):
        loss = metric.target(references, reduction="mean", weights=[share, 1 - share])
        with guide(pipe, loss, MPGD(strength=arguments.strength)):
            images = sample()
        distances = [float(metric(images, reference).mean()) for reference in references]
        print(f"{share:.2f} {1 - share:.2f}                    {distances[0]:.4f} {distances[1]:.4f}")
        rows.append(torch.cat([torch.ones_like(rows[0][:2]), images]))
    before = [float(metric(unguided, reference).mean()) for reference in references]
    print(f"unguided                     {before[0]:.4f} {before[1]:.4f}")
    save_image(torch.cat([torch.cat(list(row), dim=-1) for row in rows], dim=-2), "two_references.png")
    print("two_references.png: the references and unguided samples; below, from the first reference to the second")


if __name__ == "__main__":
    main()

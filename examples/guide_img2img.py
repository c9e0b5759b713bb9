"""Image to image: start from one picture, follow a prompt, and guide the result towards another picture.

    python examples/guide_img2img.py             # offline, with the pocket model; writes img2img.png

The pipeline is diffusers' image-to-image class, made from the components of the text-to-image pipeline.
"""

from __future__ import annotations

import argparse

import torch
from diffusers import StableDiffusionImg2ImgPipeline
from torch import Tensor

from dreamsim_guidance import MPGD, DreamSim, guide, save_image
from dreamsim_guidance.data import draw, pocket_scene
from dreamsim_guidance.pocket import load_pocket


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strength", type=float, default=0.01, help="strength of the guidance")
    parser.add_argument(
        "--change", type=float, default=0.7, help="noise added to the first picture: 0 keeps it, 1 is all noise"
    )
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--n", type=int, default=4)
    arguments = parser.parse_args()
    parts = load_pocket("latents").components
    pipe, metric = StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False), DreamSim("pocket")
    pipe.set_progress_bar_config(leave=False)
    start, reference = (draw(pocket_scene(number, "test"), 64) for number in (1, 5))

    def sample() -> Tensor:
        return pipe(
            "two stars in a row",
            image=start,
            strength=arguments.change,
            num_inference_steps=arguments.steps,
            num_images_per_prompt=arguments.n,
            generator=[torch.Generator().manual_seed(seed) for seed in range(arguments.n)],
            output_type="pt",
        ).images

    unguided = sample()
    with guide(pipe, metric.target(reference), MPGD(strength=arguments.strength)):
        guided = sample()
    print("            distance to the start  to the reference")
    for name, images in {"unguided": unguided, "guided": guided}.items():
        print(f"{name:10}  {metric(images, start).mean():21.4f}  {metric(images, reference).mean():16.4f}")
    rows = [torch.cat([start, unguided]), torch.cat([reference, guided])]
    save_image(torch.cat([torch.cat(list(row), dim=-1) for row in rows], dim=-2), "img2img.png")
    print("img2img.png: the start and unguided samples; the reference and guided samples")


if __name__ == "__main__":
    main()

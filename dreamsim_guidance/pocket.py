"""The pocket models that ship with this package: nothing is downloaded, and minutes on a laptop are enough.

    pipeline = load_pocket("pixels")     # DDIMPipeline, unconditional, 32 x 32 pixels
    pipeline = load_pocket("latents")    # StableDiffusionPipeline, words of captions, 64 x 64 pixels
    generator = load_pocket("gan")       # PocketGenerator, a small StyleGAN, 32 x 32 pixels
    judge = load_judge()                 # recognises the factors of a scene; takes no part in guidance

They were trained on the easy scenes of `data.scenes.pocket_scenes` alone, by the recipes train-pocket-pixels,
train-pocket-latents, train-pocket-gan and train-pocket-judge.
"""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Literal, overload

from torch import nn

from dreamsim_guidance.evaluation.samples.scene_judge import load_judge
from dreamsim_guidance.pocket_gan import PocketGenerator, read_generator

if TYPE_CHECKING:
    from diffusers import DDIMPipeline, StableDiffusionPipeline

__all__ = ["load_judge", "load_pocket"]

_MODELS = ("pixels", "latents", "gan")


@overload
def load_pocket(name: Literal["pixels"]) -> DDIMPipeline: ...


@overload
def load_pocket(name: Literal["latents"]) -> StableDiffusionPipeline: ...


@overload
def load_pocket(name: Literal["gan"]) -> PocketGenerator: ...


def load_pocket(name: str) -> DDIMPipeline | StableDiffusionPipeline | PocketGenerator:
    """A pocket diffusion pipeline or generator, frozen, in float32 on the CPU.

    name: "pixels" is an unconditional `DDIMPipeline` at 32 x 32 pixels; "latents" is a `StableDiffusionPipeline` at 64 x 64
        pixels whose prompts use the words of `data.scenes.captions` ("two large red stars in a row, on a blue background");
        "gan" is a generator at 32 x 32 pixels with the interface of NVIDIA's StyleGANs, for `StyleGAN(load_pocket("gan"))`.

    Raises ValueError for another name.
    """
    if name not in _MODELS:
        raise ValueError(f"unknown pocket model '{name}'; known: {', '.join(_MODELS)}.")
    if name == "gan":
        with as_file(files("dreamsim_guidance.weights") / "pocket_gan") as folder:
            return read_generator(folder)
    import diffusers

    kind = diffusers.DDIMPipeline if name == "pixels" else diffusers.StableDiffusionPipeline
    with as_file(files("dreamsim_guidance.weights") / f"pocket_{name}") as folder:
        options = {} if name == "pixels" else {"safety_checker": None, "requires_safety_checker": False}
        pipeline = kind.from_pretrained(folder, local_files_only=True, **options)
    for part in pipeline.components.values():  # the argument for it has another name in later versions of diffusers
        if isinstance(part, nn.Module):
            nn.Module.float(part.requires_grad_(False).eval())
    return pipeline

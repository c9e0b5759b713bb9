"""The pocket models that ship with this package: nothing is downloaded, and minutes on a laptop are enough.

    pipeline = load_pocket("pixels")     # DDIMPipeline, unconditional, 32 x 32 pixels
    pipeline = load_pocket("latents")    # StableDiffusionPipeline, words of captions, 64 x 64 pixels
    generator = load_pocket("gan")       # PocketGenerator, a small StyleGAN, 32 x 32 pixels
    metric = load_factor_metric()        # DreamSim("pocket") with one adapter for each of four factors, chosen per call
    judge = load_judge()                 # recognises the factors of a scene; takes no part in guidance

They were trained on drawn scenes alone, by the recipes train-pocket-pixels, train-pocket-latents, train-pocket-gan,
train-factor-adapters and train-pocket-judge; the generators on the easy ones of `data.scenes.pocket_scenes`.
"""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from torch import nn

from dreamsim_guidance.evaluation.samples.scene_judge import load_judge
from dreamsim_guidance.pocket_gan import PocketGenerator, read_generator

if TYPE_CHECKING:
    from diffusers import DDIMPipeline, StableDiffusionPipeline

    from dreamsim_guidance.metric.dreamsim import DreamSim

__all__ = ["load_factor_metric", "load_judge", "load_pocket"]

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


def load_factor_metric(folder: Path | None = None) -> DreamSim:
    """The pocket metric with one adapter for each perceptual factor of a drawn scene, on the CPU, none of them active.

    folder: one adapter in each subfolder, as the recipe train-factor-adapters writes them; by default the adapters that ship:
        "colour", "shape", "layout" and "texture".

    Each is chosen by its subfolder's name: `metric(x, y, adapters="colour")`, `metric.target(reference, adapters="layout")`.
    "people" is the adapter of `DreamSim("pocket")`, which weighs all factors as simulated people do. Without one, the towers
    are un-tuned.

    Raises FileNotFoundError for a folder without adapters.
    """
    from dreamsim_guidance.metric.dreamsim import DreamSim

    metric = DreamSim("pocket", baseline=True, fold=False)
    with as_file(files("dreamsim_guidance.weights")) as weights:
        folder = weights / "factor_adapters" if folder is None else folder
        adapters = sorted(file.parent for file in folder.glob("*/adapter_config.json"))
        if not adapters:
            raise FileNotFoundError(f"'{folder}' has no adapters; give the folder 'adapters' of train-factor-adapters.")
        for adapter in (weights / "pocket_adapter", *adapters):
            metric.load_adapter(adapter, "people" if adapter.name == "pocket_adapter" else adapter.name)
    metric.set_adapter(None)
    return metric

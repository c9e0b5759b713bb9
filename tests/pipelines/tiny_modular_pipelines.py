"""Modular Diffusers: blocks without their text encoders, with a guider for classifier-free guidance, tiny and random."""

from __future__ import annotations

from typing import Any

from tiny_pipeline import SIZE, TinyPipeline
from tiny_transformer_pipelines import sd3_parts
from tiny_unet_pipelines import BETAS, pooled_text, sdxl_parts


def modular_sd3() -> TinyPipeline:
    from diffusers.modular_pipelines import StableDiffusion3AutoBlocks

    return modular("modular-sd3", StableDiffusion3AutoBlocks(), sd3_parts())


def modular_sdxl() -> TinyPipeline:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLAutoBlocks

    scheduler = EulerDiscreteScheduler(steps_offset=1, timestep_spacing="leading", **BETAS)
    return modular("modular-sdxl", StableDiffusionXLAutoBlocks(), sdxl_parts(scheduler))


def modular(family: str, blocks: Any, parts: dict[str, Any]) -> TinyPipeline:
    blocks.sub_blocks.pop("text_encoder")
    silence(blocks)
    pipe = blocks.init_pipeline()
    pipe.update_components(**{name: part for name, part in parts.items() if part is not None})
    return TinyPipeline(family, pipe, lambda batch: {**pooled_text(batch), **SIZE, "output": "images"})


def silence(block: Any) -> None:
    """Disable the progress bars of all blocks inside `block`."""
    if hasattr(block, "set_progress_bar_config"):
        block.set_progress_bar_config(disable=True)
    for inner in getattr(block, "sub_blocks", {}).values():
        silence(inner)

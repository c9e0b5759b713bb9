"""Load a diffusion model: by a short name, from a folder or the Hub, or a pocket model that needs no network.

Each family's usual number of steps, guidance scale and size are those of its model card. The tiny autoencoder of its
latents (TAESD) decodes during guidance at a small part of the cost.

Bohan, Tiny AutoEncoder for Stable Diffusion, github.com/madebyollin/taesd, 2023.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dreamsim_guidance.files.network import hub_available

__all__ = ["MODELS", "POCKET", "Model", "check_reachable", "find", "load", "tiny_autoencoder"]


@dataclass(frozen=True)
class Model:
    """Where a model is, and how it is usually run; None leaves a setting to the pipeline."""

    source: str
    """The Hub's "owner/name", a folder that save_pretrained wrote, or the name of a pocket model."""
    steps: int | None = None
    cfg: float | None = None
    size: int | None = None
    batch: int = 1
    """Number of images that are sampled at once."""
    half: str = "float32"
    """Type of the weights on an accelerator."""
    variant: str | None = None
    """Name of the Hub's files that hold the weights in that type."""
    tiny: str | None = None
    """The Hub's name of the tiny autoencoder."""
    licence: str | None = None
    """Name of the licence in the model's card, as we knew it; read the card before you publish pictures."""

    @property
    def pocket(self) -> bool:
        return self.source in POCKET


POCKET = ("pocket-pixels", "pocket-latents")

MODELS: Mapping[str, Model] = MappingProxyType(
    {
        "pocket-pixels": Model("pocket-pixels", steps=50, batch=64, licence="MIT"),
        "pocket-latents": Model("pocket-latents", steps=50, batch=16, licence="MIT"),
        "sd15": Model(
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            *(50, 7.5, 512, 4, "float16", "fp16", "madebyollin/taesd"),
            licence="CreativeML Open RAIL-M",
        ),
        "sdxl": Model(
            "stabilityai/stable-diffusion-xl-base-1.0",
            *(50, 5.0, 1024, 1, "float16", "fp16", "madebyollin/taesdxl"),
            licence="CreativeML Open RAIL++-M",
        ),
        "sdxl-turbo": Model(
            "stabilityai/sdxl-turbo",
            *(4, 0.0, 512, 4, "float16", "fp16", "madebyollin/taesdxl"),
            licence="Stability AI Community License",
        ),
        "sd35": Model(
            "stabilityai/stable-diffusion-3.5-medium",
            *(40, 4.5, 1024, 1, "bfloat16", None, "madebyollin/taesd3"),
            licence="Stability AI Community License",
        ),
        "flux": Model(
            "black-forest-labs/FLUX.1-dev",
            *(50, 3.5, 1024, 1, "bfloat16", None, "madebyollin/taef1"),
            licence="FLUX.1 [dev] Non-Commercial License",
        ),
        "sd14": Model(
            "CompVis/stable-diffusion-v1-4",
            *(50, 7.5, 512, 4, "float16", "fp16", "madebyollin/taesd"),
            licence="CreativeML Open RAIL-M",
        ),
    }
)

_TINY = (
    ("StableDiffusionXL", "madebyollin/taesdxl"),
    ("StableDiffusion3", "madebyollin/taesd3"),
    ("Flux2", None),
    ("Flux", "madebyollin/taef1"),
    ("StableDiffusion", "madebyollin/taesd"),
    ("LatentConsistencyModel", "madebyollin/taesd"),
)
"""How the class of a pipeline begins, and the tiny autoencoder of its latents; the first entry that fits decides."""


def find(name: str | None, prompt: str = "") -> Model:
    """The model of this name, which may be a folder or the Hub's owner/name.

    "pocket" is the latent model, which reads a prompt, if there is a prompt, else the pixel model. Raises ValueError, which
    names the choices, for no name and for an unknown one.
    """
    if not name:
        raise ValueError(f"a model is needed: {_choices()}.")
    if name == "pocket":
        name = "pocket-latents" if prompt else "pocket-pixels"
    if name in MODELS:
        return MODELS[name]
    if Path(name).is_dir() or "/" in name:
        return Model(name)
    from dreamsim_guidance.files.names import suggestion

    raise ValueError(f"unknown model '{name}'{suggestion(name, MODELS)}; give {_choices()}.")


def check_reachable(source: str, file: str = "model_index.json") -> None:
    """Raise FileNotFoundError or ValueError if a model is not available, before anything large is imported or downloaded.

    source: a folder, or the Hub's owner/name. file: what the folder or repository must hold.
    """
    path = Path(source).expanduser()
    if path.is_file():
        raise ValueError(f"'{source}' is a file; give the folder of a pipeline that save_pretrained wrote.")
    if path.is_dir():
        if not (path / file).is_file():
            raise FileNotFoundError(f"the folder '{source}' has no {file}: save_pretrained did not write it.")
        return
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        if isinstance(try_to_load_from_cache(source, file), str):
            return
        if not hub_available():
            raise ConnectionError("no connection")
        HfApi().model_info(source, timeout=10)  # unlike a download, this does not retry
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"the Hub has no model '{source}', or it is private: log in with `hf auth login`, and accept its licence at "
            f"https://huggingface.co/{source}."
        ) from error
    except (
        Exception
    ) as error:  # without a network, requests, httpx and huggingface_hub raise errors without a common base
        raise FileNotFoundError(
            f"'{source}' is neither a folder nor in the cache, and the Hub cannot be reached ({type(error).__name__}); "
            f"connect once, or get it elsewhere with `hf download {source} --local-dir FOLDER` and give the folder. "
            "The model 'pocket' needs no network."
        ) from error


def _local(source: str) -> bool:
    """Whether diffusers must use its cache only: without a network it would retry each file of the Hub."""
    return not Path(source).expanduser().is_dir() and not hub_available()


def load(
    model: Model, device: str, dtype: str | None = None, offload: bool = False, scheduler: str | None = None
) -> Any:
    """Load the pipeline.

    device: where it runs.
    dtype: float32, float16 or bfloat16; by default float32 on the CPU, elsewhere the type that the model is published in.
    offload: keep the parts that do not run at the moment in the CPU's memory.
    scheduler: name of a class of diffusers that replaces the pipeline's scheduler and takes over its configuration.

    Raises OSError if the model is not available, and ValueError for what is no pipeline, for a scheduler that the pipeline
    would misuse, and for `offload` without an accelerator.
    """
    import torch

    if model.pocket:
        from dreamsim_guidance.pocket import load_pocket

        pipe: Any = load_pocket("pixels" if model.source == "pocket-pixels" else "latents")
        if dtype not in (None, "float32"):
            pipe.to(dtype=getattr(torch, dtype))
    else:
        check_reachable(model.source)
        import diffusers

        # the argument was renamed, and its old name warns
        name = "dtype" if [int(part) for part in diffusers.__version__.split(".")[:2]] >= [0, 42] else "torch_dtype"
        kind = dtype or ("float32" if device == "cpu" else model.half)
        options = {} if kind == "float32" or model.variant is None else {"variant": model.variant}
        try:
            pipe = diffusers.DiffusionPipeline.from_pretrained(
                model.source, **{name: getattr(torch, kind)}, **options, local_files_only=_local(model.source)
            )
        except (OSError, ValueError, AttributeError) as error:
            licence = (
                f" (If its licence must be accepted: at https://huggingface.co/{model.source}, then `hf auth login`.)"
            )
            raise ValueError(
                f"'{model.source}' cannot be loaded as a pipeline of diffusers: {error}"
                + ("" if Path(model.source).expanduser().is_dir() else licence)
            ) from error
    if scheduler is not None:
        kind, config = _scheduler(scheduler), pipe.scheduler.config
        clips = "clip_sample" in inspect.signature(kind).parameters and "clip_sample" not in config
        # the scheduler's default, to clip, is meant for pixels
        new = kind.from_config(config, **({"clip_sample": False} if clips and hasattr(pipe, "vae") else {}))
        pipe = _pixels_with(pipe, new) if type(pipe).__name__ in _PIXELS else _with(pipe, new)
    if not offload:
        return pipe.to(device)
    if device == "cpu":
        raise ValueError("offload keeps a model in the CPU's memory while an accelerator works; there is none here.")
    pipe.enable_model_cpu_offload(device=device)
    return pipe


def tiny_autoencoder(model: Model, pipe: Any, source: str | None, device: str) -> Any:
    """The tiny autoencoder of the pipeline's latents, or the one at `source`. Raises ValueError if none is known."""
    name = type(pipe).__name__
    usual = model.tiny or next((tiny for beginning, tiny in _TINY if name.startswith(beginning)), None)
    source = source or (None if model.pocket else usual)
    if source is None:
        raise ValueError(f"no tiny autoencoder is known for {name}; leave it out, or name one with --vae.")
    check_reachable(source, "config.json")
    from diffusers import AutoencoderTiny

    return AutoencoderTiny.from_pretrained(source, local_files_only=_local(source)).to(device, pipe.vae.dtype)


def _scheduler(name: str) -> Any:
    import diffusers

    kind = getattr(diffusers, name, None)
    if kind is None or not hasattr(kind, "step"):
        names = [word for word in dir(diffusers) if word.endswith("Scheduler") and not word.startswith("Flax")]
        from dreamsim_guidance.files.names import suggestion

        raise ValueError(f"diffusers has no scheduler '{name}'{suggestion(name, names)}; it has: {', '.join(names)}.")
    return kind


_PIXELS = ("DDIMPipeline", "DDPMPipeline")
"""Pipelines without a condition; they are written for one kind of scheduler."""


def _with(pipe: Any, scheduler: Any) -> Any:
    pipe.scheduler = scheduler
    return pipe


def _pixels_with(pipe: Any, scheduler: Any) -> Any:
    """A pipeline of the same network that uses this scheduler correctly. Raises ValueError if diffusers has none.

    DDIMPipeline passes `eta` to every step, DDPMPipeline only a generator. Neither scales the first noise or the network's
    input, which schedulers in terms of sigma (Euler, Heun, LMS, ...) need to sample correctly.
    """
    import diffusers
    import torch

    parameters = set(inspect.signature(scheduler.step).parameters)
    if type(pipe).__name__ == "DDIMPipeline" and {"eta", "use_clipped_model_output", "generator"} <= parameters:
        return _with(pipe, scheduler)
    reason = "takes no generator"
    if "generator" in parameters:
        probe, state = copy.deepcopy(scheduler), torch.ones(1, 1, 1, 1)
        probe.set_timesteps(2)
        if not hasattr(probe, "scale_model_input"):
            reason = "is made for networks of another kind"
        elif probe.init_noise_sigma == 1 and torch.equal(probe.scale_model_input(state, probe.timesteps[0]), state):
            return diffusers.DDPMPipeline(unet=pipe.unet, scheduler=scheduler)
        else:
            reason = "needs scaled inputs"
    raise ValueError(
        f"{type(scheduler).__name__} {reason}, for which {type(pipe).__name__}, a pipeline without a prompt, has no place; "
        "choose DDIMScheduler, DDPMScheduler or DPMSolverMultistepScheduler, or a model that reads a prompt, such as pocket "
        "with --prompt, which takes Euler, Heun and others as well."
    )


def _choices() -> str:
    names = ", ".join(name for name in MODELS if name not in POCKET)
    return f"pocket (ships with the package), {names}, or the folder or the Hub's owner/name of a pipeline"

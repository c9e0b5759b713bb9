"""The models that guidance is tried on: by a short name, by a folder, or the pocket ones that need no network.

Each family's usual number of steps, guidance scale and size are those of its model card; the tiny autoencoder that
belongs to its latents (TAESD) decodes during guidance at a small part of the cost.

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
    """Where a model is, and how it is usually run."""

    source: str
    """The Hub's "owner/name", a folder that save_pretrained wrote, or the name of a pocket model."""
    steps: int | None = None
    cfg: float | None = None
    size: int | None = None
    batch: int = 1
    """Images that are sampled at once."""
    half: str = "float32"
    """Type of the weights on an accelerator."""
    variant: str | None = None
    """Files of the Hub that hold the weights in that type."""
    tiny: str | None = None

    @property
    def pocket(self) -> bool:
        return self.source in POCKET


POCKET = ("pocket-pixels", "pocket-latents")

MODELS: Mapping[str, Model] = MappingProxyType(
    {
        "pocket-pixels": Model("pocket-pixels", steps=50, batch=64),
        "pocket-latents": Model("pocket-latents", steps=50, batch=16),
        "sd15": Model(
            "stable-diffusion-v1-5/stable-diffusion-v1-5", 50, 7.5, 512, 4, "float16", "fp16", "madebyollin/taesd"
        ),
        "sdxl": Model(
            "stabilityai/stable-diffusion-xl-base-1.0", 50, 5.0, 1024, 1, "float16", "fp16", "madebyollin/taesdxl"
        ),
        "sdxl-turbo": Model("stabilityai/sdxl-turbo", 4, 0.0, 512, 4, "float16", "fp16", "madebyollin/taesdxl"),
        "sd35": Model(
            "stabilityai/stable-diffusion-3.5-medium", 40, 4.5, 1024, 1, "bfloat16", None, "madebyollin/taesd3"
        ),
        "flux": Model("black-forest-labs/FLUX.1-dev", 50, 3.5, 1024, 1, "bfloat16", None, "madebyollin/taef1"),
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
"""Beginnings of the pipelines' names, the first that fits decides."""


def find(name: str | None, prompt: str = "") -> Model:
    """The model of this name; "pocket" is the one with words if there is a prompt. `ValueError` names the choices."""
    if not name:
        raise ValueError(f"a model is needed: {_choices()}.")
    if name == "pocket":
        name = "pocket-latents" if prompt else "pocket-pixels"
    if name in MODELS:
        return MODELS[name]
    if Path(name).is_dir() or "/" in name:
        return Model(name)
    from dreamsim_guidance.experiment.registry import suggestion

    raise ValueError(f"unknown model '{name}'{suggestion(name, MODELS)}; give {_choices()}.")


def check_reachable(source: str, file: str = "model_index.json") -> None:
    """Fail at once, before anything large is imported or asked for: FileNotFoundError or `ValueError` tells what to do."""
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
        HfApi().model_info(source, timeout=10)  # unlike a download, it does not try again and again
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"the Hub has no model '{source}', or it is private: log in with `hf auth login`, and accept its licence at "
            f"https://huggingface.co/{source}."
        ) from error
    except Exception as error:  # what requests, httpx and huggingface_hub raise without a network has no common base
        raise FileNotFoundError(
            f"'{source}' is neither a folder nor in the cache, and the Hub cannot be reached ({type(error).__name__}); "
            f"connect once, or get it elsewhere with `hf download {source} --local-dir FOLDER` and give the folder. "
            "The model 'pocket' needs no network."
        ) from error


def _local(source: str) -> bool:
    """Whether diffusers must not ask the Hub, which it would do again and again."""
    return not Path(source).expanduser().is_dir() and not hub_available()


def load(
    model: Model, device: str, dtype: str | None = None, offload: bool = False, scheduler: str | None = None
) -> Any:
    """The pipeline on its device, or moved there part by part with `offload`.

    scheduler: name of a class of diffusers that replaces the pipeline's own, with its configuration.
    Raises OSError if the model cannot be had, `ValueError` for what is no pipeline, and for a scheduler that the pipeline
    would misuse.
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

        # the argument got a new name, and the old one warns
        name = "dtype" if [int(part) for part in diffusers.__version__.split(".")[:2]] >= [0, 42] else "torch_dtype"
        kind = dtype or ("float32" if device == "cpu" else model.half)
        options = {} if kind == "float32" or model.variant is None else {"variant": model.variant}
        try:
            pipe = diffusers.DiffusionPipeline.from_pretrained(
                model.source, **{name: getattr(torch, kind)}, **options, local_files_only=_local(model.source)
            )
        except (OSError, ValueError, AttributeError) as error:
            raise ValueError(
                f"'{model.source}' cannot be loaded as a pipeline of diffusers: {error} (If its licence must be accepted: at "
                f"https://huggingface.co/{model.source}, then `hf auth login`.)"
            ) from error
    if scheduler is not None:
        kind, config = _scheduler(scheduler), pipe.scheduler.config
        clips = "clip_sample" in inspect.signature(kind).parameters and "clip_sample" not in config
        # a default that is meant for pixels
        new = kind.from_config(config, **({"clip_sample": False} if clips and hasattr(pipe, "vae") else {}))
        pipe = _pixels_with(pipe, new) if type(pipe).__name__ in _PIXELS else _with(pipe, new)
    if not offload:
        return pipe.to(device)
    if device == "cpu":
        raise ValueError("offload keeps a model in the CPU's memory while an accelerator works; there is none here.")
    pipe.enable_model_cpu_offload(device=device)
    return pipe


def tiny_autoencoder(model: Model, pipe: Any, source: str | None, device: str) -> Any:
    """The tiny autoencoder of the pipeline's latents, or the one at `source`. `ValueError` where none is known."""
    name = type(pipe).__name__
    known = model.tiny or next((tiny for beginning, tiny in _TINY if name.startswith(beginning)), None)
    source = source or (None if model.pocket else known)
    if source is None:
        raise ValueError(f"no tiny autoencoder is known for {name}; leave it out, or name one with --vae.")
    check_reachable(source, "config.json")
    from diffusers import AutoencoderTiny

    return AutoencoderTiny.from_pretrained(source, local_files_only=_local(source)).to(device, pipe.vae.dtype)


def _scheduler(name: str) -> Any:
    import diffusers

    kind = getattr(diffusers, name, None)
    if kind is None or not hasattr(kind, "step"):
        known = [word for word in dir(diffusers) if word.endswith("Scheduler") and not word.startswith("Flax")]
        from dreamsim_guidance.experiment.registry import suggestion

        raise ValueError(f"diffusers has no scheduler '{name}'{suggestion(name, known)}; it has: {', '.join(known)}.")
    return kind


_PIXELS = ("DDIMPipeline", "DDPMPipeline")
"""Pipelines without a condition, which know one kind of scheduler only."""


def _with(pipe: Any, scheduler: Any) -> Any:
    pipe.scheduler = scheduler
    return pipe


def _pixels_with(pipe: Any, scheduler: Any) -> Any:
    """A pipeline of the same network that treats this scheduler rightly; `ValueError` where diffusers has none.

    DDIMPipeline hands `eta` to every step, DDPMPipeline only a generator; neither scales the first noise or the network's
    input, as schedulers that count in sigmas (Euler, Heun, LMS, ...) need it, and without which they would draw nonsense.
    """
    import diffusers
    import torch

    takes = set(inspect.signature(scheduler.step).parameters)
    if type(pipe).__name__ == "DDIMPipeline" and {"eta", "use_clipped_model_output", "generator"} <= takes:
        return _with(pipe, scheduler)
    reason = "takes no generator"
    if "generator" in takes:
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

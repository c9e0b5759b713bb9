"""The schedulers of diffusers with the prediction types that each supports, and the tiny family that is tested with each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from tiny_unet_pipelines import BETAS


class Configuration(NamedTuple):
    scheduler: str
    options: dict[str, Any]
    family: str = "sd-v"


LATENT: dict[str, Any] = {**BETAS, "clip_sample": False}
FLOW: dict[str, Any] = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}


def predictions(scheduler: str, names: str, short: str = "", **options: Any) -> dict[str, Configuration]:
    """One configuration for each prediction: e (epsilon), v, x (the sample)."""
    full = {"e": "epsilon", "v": "v_prediction", "x": "sample"}
    short = short or scheduler.removesuffix("Scheduler").removesuffix("Discrete")
    return {f"{short}-{n}": Configuration(scheduler, {**options, "prediction_type": full[n]}) for n in names}


CONFIGURATIONS: dict[str, Configuration] = {
    **predictions("DDPMScheduler", "evx", **LATENT),
    **predictions("DDIMScheduler", "evx", **LATENT),
    **predictions("DDIMParallelScheduler", "e", **LATENT),
    **predictions("PNDMScheduler", "ev", skip_prk_steps=True, **BETAS),
    **predictions("DPMSolverMultistepScheduler", "evx", **BETAS),
    **predictions(
        "DPMSolverMultistepScheduler", "e", "DPMSolverSDEMultistep", algorithm_type="sde-dpmsolver++", **BETAS
    ),
    **predictions("DPMSolverMultistepScheduler", "e", "DPMSolverKarras", use_karras_sigmas=True, **BETAS),
    **predictions("DPMSolverSinglestepScheduler", "evx", **BETAS),
    **predictions("UniPCMultistepScheduler", "evx", **BETAS),
    **predictions("DEISMultistepScheduler", "evx", **BETAS),
    **predictions("SASolverScheduler", "evx", **BETAS),
    **predictions("EulerDiscreteScheduler", "evx", **BETAS),
    **predictions("EulerDiscreteScheduler", "e", "EulerKarras", use_karras_sigmas=True, **BETAS),
    **predictions("EulerAncestralDiscreteScheduler", "ev", **BETAS),
    **predictions("HeunDiscreteScheduler", "ev", **BETAS),
    **predictions("LMSDiscreteScheduler", "ev", **BETAS),
    **predictions("KDPM2DiscreteScheduler", "ev", **BETAS),
    **predictions("KDPM2AncestralDiscreteScheduler", "ev", **BETAS),
    **predictions("DPMSolverSDEScheduler", "ev", **BETAS),
    **predictions("LCMScheduler", "ev", **LATENT),
    **predictions("TCDScheduler", "ev", **LATENT),
    **predictions("EDMEulerScheduler", "ev"),
    **predictions("EDMDPMSolverMultistepScheduler", "ev"),
    "DPMSolverMultistep-flow": Configuration("DPMSolverMultistepScheduler", FLOW, "sd3"),
    "UniPCMultistep-flow": Configuration("UniPCMultistepScheduler", FLOW, "sd3"),
    "FlowMatchEuler": Configuration("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, "sd3"),
    "FlowMatchEuler-stochastic": Configuration(
        "FlowMatchEulerDiscreteScheduler", {"shift": 3.0, "stochastic_sampling": True}, "sd3"
    ),
    "FlowMatchHeun": Configuration("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}, "sd3"),
    "FlowMatchLCM": Configuration("FlowMatchLCMScheduler", {"shift": 3.0}, "sd3"),
    "DDPM-clipped": Configuration("DDPMScheduler", {"clip_sample": True}, "ddpm"),
    "DDIM-thresholding": Configuration("DDIMScheduler", {"thresholding": True, "clip_sample": False}, "ddim"),
}


def scheduler(name: str) -> Any:
    """A new scheduler; skips the test if the installed packages do not have it."""
    import inspect

    import diffusers

    kind, options, _ = CONFIGURATIONS[name]
    if kind == "DPMSolverSDEScheduler":
        pytest.importorskip("torchsde")
    scheduler_class = getattr(diffusers, kind, None)
    if scheduler_class is None or not set(options) <= set(inspect.signature(scheduler_class.__init__).parameters):
        pytest.skip(f"diffusers {diffusers.__version__} has no {kind} with {', '.join(options)}")
    return scheduler_class(**options)


def schedulers() -> Iterator[tuple[str, Any]]:
    """All names, each with a new scheduler."""
    for name in CONFIGURATIONS:
        yield name, scheduler(name)

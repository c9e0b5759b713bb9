"""Access to running diffusers pipelines, for guidance and inversion: steps, noise levels, noise, decoders and networks."""

from dreamsim_guidance.pipelines.decoder import Decoder, Geometry
from dreamsim_guidance.pipelines.differentiable import differentiable
from dreamsim_guidance.pipelines.interception import Interception
from dreamsim_guidance.pipelines.levels import Level
from dreamsim_guidance.pipelines.scheduler import scheduler_of
from dreamsim_guidance.pipelines.step_call import StepCall
from dreamsim_guidance.pipelines.visitor import Sampling, Visit, Visitor

__all__ = [
    "Decoder",
    "Geometry",
    "Interception",
    "Level",
    "Sampling",
    "StepCall",
    "Visit",
    "Visitor",
    "differentiable",
    "scheduler_of",
]

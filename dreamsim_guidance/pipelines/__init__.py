"""What knows a running diffusers pipeline, for guidance and inversion: its steps, levels, noise, decoder and networks."""

from dreamsim_guidance.pipelines.decoder import Decoder
from dreamsim_guidance.pipelines.differentiable import differentiable
from dreamsim_guidance.pipelines.interception import Interception, scheduler_of
from dreamsim_guidance.pipelines.levels import Level
from dreamsim_guidance.pipelines.step_call import StepCall

__all__ = ["Decoder", "Interception", "Level", "StepCall", "differentiable", "scheduler_of"]

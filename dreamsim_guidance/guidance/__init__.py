"""Similarity-guided sampling: one line around any diffusers pipeline.

Names are imported on first use, so that the table of methods can be read without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

from dreamsim_guidance.guidance.methods import METHODS

if TYPE_CHECKING:
    from dreamsim_guidance.guidance.guiding import Guide as Guide
    from dreamsim_guidance.guidance.guiding import default_method as default_method
    from dreamsim_guidance.guidance.guiding import guide as guide
    from dreamsim_guidance.guidance.log import Entry as Entry
    from dreamsim_guidance.guidance.log import Log as Log
    from dreamsim_guidance.guidance.method import Method as Method
    from dreamsim_guidance.guidance.methods import *  # noqa: F403  # what the table lists
    from dreamsim_guidance.guidance.native import GuidanceCallback as GuidanceCallback
    from dreamsim_guidance.guidance.native import LossGuidance as LossGuidance
    from dreamsim_guidance.guidance.planning.machine import Machine as Machine
    from dreamsim_guidance.guidance.planning.plan import Option as Option
    from dreamsim_guidance.guidance.planning.plan import Plan as Plan
    from dreamsim_guidance.guidance.planning.plan import plan as plan
    from dreamsim_guidance.guidance.step import Step as Step
    from dreamsim_guidance.pipelines.differentiable import differentiable as differentiable

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "guiding": ["Guide", "default_method", "differentiable", "guide"],
        "log": ["Entry", "Log"],
        "method": ["Method"],
        "native": ["GuidanceCallback", "LossGuidance"],
        "planning.machine": ["Machine"],
        "planning.plan": ["Option", "Plan", "plan"],
        "step": ["Step"],
        **{f"methods.{file}": [name] for file, name in METHODS.items()},
    },
)

"""Similarity-guided sampling: one line around any diffusers pipeline."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dreamsim_guidance.guidance.guide import Guide, default_method, guide
from dreamsim_guidance.guidance.log import Entry, Log
from dreamsim_guidance.guidance.method import Method
from dreamsim_guidance.guidance.methods.dps import DPS
from dreamsim_guidance.guidance.methods.dsg import DSG
from dreamsim_guidance.guidance.methods.flowchef import FlowChef
from dreamsim_guidance.guidance.methods.freedom import FreeDoM
from dreamsim_guidance.guidance.methods.lgd import LGD
from dreamsim_guidance.guidance.methods.mmps import MMPS
from dreamsim_guidance.guidance.methods.mpgd import MPGD
from dreamsim_guidance.guidance.methods.tfg import TFG
from dreamsim_guidance.guidance.methods.universal import UniversalGuidance
from dreamsim_guidance.guidance.planning.cost import Machine
from dreamsim_guidance.guidance.planning.plan import Option, Plan, plan
from dreamsim_guidance.pipelines.differentiable import differentiable

if TYPE_CHECKING:
    from dreamsim_guidance.guidance.native import GuidanceCallback, LossGuidance

__all__ = [
    "DPS",
    "DSG",
    "LGD",
    "MMPS",
    "MPGD",
    "TFG",
    "Entry",
    "FlowChef",
    "FreeDoM",
    "GuidanceCallback",
    "Guide",
    "Log",
    "LossGuidance",
    "Machine",
    "Method",
    "Option",
    "Plan",
    "UniversalGuidance",
    "default_method",
    "differentiable",
    "guide",
    "plan",
]


def __getattr__(name: str) -> Any:
    if name in ("GuidanceCallback", "LossGuidance"):  # diffusers is imported for these only
        return getattr(import_module("dreamsim_guidance.guidance.native"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

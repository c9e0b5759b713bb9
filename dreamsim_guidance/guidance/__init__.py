"""Similarity-guided sampling: one line around any diffusers pipeline."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dreamsim_guidance.guidance.cost import Machine
from dreamsim_guidance.guidance.differentiable import differentiable
from dreamsim_guidance.guidance.dps import DPS
from dreamsim_guidance.guidance.dsg import DSG
from dreamsim_guidance.guidance.flowchef import FlowChef
from dreamsim_guidance.guidance.freedom import FreeDoM
from dreamsim_guidance.guidance.guide import Guide, default_method, guide
from dreamsim_guidance.guidance.lgd import LGD
from dreamsim_guidance.guidance.log import Entry, Log
from dreamsim_guidance.guidance.method import Method
from dreamsim_guidance.guidance.mmps import MMPS
from dreamsim_guidance.guidance.mpgd import MPGD
from dreamsim_guidance.guidance.plan import Option, Plan, plan
from dreamsim_guidance.guidance.tfg import TFG
from dreamsim_guidance.guidance.universal import UniversalGuidance

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

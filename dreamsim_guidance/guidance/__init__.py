"""Similarity-guided sampling: one line around any diffusers pipeline."""

from dreamsim_guidance.guidance.dps import DPS
from dreamsim_guidance.guidance.dsg import DSG
from dreamsim_guidance.guidance.flowchef import FlowChef
from dreamsim_guidance.guidance.freedom import FreeDoM
from dreamsim_guidance.guidance.guide import Guide, guide
from dreamsim_guidance.guidance.lgd import LGD
from dreamsim_guidance.guidance.log import Entry, Log
from dreamsim_guidance.guidance.method import Method
from dreamsim_guidance.guidance.mmps import MMPS
from dreamsim_guidance.guidance.mpgd import MPGD
from dreamsim_guidance.guidance.tfg import TFG
from dreamsim_guidance.guidance.universal import UniversalGuidance

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
    "Guide",
    "Log",
    "Method",
    "UniversalGuidance",
    "guide",
]

"""DreamSim as a differentiable loss: training, guidance and inversion of image generators.

>>> from dreamsim_guidance import DreamSim, load_image
>>> metric = DreamSim("pocket")
>>> distance = metric(load_image("a.png"), load_image("b.png"))

Names are imported when they are first used, so that the command line answers before torch is loaded.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreamsim_guidance.backbones import Branch, BranchConfig
    from dreamsim_guidance.compat import dreamsim
    from dreamsim_guidance.ensemble import Ensemble
    from dreamsim_guidance.guidance.differentiable import differentiable
    from dreamsim_guidance.guidance.guide import guide
    from dreamsim_guidance.guidance.mpgd import MPGD
    from dreamsim_guidance.guidance.plan import plan
    from dreamsim_guidance.loss import Loss, PairLoss
    from dreamsim_guidance.metric import DreamSim, Target
    from dreamsim_guidance.preprocess import load_image, save_image, to_image
    from dreamsim_guidance.variants import BRANCHES, VARIANTS

__all__ = [
    "BRANCHES",
    "MPGD",
    "VARIANTS",
    "Branch",
    "BranchConfig",
    "DreamSim",
    "Ensemble",
    "Loss",
    "PairLoss",
    "Target",
    "differentiable",
    "dreamsim",
    "guide",
    "load_image",
    "plan",
    "save_image",
    "to_image",
]

_HOMES = {
    "backbones": ("Branch", "BranchConfig"),
    "compat": ("dreamsim",),
    "ensemble": ("Ensemble",),
    "guidance": ("MPGD", "differentiable", "guide", "plan"),
    "loss": ("Loss", "PairLoss"),
    "metric": ("DreamSim", "Target"),
    "preprocess": ("load_image", "save_image", "to_image"),
    "variants": ("BRANCHES", "VARIANTS"),
}

try:
    __version__ = version("dreamsim-guidance")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "0.0.0"


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            value = getattr(import_module(f"{__name__}.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

"""DreamSim as a differentiable loss: training, guidance and inversion of image generators.

>>> from dreamsim_guidance import DreamSim, load_image
>>> metric = DreamSim("pocket")
>>> distance = metric(load_image("a.png"), load_image("b.png"))
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from dreamsim_guidance.backbones import Branch, BranchConfig
from dreamsim_guidance.compat import dreamsim
from dreamsim_guidance.ensemble import Ensemble
from dreamsim_guidance.loss import Loss, PairLoss
from dreamsim_guidance.metric import DreamSim, Target
from dreamsim_guidance.preprocess import load_image, save_image, to_image
from dreamsim_guidance.variants import BRANCHES, VARIANTS

__all__ = [
    "BRANCHES",
    "VARIANTS",
    "Branch",
    "BranchConfig",
    "DreamSim",
    "Ensemble",
    "Loss",
    "PairLoss",
    "Target",
    "dreamsim",
    "load_image",
    "save_image",
    "to_image",
]

try:
    __version__ = version("dreamsim-guidance")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "0.0.0"

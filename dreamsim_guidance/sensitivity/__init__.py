"""What a metric attends to: profiles over controlled factors, masks, correlations, distortions and maps."""

from dreamsim_guidance.sensitivity.analysis import sensitivity
from dreamsim_guidance.sensitivity.report import Sensitivity
from dreamsim_guidance.sensitivity.saliency import border_contrast
from dreamsim_guidance.sensitivity.settings import PARTS, Analysis

__all__ = ["PARTS", "Analysis", "Sensitivity", "border_contrast", "sensitivity"]

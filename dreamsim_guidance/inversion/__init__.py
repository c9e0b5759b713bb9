"""Finding the image that a loss asks for, by its gradient."""

from dreamsim_guidance.inversion.optimise import Optimised, optimise
from dreamsim_guidance.inversion.pixels import Pixels

__all__ = ["Optimised", "Pixels", "optimise"]

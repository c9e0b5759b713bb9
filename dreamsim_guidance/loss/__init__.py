"""What every loss is: a function from images to one value per image that adds, scales and keeps its terms."""

from dreamsim_guidance.loss.base import Loss, PairLoss, unbound_arguments

__all__ = ["Loss", "PairLoss", "unbound_arguments"]

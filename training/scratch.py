"""The sizes of a small tower with random weights, without importing torch, so that recipes are listed at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreamsim_guidance.metric.backbones import BranchConfig

__all__ = ["Scratch"]


@dataclass(frozen=True)
class Scratch:
    """The sizes of a small Vision Transformer with random weights."""

    size: int = 64
    """Width and height of its images in pixels, a multiple of `patch`."""
    width: int = 128
    depth: int = 4
    heads: int = 4
    patch: int = 8
    drop_path: float = 0.0
    """Stochastic depth: the last block's probability of skipping a picture in training, in [0, 1); less for earlier blocks."""

    def __post_init__(self) -> None:
        if min(self.size, self.width, self.depth, self.heads, self.patch) < 1 or not 0 <= self.drop_path < 1:
            raise ValueError(f"sizes must be at least 1 and drop_path lie in [0, 1), got {self}.")
        if self.size % self.patch or self.width % self.heads or self.width % 4:
            raise ValueError(
                f"size must be a multiple of patch, width of heads and of 4, got size={self.size}, patch={self.patch}, "
                f"width={self.width}, heads={self.heads}."
            )

    def branch(self) -> BranchConfig:
        """The branch of a metric with these sizes."""
        from dreamsim_guidance.metric.backbones import BranchConfig

        half = (0.5, 0.5, 0.5)
        sizes: dict[str, Any] = {"embed_dim": self.width, "depth": self.depth, "num_heads": self.heads}
        options = {**sizes, "patch_size": self.patch, "drop_path_rate": self.drop_path}
        return BranchConfig(
            "scratch", "vit_base_patch16_224", image_size=self.size, mean=half, std=half, overrides=options
        )

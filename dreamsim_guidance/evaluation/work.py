"""How much a metric had to do for its distances."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Work"]


@dataclass(frozen=True)
class Work:
    """`images` distinct pictures were needed, of which `computed` were put through the metric in `seconds`.

    The others came from the cache. For a metric of pairs, the same is counted in pairs.
    """

    images: int
    computed: int
    seconds: float
    unit: str = "images"

    @property
    def rate(self) -> float | None:
        """Computed images (or pairs) a second, reading included; None if nothing had to be computed."""
        return self.computed / self.seconds if self.computed and self.seconds > 0 else None

"""How much a metric had to do for its distances."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Work"]


@dataclass(frozen=True)
class Work:
    """`needed` distinct pictures, of which `computed` were put through the metric in `seconds`, reading included.

    The others came from the cache. For a metric of pairs the same is counted in pairs. `per_second` is None if nothing
    had to be computed.
    """

    needed: int
    computed: int
    seconds: float
    unit: str = "images"
    per_second: float | None = field(init=False)

    def __post_init__(self) -> None:
        rate = self.computed / self.seconds if self.computed and self.seconds > 0 else None
        object.__setattr__(self, "per_second", rate)

    def __str__(self) -> str:
        if not self.computed:
            return f"{self.needed} {self.unit}, all from the cache"
        cached = f", {self.needed - self.computed} from the cache" if self.needed > self.computed else ""
        return f"{self.computed} {self.unit} in {self.seconds:.1f} s ({self.per_second:.1f} {self.unit}/s){cached}"

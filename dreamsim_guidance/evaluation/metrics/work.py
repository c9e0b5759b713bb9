"""How much a metric had to compute for its distances."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Work"]


@dataclass(frozen=True)
class Work:
    """The amount of work behind a metric's distances.

    needed: distinct pictures; for a metric of pairs, distinct pairs.
    computed: how many of them went through the metric; the others came from the cache.
    seconds: how long that took, reading included.
    unit: what is counted, "images" or "pairs".
    per_second: computed per second; None if nothing had to be computed.
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

"""What a job did, and how much there is to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from dreamsim_guidance.processes import launched
from dreamsim_guidance.retrieval.reading import Finished, Item, Present
from dreamsim_guidance.retrieval.sources.piece import Piece

__all__ = ["Estimate", "Summary", "joined", "total_pictures"]


@dataclass
class Summary:
    """What a job did.

    embedded: pictures that went through the network. copies: further pictures with the content of another one.
    present: pictures that the index had already. broken: reasons by path. removed: rows of pictures that are gone.
    seconds: of the whole job, reading included, without loading the metric.
    """

    embedded: int = 0
    copies: int = 0
    present: int = 0
    removed: int = 0
    seconds: float = 0.0
    broken: dict[str, str] = field(default_factory=dict)

    @property
    def per_second(self) -> float:
        """Embedded pictures per second."""
        return self.embedded / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        parts = [f"embedded {self.embedded}", f"copies {self.copies}", f"broken {len(self.broken)}"]
        parts += [f"already there {self.present}"] + ([f"removed {self.removed}"] if self.removed else [])
        return f"{', '.join(parts)}; {self.seconds:.1f} s, {self.per_second:.1f} images/s"


def joined(summary: Summary) -> Summary:
    """The sum of the processes' summaries, on all of them."""
    if not launched():
        return summary
    from accelerate.utils import gather_object

    total = Summary()
    for part in gather_object([summary]):
        total.embedded += part.embedded
        total.copies += part.copies
        total.present += part.present
        total.removed += part.removed
        total.seconds = max(total.seconds, part.seconds)
        total.broken.update(part.broken)
    return total


def total_pictures(pieces: Iterable[Piece]) -> int | None:
    """The number of pictures in all pieces, or None if one of them does not tell."""
    total = 0
    for piece in pieces:
        if piece.count is None:
            return None
        total += piece.count
    return total


class Estimate:
    """How many pictures some pieces hold: shards that are not read yet count as the mean of those that are."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._counted = 0
        self._unread: set[str] = set()
        self._read: list[int] = []
        for piece in pieces:
            if piece.count is not None:
                self._counted += piece.count
            elif piece.container is not None:
                self._unread.add(piece.container)

    def take(self, item: Item) -> None:
        """Note the end of a shard."""
        name = item.container if isinstance(item, Finished) else item.path if isinstance(item, Present) else ""
        if isinstance(item, Finished | Present) and name in self._unread:
            self._unread.discard(name)
            self._read.append(item.count)

    @property
    def total(self) -> int | None:
        """The number, None as long as nothing is known about shards."""
        if not self._unread:
            return self._counted + sum(self._read)
        if not self._read:
            return None
        return self._counted + round(sum(self._read) * (1 + len(self._unread) / len(self._read)))

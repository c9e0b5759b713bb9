"""Deal triplets to participants: each triplet to as many as it needs, nobody gets one again, and all get about equally many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["deal"]


def deal(wanted: Sequence[int], shown: Sequence[Sequence[int]], participants: int, seed: int = 0) -> list[list[int]]:
    """Return for each participant the positions of the triplets to judge.

    wanted: how many participants each triplet is shown to, `(n,)`.
    shown: for each triplet the participant numbers, from 1, that are not shown it, `(n,)`.

    Triplets with the fewest participants to choose from are dealt first, each to those who have the fewest so far. Without
    anything in `shown`, the numbers of triplets of two participants differ by at most one.

    Raises ValueError if a triplet needs more participants than are left for it.
    """
    random = np.random.default_rng([seed, 5])
    load = np.zeros(participants, dtype=np.int64)
    blocks: list[list[int]] = [[] for _ in range(participants)]
    excluded = [sorted({number - 1 for number in numbers if number <= participants}) for numbers in shown]
    choices = [participants - len(numbers) - need for numbers, need in zip(excluded, wanted, strict=True)]
    if choices and min(choices) < 0:
        worst = int(np.argmin(choices))
        raise ValueError(
            f"a triplet is to be shown to {wanted[worst]} more people, and {len(excluded[worst])} of the {participants} "
            f"participants have seen it; {-choices[worst]} more participants are needed."
        )
    order = random.permutation(len(choices))
    for triplet in order[np.argsort(np.array(choices)[order], kind="stable")].tolist():
        cost = load + random.random(participants)  # loads are whole numbers, so that this breaks ties only
        cost[excluded[triplet]] = np.inf
        for participant in np.argsort(cost, kind="stable")[: wanted[triplet]].tolist():
            blocks[participant].append(triplet)
            load[participant] += 1
    return blocks

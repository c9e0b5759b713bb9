"""One small adapter for each set of judgments, over one frozen base: chosen for a call, each sees what its people looked at.

This module imports no torch, so that recipes are listed and shown at once; the work is in `set_adapters_run.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamsim_guidance.training.tuning import Tuning

__all__ = ["SetAdapters"]


@dataclass(frozen=True)
class SetAdapters:
    """The settings of tuning one base to several sets, each on its own."""

    sets: tuple[Path, ...]
    """Folders of judgments, as `Tuning.data`; an adapter has its folder's name."""
    tuning: Tuning
    """What is tuned, and how; its `data` is replaced by each set."""

    def __post_init__(self) -> None:
        names = [place.name for place in self.sets]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"sets are folders with different names, at least one, got {names}.")
        if self.tuning.lora is None or self.tuning.head is not None:
            raise ValueError(
                "one base for all sets needs an adapter for each, and no head: set lora=LoRA(...), head=None."
            )

    def run(self, folder: Path) -> dict[str, Any]:
        """Write a run of `Tuning` into `folder`/NAME for each set, and table.md.

        Returns, for each adapter and for the un-tuned base ("untuned"), the agreement with the majority in the validation split
        of every set, with 95 % intervals by reference. Raises the errors of `Tuning.run`.
        """
        from dreamsim_guidance.training.set_adapters_run import train_set_adapters

        return train_set_adapters(self, folder)

"""The checkpoints of a run: the newest ones and the best, each whole, and none of another run."""

from __future__ import annotations

import logging
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from dreamsim_guidance.training.checkpoint import read_checkpoint, write_checkpoint

__all__ = ["CheckpointFolder"]

log = logging.getLogger(__name__)


class CheckpointFolder:
    """`step-00000100.pt` and so on, and `best.pt`; `made_for` is written into each and must be the same to go on."""

    def __init__(self, folder: Path, made_for: str) -> None:
        self.folder, self.made_for = folder, made_for

    def write(self, step: int, state: dict[str, Any], keep: int) -> None:
        """One more, and away with those before the newest `keep`."""
        write_checkpoint({**state, "made_for": self.made_for}, self.folder / f"step-{step:08d}.pt")
        for old in self._steps()[keep:]:
            old.unlink()

    def write_best(self, state: dict[str, Any]) -> None:
        write_checkpoint({**state, "made_for": self.made_for}, self.folder / "best.pt")

    def sweep(self) -> None:
        """Remove what a run left that was killed while it wrote."""
        for partial in self.folder.glob("*.part"):
            partial.unlink()

    def newest(self) -> dict[str, Any] | None:
        """The newest that can be read, None if there is none.

        Raises ValueError for one of another run, if all are damaged, and if the best one is gone.
        """
        found = self._steps()
        if found and not (self.folder / "best.pt").is_file():
            raise ValueError(f"'{self.folder}' has lost its best.pt; put it back, or give an empty folder.")
        for path in found:
            try:
                return self._read(path)
            except (RuntimeError, OSError, EOFError, UnpicklingError) as error:
                log.warning("'%s' cannot be read and is passed over (%s)", path, type(error).__name__)
        if found:
            raise ValueError(f"no checkpoint in '{self.folder}' can be read; give an empty folder.")
        return None

    def _steps(self) -> list[Path]:
        """Newest first."""
        return sorted(self.folder.glob("step-*.pt"), reverse=True)

    def _read(self, path: Path) -> dict[str, Any]:
        saved = read_checkpoint(path)
        if saved["made_for"] != self.made_for:
            raise ValueError(f"'{path}' is a checkpoint of another run ({saved['made_for']}); give an empty folder.")
        return saved

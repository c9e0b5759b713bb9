"""Checkpoint files: one alone, or a folder with the newest ones and the best of a run.

A file is written beside its final name and moved into place, so it is complete or absent. It holds a text that identifies
the run, and a run refuses the checkpoint of another one.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from dreamsim_guidance.files.atomic import writing

__all__ = ["CheckpointFolder", "read_checkpoint", "write_checkpoint"]

log = logging.getLogger(__name__)


def write_checkpoint(state: dict[str, Any], path: Path, made_for: str) -> None:
    """Write `state` to `path`, marked as belonging to the run that `made_for` describes."""
    with writing(path, ".part") as temporary, temporary.open("wb") as file:
        torch.save({**state, "made_for": made_for}, file)
        file.flush()
        os.fsync(file.fileno())


def read_checkpoint(path: Path, made_for: str | None = None) -> dict[str, Any]:
    """Read a checkpoint onto the CPU. Raises ValueError if it belongs to another run than `made_for` (None: any)."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    if made_for is not None and saved["made_for"] != made_for:
        raise ValueError(f"'{path}' is a checkpoint of another run ({saved['made_for']}); give an empty folder.")
    return saved


class CheckpointFolder:
    """Files `step-00000100.pt` and so on, and `best.pt`, all of the run that `made_for` describes."""

    def __init__(self, folder: Path, made_for: str) -> None:
        self.folder, self.made_for = folder, made_for

    def write(self, step: int, state: dict[str, Any], keep: int) -> None:
        """Write the checkpoint of `step`, then remove all but the newest `keep`."""
        write_checkpoint(state, self.folder / f"step-{step:08d}.pt", self.made_for)
        for old in self._newest_first()[keep:]:
            old.unlink()

    def write_best(self, state: dict[str, Any]) -> None:
        """Replace `best.pt`."""
        write_checkpoint(state, self.folder / "best.pt", self.made_for)

    def sweep(self) -> None:
        """Remove partial files, left by a run that was killed while it wrote."""
        for partial in self.folder.glob("*.part"):
            partial.unlink()

    def newest(self) -> dict[str, Any] | None:
        """Read the newest checkpoint that is not damaged; None if the folder has none.

        Raises ValueError if it belongs to another run, if all are damaged, and if `best.pt` is missing.
        """
        paths = self._newest_first()
        if paths and not (self.folder / "best.pt").is_file():
            raise ValueError(f"'{self.folder}' has lost its best.pt; put it back, or give an empty folder.")
        for path in paths:
            try:
                return read_checkpoint(path, self.made_for)
            except (RuntimeError, OSError, EOFError, UnpicklingError) as error:
                log.warning("'%s' cannot be read and is passed over (%s)", path, type(error).__name__)
        if paths:
            raise ValueError(f"no checkpoint in '{self.folder}' can be read; give an empty folder.")
        return None

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.pt"), reverse=True)

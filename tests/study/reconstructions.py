"""Small folders of pictures, and votes as the page writes them, for the tests of studies."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import torch

from dreamsim_guidance import save_image
from dreamsim_guidance.study import Study
from dreamsim_guidance.study.design import Trial

METHODS = ("coarse", "grainy", "washed")


def write_folders(root: Path, references: int = 4, size: tuple[int, int] = (24, 24)) -> list[Path]:
    """Write root/targets and a folder for each of `METHODS`, with three endings; return the methods' folders."""
    for i in range(references):
        target = torch.rand(1, 3, *size)
        save_image(target, root / "targets" / f"scene {i}.png")
        save_image(target.roll(1, 2), root / "coarse" / f"scene {i}.jpg")
        save_image((target + 0.1 * torch.randn(1, 3, *size)).clamp(0, 1), root / "grainy" / f"scene {i}.png")
        save_image(0.5 + 0.5 * target, root / "washed" / f"scene {i}.bmp")
    return [root / name for name in METHODS]


def answer(trial: Trial) -> str:
    """The choice of a person who answers catch trials correctly, prefers methods by alphabet, and sees every difference."""
    if trial.answer is not None:
        return trial.answer
    if "the target" in (trial.left, trial.right):
        return "different"
    return "left" if trial.left < trial.right else "right"


def votes(study: Study, participant: int, choose: Callable[[Trial], str] = answer) -> list[dict[str, object]]:
    return [
        {
            "position": trial.position, "trial": trial.id, "choice": choose(trial), "milliseconds": 900 + trial.position,
            "time": f"2025-01-01T10:00:{trial.position:02d}.000Z", "input": "key", "undone": 0, "width": 320,
        }
        for trial in study.blocks[participant - 1]
    ]  # fmt: skip


def write_json(file: Path, study: Study, participant: int, session: str, rows: list[dict[str, object]]) -> Path:
    head = {"study": study.id, "session": session, "participant": participant, "chosen_by": "address"}
    file.write_text(json.dumps({"format": "dreamsim_guidance votes 1", **head, "finished": True, "votes": rows}))
    return file


def write_csv(file: Path, study: Study, participant: int, session: str, rows: list[dict[str, object]]) -> Path:
    head = {"study": study.id, "session": session, "participant": participant, "chosen_by": "address"}
    with file.open("w", newline="") as opened:
        names = ["position", "trial", "choice", "milliseconds", "time", "input", "undone", "width"]
        writer = csv.DictWriter(opened, [*head, *names])
        writer.writeheader()
        writer.writerows({**head, **row} for row in rows)
    return file

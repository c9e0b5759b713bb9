"""A small plan on the pocket model: seconds, all four ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dreamsim_guidance.generation.plan import Plan
from dreamsim_guidance.generation.plan_file import plan_of

CONTENT: dict[str, Any] = {
    "categories": ["red star", "two blue hearts"],
    "templates": ["<category>, on a white background"],
    "models": [{"model": "pocket", "steps": 3, "batch": 2}],
    "ways": [
        "seed",
        {"way": "noise", "amounts": [[0.3, 0.6]]},
        {"way": "img2img", "amounts": [0.7]},
        {"way": "guide", "amounts": [0.15], "attempts": 1},
    ],
    "metric": "pocket",
    "screen": {"duplicate": 0},
}


def small_plan(**changes: Any) -> Plan:
    return plan_of({**CONTENT, **changes}, Path())


def contents(folder: Path) -> dict[str, Any]:
    """All files of a folder but its lock: their bytes, and the lines of pictures.jsonl in any order."""
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    files.pop(".lock", None)
    return {
        name: sorted(file.read_text().splitlines()) if name == "pictures.jsonl" else file.read_bytes()
        for name, file in files.items()
    }

"""Small folders of triplets in NIGHTS' layout that nobody has judged."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from dreamsim_guidance import save_image

COLUMNS = (
    "id", "left_vote", "right_vote", "votes", "ref_path", "left_path", "right_path", "split", "is_imagenet", "prompt",
)  # fmt: skip


def write_triplets(folder: Path, count: int = 6, size: int = 16) -> list[dict[str, str]]:
    """Write `count` triplets of random pictures, each with its own reference; return the rows of data.csv."""
    rows = []
    for i in range(count):
        files = [f"ref/000/{i:03}.png", f"distort/000/{i:03}_0.png", f"distort/000/{i:03}_1.png"]
        for file in files:
            save_image(torch.rand(1, 3, size, size), folder / file)
        values = [f"t{i}", "", "", "0", *files, "", str(i % 2 == 0), "An image of a thing"]
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    write_table(folder, rows)
    return rows


def write_table(folder: Path, rows: list[dict[str, str]]) -> None:
    with (folder / "data.csv").open("w", newline="") as opened:
        writer = csv.DictWriter(opened, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)

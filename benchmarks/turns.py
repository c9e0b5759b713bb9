"""Timing of two implementations of the same work, in alternation in one process, and a description of the machine."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

SIDES = ("original", "ours")


def take_turns(work: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, Any]:
    """Time each side `repeats` times in alternation.

    Returns the seconds of each side (median, smallest, largest) and the ratio original / ours (median, smallest, largest).
    """
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for turn in range(repeats):
        for side in SIDES if turn % 2 else SIDES[::-1]:
            start = time.perf_counter()
            work[side]()
            seconds[side].append(time.perf_counter() - start)
    ratios = [original / ours for original, ours in zip(seconds["original"], seconds["ours"], strict=True)]
    return {
        **{f"{side}_s": statistics.median(seconds[side]) for side in SIDES},
        **{f"{side}_spread_s": [min(seconds[side]), max(seconds[side])] for side in SIDES},
        "ratio": statistics.median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
    }


def print_row(name: str, row: Mapping[str, Any]) -> None:
    """Print the result of `take_turns` on one line."""
    low, high = row["ratio_spread"]
    print(
        f"{name}: original {row['original_s']:7.2f} s, ours {row['ours_s']:7.2f} s, "
        f"ratio {row['ratio']:.2f} [{low:.2f}, {high:.2f}]",
        flush=True,
    )


def describe_machine(threads: int) -> dict[str, Any]:
    """Processor, vector instructions, threads, and versions, for the results."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    return {
        "processor": processor or platform.processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }

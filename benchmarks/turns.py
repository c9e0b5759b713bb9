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


def interleaved(
    work: Mapping[str, Callable[[], Any]],
    repeats: int,
    seconds: float,
    wait: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, dict[str, float]]:
    """Time several pieces of work in turns, forwards and backwards: median, least and most seconds of each, by name.

    repeats: how often, at most. seconds: after as many for each piece of work, no further turn begins, but three are made.
    wait: waits for the device. clock: what seconds are read from. Each piece is run once before, as a warm-up.
    """
    for function in work.values():
        function()
    wait()
    taken: dict[str, list[float]] = {name: [] for name in work}
    end = time.perf_counter() + seconds * len(work)
    for turn in range(repeats):
        if turn >= 3 and time.perf_counter() > end:
            break
        for name in list(work)[:: 1 if turn % 2 else -1]:
            start = clock()
            work[name]()
            wait()
            taken[name].append(clock() - start)
    return {
        name: {"s": statistics.median(times), "least_s": min(times), "most_s": max(times)}
        for name, times in taken.items()
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

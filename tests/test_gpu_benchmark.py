"""`benchmarks/gpu.py` runs from beginning to end at toy size, keeps what it measured, and says what it leaves out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(folder: Path, *options: str) -> str:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--device", "cpu", "--tiny", "--to", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *options], check=True, capture_output=True, text=True, env=environment).stdout


def test_every_part_is_measured_or_left_out_with_a_reason(tmp_path: Path) -> None:
    pytest.importorskip("dreamsim")
    output = run(tmp_path)
    parts = json.loads((tmp_path / "gpu_table_cpu_tiny.json").read_text())["parts"]
    empty = {name for name, rows in parts.items() if not rows}
    assert empty == {"fused"} and "left out: fused (the fused kernels need a GPU)" in output
    assert "left out: captured, bfloat16 (CUDA graphs need a GPU)" in output
    sides = {row["side"] for row in parts["step"]}
    assert {"original, float32", "one by one, tf32", "stacked, bfloat16"} <= sides
    assert all(row["least_s"] <= row["s"] <= row["most_s"] for row in parts["step"])
    assert {row["batch"] for row in parts["step"]} == {1, 2}
    assert any("checkpointed" in row["side"] for row in parts["memory"])
    counts = {row["side"]: row["operations"] for row in parts["launches"]}
    assert counts["stacked, bfloat16"] < counts["one by one, bfloat16"] < counts["original, float32"]
    peaks = {(row["pipeline"], row["checkpointed"]): row["step_bytes"] for row in parts["noise"]}
    assert {checkpointed for _, checkpointed in peaks} == {True, False} and {name for name, _ in peaks} == {
        "sdxl-turbo",
        "sd-v",
    }
    assert peaks["sd-v", True] < 0.8 * peaks["sd-v", False]
    assert {row["over"] for row in parts["scaling"]} == {"batch", "references", "image size"}


def test_no_part_begins_when_the_time_is_used_up(tmp_path: Path) -> None:
    output = run(tmp_path, "--minutes", "0", "--only", "step", "memory")
    assert "left out: step (the time is used up; see --minutes)" in output
    assert "left out: memory (the time is used up; see --minutes)" in output

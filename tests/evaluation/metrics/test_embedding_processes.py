"""Several processes that share the work of embedding."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TOLERANCE

from dreamsim_guidance import DreamSim, save_image
from dreamsim_guidance.cli.entry import main
from dreamsim_guidance.evaluation.metrics.embedding_metric import EmbeddingMetric
from dreamsim_guidance.processes import alone


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    pictures = [tmp_path / "images" / f"{i}.png" for i in range(8)]
    for file in pictures:
        save_image(torch.rand(1, 3, 12, 12), file)
        os.utime(file, (1e9, 1e9))  # written long ago, so that size and time stand for the content
    return pictures


def write_set(folder: Path, files: list[Path]) -> None:
    lines = ["id,left_vote,right_vote,votes,ref_path,left_path,right_path,split"]
    for i in range(12):
        a, b, c = (f"images/{files[j % 8].name}" for j in (i, i + 1 + i % 3, i + 5))
        lines.append(f"{i},{i % 5 / 4},{1 - i % 5 / 4},4,{a},{b},{c},test")
    (folder / "data.csv").write_text("\n".join(lines) + "\n")


def launch(processes: int, *words: str) -> list[tuple[int, str, str]]:
    """Run one command on several processes together, on the CPU; return the exit code, stdout and stderr of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "dreamsim_guidance", *words],
            env={**os.environ, **shared, "RANK": str(i), "LOCAL_RANK": str(i), "OMP_NUM_THREADS": "1"}
            | {"ACCELERATE_USE_CPU": "true", "LOCAL_WORLD_SIZE": str(processes)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(processes)
    ]
    try:
        outputs = [process.communicate(timeout=120) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, out, err) for process, (out, err) in zip(started, outputs, strict=True)]


@pytest.mark.exact
def test_two_processes_find_what_one_finds(
    metric: DreamSim, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One process embeds the pictures in one batch, two in a batch each, which float32 rounds differently.

    Agreement and leads depend on signs of gaps alone, and gaps are at least 6e-3 (1.7e-3 from each other, which decides the
    bins): they must be equal. The slope of the curve may move by any amount (see `test_psychometric`), but the
    log-likelihood by no more than the gaps times the slope. Largest differences with ATEN_CPU_CAPABILITY default and avx512,
    torch 2.14 on an AMD EPYC with AVX-512: 4e-8 of a gap, allowed 2e-5; 6e-8 of the log-likelihood, allowed 2e-3.
    """
    write_set(tmp_path, files)
    metric.save(tmp_path / "m.safetensors", source="test", licence="none")
    (tmp_path / "mine.py").write_text(
        "import os\ndef fails(x, y):\n    if os.environ.get('RANK', '1') == '1':\n        raise ValueError('not today')\n"
        "    return (x - y).flatten(1).mean(1)\n"
    )
    words = ["evaluate", str(tmp_path), "--metric", str(tmp_path / "m.safetensors"), "mse", f"{tmp_path}/mine.py:fails"]
    (first, out, err), (second, nothing, _) = launch(2, *words, "--json", "--cache", str(tmp_path / "cache"))
    assert (first, second, nothing) == (2, 2, ""), err  # one metric failed, in one of the processes
    assert main([*words, "--json", "--no-cache"]) == 2
    alone, together = json.loads(capsys.readouterr().out), json.loads(out)
    assert len(list((tmp_path / "cache").glob("*/*.npz"))) == 2  # each has embedded its share
    assert together["agreement"] == alone["agreement"] and together["lead"] == alone["lead"]
    curve, other = (report["curves"][words[3]] for report in (alone, together))
    tolerance = 2 * TOLERANCE[torch.float32]  # of a gap, the difference of two distances
    for point, moved in zip(curve["bins"], other["bins"], strict=True):
        assert moved["gap"] == pytest.approx(point["gap"], abs=tolerance)
        assert moved["agreement"] == point["agreement"]
    assert other["log_likelihood"] == pytest.approx(curve["log_likelihood"], abs=tolerance * curve["slope"])
    assert other["identified"] == curve["identified"]
    assert "not today" in together["failed"][words[-1]]


def test_one_of_several_processes_can_work_alone(
    metric: DreamSim, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = EmbeddingMetric("m", metric).directions(files, progress=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with alone():  # else it would wait for the other
        np.testing.assert_array_equal(EmbeddingMetric("m", metric).directions(files, progress=False), expected)

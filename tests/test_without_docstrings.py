"""The library under `python -OO`, which leaves no docstrings and no assertions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

METRIC = """
import sys, torch
import dreamsim_guidance.processes
from pathlib import Path
from dreamsim_guidance import DreamSim, to_image, save_image, load_image
from dreamsim_guidance.losses import *
folder = Path(sys.argv[1])
x = torch.rand(2, 3, 40, 30, requires_grad=True)
metric = DreamSim("pocket", baseline=True)
metric.save(folder / "m.safetensors")
target = DreamSim(folder / "m.safetensors").target(x[:1].detach())
target(x).sum().backward()
save_image(x[:1], folder / "x.png")
print(torch.equal(target(x), metric(x, x[:1])), load_image(folder / "x.png").shape[0])
try:
    metric(x * 255, x)
except ValueError as error:
    print("use x / 255" in str(error))
try:
    print(DreamSim("pocket")(x, x).shape[0] == 2)
except ImportError as error:  # where peft's own requirements need docstrings
    print("use python -O" in str(error))
"""


def run(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-OO", "-W", "ignore", *words], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_metric_works(tmp_path: Path) -> None:
    lines = run("-c", METRIC, str(tmp_path)).splitlines()
    # transformers, which the losses import, prints its complaints to stdout
    assert [line for line in lines if not line.startswith("[ERROR]")] == ["True 1", "True", "True"]


@pytest.mark.parametrize("words", [("recipes",), ("show", "train-pocket-judge"), ("compare", "--help")])
def test_the_command_works(words: tuple[str, ...]) -> None:
    assert run("-m", "dreamsim_guidance", *words).strip()

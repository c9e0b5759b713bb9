"""Commands that only show something start without the packages that take seconds to import."""

import json
import subprocess
import sys
from pathlib import Path

import dreamsim_guidance
from dreamsim_guidance.experiment.registry import recipes

HEAVY = {"torch", "torchvision", "numpy", "scipy", "diffusers", "transformers", "timm", "peft", "accelerate", "kornia"}
HEAVY |= {"matplotlib", "PIL", "skimage", "sklearn", "pandas", "open_clip", "huggingface_hub", "safetensors"}
HEAVY |= {"jaxtyping", "einops", "tensorboard"}

COMMANDS = ("demo", "guide", "compare", "embed", "evaluate", "study", "data", "recipes", "show", "copy", "run")
COMMANDS += ("generate", "version")

SCRIPT = """
import json, sys
from dreamsim_guidance.cli import main

report = {}
for words in json.loads(sys.argv[1]):
    assert main(words) == 0, words
    report[" ".join(words)] = sorted({name.partition(".")[0] for name in sys.modules}), len(sys.modules)
print(json.dumps(report))
"""


def modules_after(commands: list[list[str]], folder: Path) -> dict[str, tuple[set[str], int]]:
    """After each of the commands, run one after the other in one process: the imported packages, and how many modules."""
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(commands)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PYTHONPATH": str(Path(dreamsim_guidance.__file__).parents[1]), "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout.splitlines()[-1])
    return {words: (set(packages), count) for words, (packages, count) in report.items()}


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    commands = [["--help"], ["version"], *([command, "--help"] for command in COMMANDS)]
    commands += [["evaluate", "reconstructions", "--help"], ["demo", "--only", "guided", "--help"]]
    for words, (packages, _) in modules_after(commands, tmp_path).items():
        assert "tyro" in packages and not packages & HEAVY, words


def test_listing_showing_and_copying_recipes_imports_nothing_heavy(tmp_path: Path) -> None:
    commands = [["recipes"]]
    for name in recipes():
        commands += [["show", name], ["run", name, "--help"], ["copy", name, "--to", f"{name}.py"]]
    modules = modules_after(commands, tmp_path)
    for words, (packages, _) in modules.items():
        assert not packages & HEAVY, words
    # some 350 are tyro's and the standard library's; torch alone brings more than 1000
    assert modules["recipes"][1] < 600

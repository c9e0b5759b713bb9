"""A new guidance method needs two changes only: its file, and a line in the table of `guidance.methods`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dreamsim_guidance
from dreamsim_guidance.guidance.methods import METHODS

PACKAGE = Path(dreamsim_guidance.__file__).parent

METHOD = """
from dataclasses import dataclass
from dreamsim_guidance.guidance.method import Method

@dataclass(frozen=True)
class Added(Method):
    strength: float = 0.25
    needs_noise = True

    def __call__(self, step):
        return step.sample()
"""

CHECKS = """
import sys
from dreamsim_guidance.comparisons.guided_sheet import GuidedSheet
from dreamsim_guidance.comparisons.method_comparison import GuideMethods
from dreamsim_guidance.known_answers.exact_truth import ExactTruth
from dreamsim_guidance.known_answers.guided_digits import GuidedDigits

GuidedSheet(method="added")
GuidedDigits(methods=("added",))
assert "added" in ExactTruth().methods and "added" in GuideMethods().methods

from dreamsim_guidance import guidance
from dreamsim_guidance.generation.sampling import method_of
from dreamsim_guidance.comparisons.method_comparison_run import conditions
from dreamsim_guidance.guidance.methods import Added
from dreamsim_guidance.known_answers import digit_rows, exact_cell

assert guidance.Added is Added and "Added" in guidance.__all__
assert method_of("added", options=["strength=0.5"]) == Added(0.5)
assert conditions(GuideMethods(methods=("added",)))[-1] == ("added", Added(), 1.0)
rows = list(ExactTruth(methods=("added",), samplers=("ddim", "ddpm"), steps=(20,), cases=("gaussian-linear",)).conditions())
assert [condition.sampler for condition in rows] == ["ddpm"]
assert exact_cell._method(ExactTruth(), rows[0]) == Added(1.0)
bench = object.__new__(digit_rows.Bench)
bench.config = GuidedDigits(methods=("added",))
assert bench._method("added") == Added()
from dreamsim_guidance.cli import main
assert main(["guide", "--help"]) == 0
"""


@pytest.fixture
def tree_with_a_method(tmp_path: Path) -> Path:
    """A copy of the package in which the method `added` exists; every file but the two that change is a link."""
    package = tmp_path / "dreamsim_guidance"
    for folder in (package, package / "guidance", package / "guidance" / "methods"):
        folder.mkdir()
        source = PACKAGE / folder.relative_to(package)
        for file in source.iterdir():
            if not (folder / file.name).exists():
                (folder / file.name).symlink_to(file.resolve())
        for inner in ("guidance", "methods"):
            if (folder / inner).is_symlink():
                (folder / inner).unlink()
    table = package / "guidance" / "methods" / "__init__.py"
    text = table.read_text()
    table.unlink()
    table.write_text(text.replace('    "mpgd": "MPGD",\n', '    "mpgd": "MPGD",\n    "added": "Added",\n'))
    (package / "guidance" / "methods" / "added.py").write_text(METHOD)
    for name in ("losses", "recipes", "training"):  # an installed package may lack these links
        if not (package / name).exists():
            (package / name).symlink_to(PACKAGE.parent / name)
    return tmp_path


def test_a_method_in_the_table_is_in_every_list(tree_with_a_method: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(tree_with_a_method)}
    run = subprocess.run(
        [sys.executable, "-c", CHECKS], cwd=tree_with_a_method, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert re.search(r"mpgd,\s+added,\s+dps", run.stdout.replace("│", " "))


def test_methods_are_named_in_two_places_only() -> None:
    """The class of a method is named in its file and the table; MPGD, the default, and prose are not counted."""
    names = re.compile(r"\b(" + "|".join(name for name in METHODS.values() if name != "MPGD") + r")\b")
    files_with_names = {
        file.relative_to(PACKAGE).as_posix()
        for file in PACKAGE.rglob("*.py")
        if names.search(re.sub(r'""".*?"""|#.*|"[^"\n]*"', "", file.read_text(encoding="utf-8"), flags=re.DOTALL))
    }
    own_files = {f"guidance/methods/{name}.py" for name in METHODS}
    assert files_with_names - own_files <= {"guidance/methods/__init__.py"}


def test_the_table_can_be_read_without_importing_torch() -> None:
    program = (
        "import sys; from dreamsim_guidance.comparisons.guided_sheet import GuidedSheet; print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"

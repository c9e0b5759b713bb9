import importlib.metadata
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dreamsim_guidance.cli import demo, main
from dreamsim_guidance.evaluation.metrics.named_metrics import MetricUnavailableError, load_metrics
from dreamsim_guidance.experiment import registry, runner
from dreamsim_guidance.metric import BranchConfig, Ensemble
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.metric.photographs import default_metric
from dreamsim_guidance.preprocess import load_image

MINE = '''
from dataclasses import dataclass
from pathlib import Path

from dreamsim_guidance.experiment.registry import recipe


@dataclass(frozen=True)
class Wait:
    steps: int = 2
    seed: int = 0

    def run(self, folder: Path) -> dict[str, int]:
        if self.seed == 13:
            raise ValueError("13 brings\\nno luck")
        if not (folder / "second").exists():
            (folder / "second").touch()
            if self.seed == 1:
                raise KeyboardInterrupt
        return {"steps": self.steps}


@recipe
def wait() -> Wait:
    """Wait."""
    return Wait()
'''


@pytest.fixture(autouse=True)
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


def read(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
    """stdout and stderr of a command that must end with `code`."""
    assert main(words) == code
    out, err = capsys.readouterr()
    return out, err


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = read(capsys, "--help")
    for command in ("demo", "compare", "recipes", "show", "copy", "run", "version"):
        assert f"• {command}" in out


def test_version_names_the_packages_below(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = read(capsys, "version")
    assert "torch 2" in out and "dreamsim-guidance" in out
    assert read(capsys, "--version")[0] == out


def test_recipes_are_listed_with_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = read(capsys, "recipes")
    line = next(line for line in out.splitlines() if line.startswith("reconstruct-photo"))
    assert line.split(maxsplit=1)[1].startswith("Reconstruct a photograph")


def test_show_prints_the_function_and_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = read(capsys, "show", "mine.py")
    assert '@recipe\ndef wait() -> Wait:\n    """Wait."""' in out
    assert "steps  int  2\n" in out and "seed   int  0\n" in out


def test_a_copy_runs(capsys: pytest.CaptureFixture[str], workdir: Path) -> None:
    read(capsys, "copy", "reconstruct-photo")
    assert "def reconstruct_photo" in (workdir / "reconstruct_photo.py").read_text()
    out, _ = read(capsys, "copy", "mine.py", "--to", "folder/edited.py")
    assert "dreamsim-guidance run folder/edited.py:wait" in out
    assert json.loads(read(capsys, "run", "folder/edited.py:wait")[0]) == {"steps": 2}


def test_a_copy_overwrites_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    read(capsys, "copy", "mine.py")
    _, err = read(capsys, "copy", "mine.py", code=2)
    assert err.startswith("error:") and "wait.py" in err and err.count("\n") == 1
    assert "must end in .py" in read(capsys, "copy", "mine.py", "--to", "x.txt", code=2)[1]


def test_run_creates_a_new_folder(capsys: pytest.CaptureFixture[str], workdir: Path) -> None:
    out, err = read(capsys, "run", "mine.py", "steps=5", "--seed", "7")
    assert json.loads(out) == {"steps": 5}
    (folder,) = (workdir / "runs").iterdir()
    assert folder.name.startswith("wait-") and f"run folder: runs/{folder.name}" in err
    assert json.loads((folder / "recipe.json").read_text())["seed"] == 7


def test_a_run_folder_is_run_again_into_a_new_one(capsys: pytest.CaptureFixture[str], workdir: Path) -> None:
    read(capsys, "run", "mine.py", "steps=5", "--folder", "first")
    (workdir / "mine.py").unlink()
    assert json.loads(read(capsys, "run", "first", "--folder", "second")[0]) == {"steps": 5}
    assert json.loads(read(capsys, "run", "first", "steps=6", "--folder", "third")[0]) == {"steps": 6}


def test_after_an_interrupt_the_command_to_resume_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    _, err = read(capsys, "run", "mine.py", "seed=1", "--folder", "cut", code=130)
    assert err.splitlines()[-1] == "interrupted; go on with: dreamsim-guidance run cut --resume"
    assert json.loads(read(capsys, "run", "cut", "--resume")[0]) == {"steps": 2}
    _, err = read(capsys, "run", "cut", "--resume")
    assert "was finished before" in err


def test_resume_needs_a_folder_and_takes_no_fields(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--resume needs the folder" in read(capsys, "run", "mine.py", "--resume", code=2)[1]
    read(capsys, "run", "mine.py", "--folder", "done")
    assert "leave the others out" in read(capsys, "run", "done", "steps=3", "--resume", code=2)[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "nothing"), "unknown recipe 'nothing'"),
        (("run", "none.py"), "recipe file not found"),
        (("run", "mine.py", "step=3"), "unknown field 'step' (did you mean 'steps'?); known fields: steps, seed."),
        (("run", "mine.py", "steps=many"), "field steps must be int, got 'many'"),
        (("run", "mine.py", "--folder", "mine.py"), "is a file; give a folder"),
        (("run", "mine.py", "seed=13"), "13 brings no luck"),
        (("show", "nothing"), "unknown recipe 'nothing'"),
        (("version", "--loud"), "unknown options: --loud"),
        (("demo", "--stepps", "3"), "unknown field 'stepps'"),
        (("demo", "image=none.png", "metric=none.safetensors"), "none.png"),
    ],
)
def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str) -> None:
    out, err = read(capsys, *words, code=2)
    *_, last = err.splitlines()
    assert last.startswith("error: ") and message in last
    assert "Traceback" not in err and out == ""


def test_debug_adds_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    _, err = read(capsys, "run", "mine.py", "seed=13", "--debug", code=2)
    assert "Traceback" in err and err.splitlines()[-1].startswith("error: 13 brings")


def test_help_of_a_recipe_lists_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--steps INT" in read(capsys, "run", "mine.py", "--help")[0]
    out, _ = read(capsys, "demo", "--help")
    assert "--image" in out and "--to PATH" in out


def test_an_interrupt_before_the_run_is_130(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run", stop)
    assert "interrupted." in read(capsys, "run", "mine.py", code=130)[1]


def test_the_module_is_the_console_script(workdir: Path) -> None:
    root = Path(__file__).parents[2]
    process = subprocess.run(
        [sys.executable, "-m", "dreamsim_guidance", "run", "mine.py", "stepps=1"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.startswith("error: unknown field 'stepps'")


@pytest.fixture
def model(metric: DreamSim, workdir: Path) -> str:
    """A model file with three tiny random branches."""
    metric.save(workdir / "tiny.safetensors", source="random weights of a test", licence="none")
    return "tiny.safetensors"


SMALL = ("--only", "reconstruction", "--size", "24", "--grids", "1", "2")


def test_the_demo_writes_a_picture_and_the_numbers(
    capsys: pytest.CaptureFixture[str], workdir: Path, model: str
) -> None:
    out, err = read(capsys, "demo", "--metric", model, "--steps", "3", *SMALL)
    assert out.splitlines()[-1] == "demo/reconstruction.png"
    assert "reconstructing" in err
    for name in ("reconstruction.png", "target.png", "result.png"):
        assert (workdir / "demo" / name).read_bytes().startswith(b"\x89PNG")
    numbers = json.loads((workdir / "demo" / "reconstruction.json").read_text())
    assert {row["role"] for row in numbers["distances"].values()} == {"optimised", "optimised in part", "held out"}
    assert len(numbers["history"]["loss"]) == 4
    for row in numbers["distances"].values():
        assert row["before"] >= 0 and row["after"] >= 0


def test_the_demo_runs_its_parts_in_order_and_each_alone(
    capsys: pytest.CaptureFixture[str], workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, str, int]] = []

    def execute(recipe: registry.Recipe, folder: Path, replace: bool) -> tuple[int, dict[str, Any]]:
        ran.append((recipe.name, folder.as_posix(), getattr(recipe.config, "steps", 0) or 0))
        return 0, {"distances": {"dreamsim": {"role": "held out"}}, "parted": []}

    monkeypatch.setattr(demo, "execute", execute)
    read(capsys, "demo", "--steps", "7")
    assert ran[0] == ("reconstruct-photo", "demo", 7)
    assert [row[:2] for row in ran[1:]] == [
        ("search-photographs", "demo/search"),
        ("guide-pocket", "demo/guided"),
        ("invert-pocket", "demo/inversion"),
    ]
    read(capsys, "demo", "--only", "inversion", "--steps", "8")
    assert ran[4:] == [("invert-pocket", "demo", 8)]


def test_the_demo_follows_maps_where_the_metric_has_them(capsys: pytest.CaptureFixture[str], workdir: Path) -> None:
    config = BranchConfig("cnn", "test_resnet", image_size=32, layers=(0, 1), spatial=True)
    DreamSim(Ensemble([config, replace(config, name="judge")])).save(workdir / "maps.safetensors")
    options = ("--metric", "maps.safetensors", "--steps", "20", "--only", "reconstruction", "--size", "32")
    read(capsys, "demo", *options)
    distances = json.loads((workdir / "demo" / "results.json").read_text())["distances"]
    assert distances["dreamsim of the maps"]["after"] < 0.8 * distances["dreamsim of the maps"]["before"]
    assert distances["dreamsim, judge only"]["role"] == "held out"


def test_without_the_extra_the_pocket_models_see_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    assert default_metric() == "pocket"
    assert 'pip install "dreamsim-guidance[photographs]"' in caplog.text
    with pytest.raises(MetricUnavailableError, match=r"dreamsim-guidance\[photographs\]"):
        load_metrics(["photographs"])["photographs"].distances([])
    with pytest.raises(MetricUnavailableError, match=r"dreamsim-guidance\[losses\]"):
        load_metrics(["st-lpips"])["st-lpips"].distances([(Path("a.png"), Path("b.png"))])


def test_photographs_are_found_again_by_any_metric(capsys: pytest.CaptureFixture[str], workdir: Path) -> None:
    out, _ = read(capsys, "demo", "--only", "search", "--metric", "pocket", "--to", "found")
    assert out.splitlines()[-1] == "found/sheet.png" and "found first" in out
    numbers = json.loads((workdir / "found" / "search.json").read_text())
    assert len(numbers["each"]["pocket"]) == len(numbers["photographs"]) > 5
    first = int(numbers["distances"]["pocket"]["found first"].split()[0])
    assert first == sum(row.index(min(row)) == i for i, row in enumerate(numbers["each"]["pocket"]))


def test_the_demo_lowers_what_it_optimises(capsys: pytest.CaptureFixture[str], workdir: Path, model: str) -> None:
    read(capsys, "demo", "--metric", model, "--steps", "15", *SMALL)
    distances = json.loads((workdir / "demo" / "results.json").read_text())["distances"]
    assert distances["dreamsim of the parts"]["after"] < 0.8 * distances["dreamsim of the parts"]["before"]


def test_the_demo_replaces_its_earlier_picture(capsys: pytest.CaptureFixture[str], workdir: Path, model: str) -> None:
    read(capsys, "demo", "--metric", model, "--steps", "1", *SMALL)
    first = (workdir / "demo" / "result.png").read_bytes()
    read(capsys, "demo", "--metric", model, "--steps", "2", "--seed", "3", *SMALL)
    assert (workdir / "demo" / "result.png").read_bytes() != first
    assert json.loads((workdir / "demo" / "recipe.json").read_text())["seed"] == 3


def test_the_folder_of_the_demo_can_be_run_again_with_the_same_result(
    capsys: pytest.CaptureFixture[str], workdir: Path, model: str
) -> None:
    read(capsys, "demo", "--metric", model, "--steps", "3", *SMALL)
    out, _ = read(capsys, "run", "demo", "--folder", "again")
    assert json.loads(out) == json.loads((workdir / "demo" / "results.json").read_text())
    assert (workdir / "again" / "result.png").read_bytes() == (workdir / "demo" / "result.png").read_bytes()


def test_the_demo_takes_any_picture_and_any_aspect(
    capsys: pytest.CaptureFixture[str], workdir: Path, model: str
) -> None:
    from PIL import Image

    Image.new("L", (90, 30), 128).save(workdir / "grey.png")
    read(
        capsys,
        "demo",
        "--image",
        "grey.png",
        "--metric",
        model,
        "--steps",
        "1",
        "--held-out",
        "False",
        "--to",
        "x",
        *SMALL,
    )
    assert load_image(workdir / "x" / "result.png").shape == (1, 3, 24, 72)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "a command is needed; known: demo, "),
        (
            "compar a.png b.png",
            "unknown command 'compar' (did you mean 'compare'?); known: demo, guide, invert, compare, ",
        ),
        ("study", "a command is needed; known: make, next, read, choose"),
        ("data chek mine", "unknown command 'data chek' (did you mean 'check'?); known: "),
        ("show", "Required options: Missing from dreamsim-guidance show: "),
        ("study make targets", "Required options: Missing from dreamsim-guidance study make: --to PATH "),
        ("evaluate reconstructions", "Missing from dreamsim-guidance evaluate reconstructions: PATH "),
        ("evaluate nights --reading wrong", "invalid choice 'wrong' for argument '--reading'"),
        ("demo --only guidedd", "invalid choice 'guidedd' for argument '--only'"),
        ("data scenes --triplets ten --to x", "Error parsing --triplets: invalid literal for int"),
        ("study make targets a b --to x --participants 2.5", "Error parsing --participants: "),
        ("run mine.py steps", "'steps' is not field=value; write steps=VALUE."),
    ],
)
def test_a_mistake_is_one_line(
    words: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    _, err = read(capsys, *words.split(), code=2)
    assert err.startswith("error: ") and message in err
    assert len(err.splitlines()) == 1
    assert not re.search(r"[\u2500-\u257f]|full helptext|\|", err)


def test_a_mistake_is_one_line_on_a_terminal_without_unicode(workdir: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dreamsim_guidance", "evaluate", "nights", "--reading", "wrong"],
        env=os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: Invalid choice: invalid choice 'wrong' for argument '--reading'. Expected")

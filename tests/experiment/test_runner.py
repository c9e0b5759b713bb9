import json
import logging
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dreamsim_guidance.experiment import registry
from dreamsim_guidance.experiment.registry import Recipe, load, recipe
from dreamsim_guidance.experiment.runner import new_folder, run


@dataclass(frozen=True)
class Count:
    """Counts to `to`, stores the count in the folder, and stops if there is a file "stop" next to the folder."""

    to: int = 3
    seed: int = 0

    def run(self, folder: Path) -> dict[str, int]:
        state = folder / "state.txt"
        resumed = reached = int(state.read_text()) if state.exists() else 0
        for number in range(reached + 1, self.to + 1):
            state.write_text(str(number))
            if (folder.parent / "stop").exists():
                raise KeyboardInterrupt
        logging.getLogger("anything").info("counted")
        return {"reached": self.to, "resumed_at": resumed}


@recipe
def count() -> Count:
    """Count."""
    return Count()


@pytest.fixture
def counting() -> Recipe:
    return registry.build(count)


def test_a_run_folder_records_what_was_done(counting: Recipe, tmp_path: Path) -> None:
    finished = run(counting, tmp_path / "run")
    assert finished.results == {"reached": 3, "resumed_at": 0} and not finished.before
    names = {path.name for path in finished.folder.iterdir()}
    assert names == {"recipe.json", "recipe.py", "versions.json", "log.txt", "results.json", "state.txt"}
    assert json.loads((finished.folder / "results.json").read_text()) == finished.results
    resolved = json.loads((finished.folder / "recipe.json").read_text())
    assert (resolved["recipe"], resolved["seed"]) == ("count", 0)
    assert resolved["config"]["fields"] == {"to": 3, "seed": 0}
    versions = json.loads((finished.folder / "versions.json").read_text())
    assert versions["python"] and versions["packages"]["torch"] and versions["machine"]["cores"]
    assert "counted" in (finished.folder / "log.txt").read_text()
    assert (finished.folder / "recipe.py").read_text() == Path(__file__).read_text()


def test_a_run_folder_can_be_run_again(counting: Recipe, tmp_path: Path) -> None:
    first = run(counting, tmp_path / "first")
    second = run(load(first.folder), tmp_path / "second")
    assert second.results == first.results
    for name in ("recipe.json", "recipe.py", "results.json"):
        a, b = ((folder / name).read_text() for folder in (first.folder, second.folder))
        assert name == "recipe.json" or a == b
    assert load(second.folder).config.to == 3


def test_an_interrupted_run_is_resumed_in_its_folder(counting: Recipe, tmp_path: Path) -> None:
    (tmp_path / "stop").touch()
    with pytest.raises(KeyboardInterrupt):
        run(counting, tmp_path / "run")
    assert not (tmp_path / "run" / "results.json").exists()
    assert "stopped by KeyboardInterrupt" in (tmp_path / "run" / "log.txt").read_text()
    (tmp_path / "stop").unlink()
    assert run(counting, tmp_path / "run").results == {"reached": 3, "resumed_at": 1}


def test_a_finished_run_is_left_alone(counting: Recipe, tmp_path: Path) -> None:
    run(counting, tmp_path / "run")
    log = (tmp_path / "run" / "log.txt").read_text()
    again = run(counting, tmp_path / "run")
    assert again.before and again.results == {"reached": 3, "resumed_at": 0}
    assert (tmp_path / "run" / "log.txt").read_text() == log


def test_the_traceback_of_a_failure_is_in_the_log(tmp_path: Path) -> None:
    failing = registry.build(count)
    broken = replace(failing, config=Count(to="three"))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        run(broken, tmp_path / "run")
    assert "Traceback" in (tmp_path / "run" / "log.txt").read_text()


def test_other_fields_in_the_same_folder_are_refused(counting: Recipe, tmp_path: Path) -> None:
    run(counting, tmp_path / "run")
    with pytest.raises(ValueError, match=r"holds count with other fields \(seed, to\); give a new folder"):
        run(replace(counting, config=Count(to=4, seed=1)), tmp_path / "run")


def test_another_recipe_in_the_same_folder_is_refused(counting: Recipe, tmp_path: Path) -> None:
    run(counting, tmp_path / "run")
    with pytest.raises(ValueError, match="holds another recipe, count; give a new folder"):
        run(replace(counting, name="other"), tmp_path / "run")


def test_changed_source_in_the_same_folder_is_refused(counting: Recipe, tmp_path: Path) -> None:
    run(counting, tmp_path / "run")
    with pytest.raises(ValueError, match="another version of the source of count"):
        run(replace(counting, source=counting.source + "# edited"), tmp_path / "run")


def test_a_folder_with_other_files_and_a_file_are_refused(counting: Recipe, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="neither empty nor a run folder"):
        run(counting, tmp_path)
    with pytest.raises(ValueError, match="is a file; give a folder"):
        run(counting, tmp_path / "thesis.tex")


def test_an_empty_folder_is_used(counting: Recipe, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert run(counting, tmp_path / "empty").results["reached"] == 3


def test_an_earlier_run_of_the_recipe_can_be_replaced(counting: Recipe, tmp_path: Path) -> None:
    run(counting, tmp_path / "run")
    changed = run(replace(counting, config=Count(to=5)), tmp_path / "run", replace=True)
    assert changed.results["reached"] == 5 and load(tmp_path / "run").config.to == 5
    log = (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")
    assert f" in {tmp_path / 'run'}, seed" in log and "run-new" not in log


def test_a_failed_replacement_leaves_the_earlier_run(counting: Recipe, tmp_path: Path) -> None:
    run(counting, tmp_path / "run")
    (tmp_path / "stop").touch()
    with pytest.raises(KeyboardInterrupt):
        run(replace(counting, config=Count(to=5)), tmp_path / "run", replace=True)
    assert load(tmp_path / "run").config.to == 3 and (tmp_path / "run" / "results.json").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "stop"]


@dataclass(frozen=True)
class Reads:
    file: Path

    def run(self, folder: Path) -> dict[str, object]:
        return {"text": self.file.read_text(), "where": self.file, "odd": float("nan")}


def test_relative_paths_mean_the_same_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("words")
    monkeypatch.chdir(tmp_path)
    finished = run(Recipe("reads", Reads(Path("a.txt")), "", Path("reads.py"), __name__), Path("run"))
    # as results.json holds them, so that they can be printed as JSON
    assert finished.results == {"text": "words", "where": str(tmp_path / "a.txt"), "odd": None}
    written = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert written["config"]["fields"]["file"] == {"path": str(tmp_path / "a.txt")}


def test_two_runs_within_a_second_have_two_folders(tmp_path: Path) -> None:
    first = new_folder("count", tmp_path)
    first.mkdir()
    assert new_folder("count", tmp_path) != first
    assert first.name.startswith("count-2")


def test_logging_is_left_as_it_was(counting: Recipe, tmp_path: Path) -> None:
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    with warnings.catch_warnings():
        run(counting, tmp_path / "run")
    assert (root.level, list(root.handlers)) == before

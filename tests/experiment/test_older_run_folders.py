"""Run folders and recipe files that release 0.1.0 wrote, whose modules lay elsewhere."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dreamsim_guidance.cli import main
from dreamsim_guidance.experiment import registry, run_folder, runner
from dreamsim_guidance.experiment.registry import recipe, recipes

RELEASE_0_1_0: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("run_folders_of_0_1_0.json").read_text(encoding="utf-8")
)
"""recipe.json and recipe.py of six runs, by the name of the recipe; "small-sum" is a user's own, "guide" the command's."""


def write(folder: Path, name: str) -> None:
    folder.mkdir()
    content = RELEASE_0_1_0[name]
    (folder / "recipe.json").write_text(json.dumps(content["recipe.json"]), encoding="utf-8")
    (folder / "recipe.py").write_text(content["recipe.py"], encoding="utf-8")
    (folder / "versions.json").write_text("{}", encoding="utf-8")
    (folder / "results.json").write_text('{"kept": 1}', encoding="utf-8")


def advice(name: str) -> str:
    if name == "small-sum":
        return "import `recipe` in your recipe's file from dreamsim_guidance.experiment.registry"
    return f"`dreamsim-guidance {'guide' if name == 'guide' else f'run {name}'}`"


@pytest.mark.parametrize("words", [("show", "old"), ("run", "old"), ("run", "old", "--resume"), ("copy", "old")])
@pytest.mark.parametrize("name", RELEASE_0_1_0)
def test_an_older_run_folder_is_refused_with_what_to_do(
    name: str,
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "old", name)
    before = {file: file.read_bytes() for file in (tmp_path / "old").iterdir()}
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith("error: 'old' was made by an earlier release (0.1.0), whose layout this one does not read; ")
    assert advice(name) in err and "or use release 0.1.0" in err
    assert {file: file.read_bytes() for file in (tmp_path / "old").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("name", [name for name in RELEASE_0_1_0 if name not in ("guide", "small-sum")])
def test_the_recipe_that_is_to_be_run_again_exists(name: str) -> None:
    assert name in recipes()


@pytest.mark.parametrize("name", [name for name in RELEASE_0_1_0 if name not in ("guide", "small-sum")])
def test_a_run_does_not_resume_in_an_older_folder(name: str, tmp_path: Path) -> None:
    write(tmp_path / "old", name)
    with pytest.raises(ValueError, match=r"was made by an earlier release \(0\.1\.0\)"):
        runner.run(registry.load(name), tmp_path / "old")
    assert json.loads((tmp_path / "old" / "results.json").read_text()) == {"kept": 1}


@pytest.mark.parametrize("name", RELEASE_0_1_0)
def test_an_older_recipe_file_says_where_its_imports_are_now(name: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(RELEASE_0_1_0[name]["recipe.py"], encoding="utf-8")
    with pytest.raises(ValueError, match=r"`recipe` is now in dreamsim_guidance\.experiment\.registry"):
        registry.load(file)


def test_another_import_that_fails_gets_no_such_advice(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import no_such_module")
    with pytest.raises(ValueError, match=r"No module named 'no_such_module'$"):
        registry.load(tmp_path / "mine.py")


@pytest.mark.parametrize("number", [3, 99])
def test_a_folder_of_a_newer_release_says_so(number: int, tmp_path: Path) -> None:
    run_folder.create(tmp_path / "new", registry.load("reconstruct-photo"))
    file = tmp_path / "new" / "recipe.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": number}))
    with pytest.raises(ValueError, match=f"newer release \\(format {number}, this one reads 2\\); update"):
        registry.load(tmp_path / "new")


@dataclass(frozen=True)
class Made:
    def run(self, folder: Path) -> dict[str, str]:
        return {"made": "now"}


@recipe
def guide() -> Made:
    """Stand for the command `guide`, whose recipe has this name."""
    return Made()


def test_a_command_replaces_its_own_result_of_an_older_release_and_no_other(tmp_path: Path) -> None:
    built = registry.build(guide)
    write(tmp_path / "guided", "guide")
    assert runner.run(built, tmp_path / "guided", replace=True).results == {"made": "now"}
    assert json.loads((tmp_path / "guided" / "recipe.json").read_text())["format"] == 2
    write(tmp_path / "other", "digits")
    with pytest.raises(ValueError, match="holds another recipe, digits"):
        runner.run(built, tmp_path / "other", replace=True)

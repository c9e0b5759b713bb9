import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dreamsim_guidance.experiment import registry, run_folder
from dreamsim_guidance.experiment.registry import load, recipe, recipes
from dreamsim_guidance.files.atomic import write_json

MINE = '''
from dataclasses import dataclass
from pathlib import Path

from dreamsim_guidance.experiment.registry import recipe


@dataclass(frozen=True)
class Sum:
    terms: tuple[int, ...] = (1, 2)
    scale: float = 1.0

    def run(self, folder: Path) -> dict[str, float]:
        (folder / "terms.txt").write_text(str(self.terms))
        return {"sum": self.scale * sum(self.terms)}


@recipe
def small_sum() -> Sum:
    """Add two numbers."""
    return Sum()
'''


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    return file


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_builds(name: str) -> None:
    built = load(name)
    assert built.name == name
    assert dataclasses.is_dataclass(built.config)
    assert callable(built.config.run)


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_can_be_written_to_a_folder_and_rebuilt(name: str, tmp_path: Path) -> None:
    built = load(name)
    run_folder.create(tmp_path / "run", built)
    again = load(tmp_path / "run")
    assert again.config == built.config
    assert type(again.config) is type(built.config)
    assert run_folder.describe(again) == run_folder.describe(built)


@pytest.mark.parametrize("function", recipes().values(), ids=recipes())
def test_the_documentation_of_a_recipe_begins_with_one_line(function: Callable[[], object]) -> None:
    first, *rest = (function.__doc__ or "").strip().splitlines()
    assert first.endswith((".", ":")) and len(first) < 120
    assert not rest or not rest[0].strip()


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_is_a_file_that_can_stand_alone(name: str) -> None:
    built = load(name)
    assert "from ." not in built.source
    assert registry.function_source(built).startswith("@recipe\ndef " + name.replace("-", "_"))


def test_the_main_job_is_a_recipe() -> None:
    assert "reconstruct-photo" in recipes()
    assert load("reconstruct_photo") == load("reconstruct-photo")


def test_a_recipe_is_found_in_a_file(recipe_file: Path) -> None:
    built = load(recipe_file)
    assert (built.name, built.config.terms, built.path) == ("small-sum", (1, 2), recipe_file)
    assert load(f"{recipe_file}:small-sum").config.terms == (1, 2)


def test_an_edited_file_is_read_again(recipe_file: Path) -> None:
    load(recipe_file)
    recipe_file.write_text(MINE.replace("(1, 2)", "(5, 6)"))
    assert load(recipe_file).config.terms == (5, 6)


def test_a_recipe_file_can_import_modules_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside_recipe.py").write_text("number = 41")
    file = tmp_path / "mine.py"
    file.write_text("import beside_recipe\n" + MINE.replace("(1, 2)", "(beside_recipe.number, 2)"))
    assert load(file).config.terms == (41, 2)


def test_an_unknown_name_lists_what_is_known() -> None:
    with pytest.raises(ValueError, match=r"unknown recipe 'reconstruct-foto' \(did you mean 'reconstruct-photo'\?\)"):
        load("reconstruct-foto")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "holds no recipe"),
        (MINE.replace('"""Add two numbers."""', ""), "small_sum needs a docstring"),
        (MINE.replace("small_sum()", "small_sum(a=1)"), "must take no arguments"),
        (MINE.replace("(frozen=True)", ""), "must return a frozen dataclass"),
        (MINE.replace("return Sum()", "return 3"), "must return a dataclass with a method run"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def broken(:", "SyntaxError"),
        (MINE + MINE[MINE.index("@recipe") :].replace("small", "big"), "several recipes; name one, e.g. .*:small-sum"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises((ValueError, TypeError), match=message):
        load(file)


def test_a_missing_file_and_a_folder_without_a_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"recipe file not found: .*none\.py"):
        load(tmp_path / "none.py")
    with pytest.raises(FileNotFoundError, match=r"not a run folder: it has no recipe\.json"):
        load(tmp_path)


def test_a_run_folder_keeps_the_source_that_it_ran_with(recipe_file: Path, tmp_path: Path) -> None:
    run_folder.create(tmp_path / "run", load(recipe_file))
    recipe_file.write_text(MINE.replace("self.scale * sum", "-sum"))
    assert load(tmp_path / "run").config.run(tmp_path) == {"sum": 3.0}


def test_a_damaged_run_folder_is_refused(recipe_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run_folder.create(folder, load(recipe_file))
    content = json.loads((folder / "recipe.json").read_text())
    (folder / "recipe.json").write_text("{")
    with pytest.raises(ValueError, match="is not a resolved recipe"):
        load(folder)
    content["config"]["fields"]["gone"] = 1
    (folder / "recipe.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="does not fit the code"):
        load(folder)


@dataclasses.dataclass(frozen=True)
class Inner:
    lr: float = 0.5


@dataclasses.dataclass(frozen=True)
class Rich:
    path: Path | None = Path("a/b")
    nested: tuple[Inner, ...] = (Inner(), Inner(float("inf")))
    table: dict[str, tuple[int, float]] = dataclasses.field(default_factory=lambda: {"a": (1, 1.0)})
    words: list[str] = dataclasses.field(default_factory=lambda: ["x"])
    flag: bool = True

    def run(self, folder: Path) -> dict[str, int]:
        return {}


@recipe
def rich() -> Rich:
    """One of each type."""
    return Rich()


def test_types_survive_the_file(tmp_path: Path) -> None:
    run_folder.create(tmp_path / "run", registry.build(rich))
    again = load(tmp_path / "run").config
    # the classes are those of the copied source, so the contents are compared
    assert dataclasses.asdict(again) == dataclasses.asdict(Rich())
    assert isinstance(again.path, Path) and type(again.table["a"][1]) is float and type(again.table["a"][0]) is int


def test_a_field_that_fits_no_file_is_an_error(tmp_path: Path) -> None:
    strange = dataclasses.replace(registry.build(rich), config=Rich(words=[object()]))  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"recipe field words\.0 holds a object; it can hold numbers"):
        run_folder.create(tmp_path / "run", strange)
    assert not list(tmp_path.iterdir())


def test_results_become_standard_json(tmp_path: Path) -> None:
    import torch

    write_json(tmp_path / "a.json", {"nan": float("nan"), "tensor": torch.ones(2), "path": Path("x"), 1: (2,)})
    assert json.loads((tmp_path / "a.json").read_text()) == {"nan": None, "tensor": [1.0, 1.0], "path": "x", "1": [2]}

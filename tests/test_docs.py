"""README, docs/ and CONTRIBUTING say what is so: every snippet runs, every link leads somewhere, every name is documented."""

from __future__ import annotations

import importlib
import importlib.util
import re
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import snippets
from pages import LANGUAGES, PAGES, ROOT, Block, anchors, blocks, inline_code, inline_commands, links, running_text
from snippets import parse

pytestmark = pytest.mark.skipif(
    not (ROOT / "README.md").is_file(), reason="the tests were copied out of the repository"
)

DOCS = ROOT / "docs"
WITH_CODE = [page for page in PAGES if any(block.language in ("python", "sh") for block in blocks(page))]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    snippets.prepare(folder)
    return folder


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("page", WITH_CODE, ids=name)
def test_the_snippets_of_a_page_run(
    page: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DREAMSIM_GUIDANCE_CACHE", str(tmp_path / "cache"))
    names: dict[str, Any] = {"__name__": "__main__"}
    with snippets.stand_ins():
        for block in blocks(page):
            try:
                snippets.run_block(block, names)
            except AssertionError as error:
                raise AssertionError(f"{error}\n{capsys.readouterr().err[-2000:]}") from error


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_has_a_language_and_no_command_hides_in_an_indented_block(page: Path) -> None:
    assert {block.language for block in blocks(page)} <= LANGUAGES
    indented = re.findall(
        r"^ {4,}(?:\$ )?(?:dreamsim-guidance|pip|python|git|from|import) .*", running_text(page), re.MULTILINE
    )
    assert not indented


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_snippets_that_are_parsed_only_state_the_reason(page: Path) -> None:
    reasons = [block.parsed_only for block in blocks(page) if block.parsed_only is not None]
    assert all(len(reason.split()) >= 3 for reason in reasons)
    comments = re.findall(r"<!-- *parsed.only.*?-->", page.read_text(encoding="utf-8"))
    assert len(comments) == len(reasons), "a comment `parsed only` stands directly before its block"


def test_commands_in_running_text_are_understood() -> None:
    commands = sorted({command for page in PAGES for command in inline_commands(page)})
    assert commands
    with snippets.stand_ins():
        for command in commands:
            words = command.split()
            parse(words if len(words) > 1 else [*words, "--help"])  # a name alone mentions the command


@pytest.mark.parametrize(
    "command",
    [
        "compare a.png b.png --metrics pocket",
        "run reconstruct-photo stepz=1",
        "recipe",
        "run no-such-recipe",
        "guide --n x",
    ],
)
def test_a_command_that_does_not_exist_is_noticed(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AssertionError, match="was not understood"):
        parse(command.split())


def test_a_broken_snippet_is_noticed(tmp_path: Path) -> None:
    block = Block(ROOT / "README.md", 1, "python", "from dreamsim_guidance import Dreamsim", None)
    with pytest.raises(AssertionError, match=r"README\.md:1: ImportError"):
        snippets.run_block(block, {})
    with pytest.raises(AssertionError, match="has no Dreamsim"):
        snippets.run_block(Block(block.page, 1, "python", block.text, "it is only parsed"), {})


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in links(page):
        file, _, anchor = target.partition("#")
        place = page if not file else (page.parent / file)
        assert place.exists(), f"{name(page)} links to {target}, which does not exist"
        if anchor:
            assert anchor in anchors(place), f"{name(page)} links to {target}, and {file} has no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_of_the_repository_that_running_text_names_exist(page: Path) -> None:
    for code in inline_code(page):
        path = re.fullmatch(
            r"(?:benchmarks|dreamsim_guidance|docs|examples|losses|recipes|tests|training)/[\w./-]*", code
        )
        assert not path or "NAME" in code or (ROOT / code).exists(), f"{name(page)} names {code}, which does not exist"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_modules_and_names_of_the_library_that_running_text_names_exist(page: Path) -> None:
    for full in [code for code in inline_code(page) if re.fullmatch(r"dreamsim_guidance(?:\.\w+)+", code)]:
        assert importlib.util.find_spec(full) if full.islower() else hasattr(*split(full)), f"{name(page)}: {full}"


def test_the_table_of_moved_modules_is_true() -> None:
    text = (DOCS / "migration.md").read_text(encoding="utf-8").partition("## From release 0.1.0")[2]
    rows = re.findall(
        r"^\| (.*) \| `(dreamsim_guidance\.[\w.]+)` \|$", text.partition("another name too")[0], re.MULTILINE
    )
    assert len(rows) > 10
    for old, room in rows:
        for module in re.findall(r"`([\w.]+)`", old):
            assert importlib.util.find_spec(f"{room}.{module.rpartition('.')[2]}"), f"{module} is not in {room}"
            assert not _is_module(f"dreamsim_guidance.{module}"), f"{module} did not move"


def _is_module(full: str) -> bool:
    try:
        return importlib.util.find_spec(full) is not None
    except ModuleNotFoundError:  # nor is its parent
        return False


def split(full: str) -> tuple[Any, str]:
    module, _, attribute = full.rpartition(".")
    return importlib.import_module(module), attribute


COMMANDS = ("demo", "demo --only guided", "guide", "compare", "evaluate", "evaluate reconstructions", "study make")
COMMANDS += (
    "embed",
    "sensitivity",
    "fiftyone export",
    "fiftyone import",
    "study read",
    "study choose",
    "generate",
    "search",
    "embed",
    "matrix",
    "duplicates",
    "consistency",
    "data nights",
    "data check",
    "data scenes",
    "show",
    "copy",
    "run guide-pocket",
)


def test_options_that_running_text_names_exist(capsys: pytest.CaptureFixture[str]) -> None:
    from dreamsim_guidance.cli import main

    for command in COMMANDS:
        assert main([*command.split(), "--help"]) == 0
    options_of_commands = set(re.findall(r"--[a-z][\w.-]*", capsys.readouterr().out.replace("_", "-"))) | {
        "--debug",
        "--help",
    }
    for page in PAGES:
        for code in inline_code(page):
            options = set(re.findall(r"(?<!\S)--[a-z][\w.-]*", code)) if re.match("--|dreamsim", code) else set()
            assert options <= options_of_commands, f"{name(page)} names {options - options_of_commands}"


def test_pictures_are_small_and_shown() -> None:
    linked = {(page.parent / target).resolve() for page in PAGES for target in links(page)}
    pictures = [*(DOCS / "pictures").glob("*.png"), *(ROOT / "examples").glob("*.png")]
    assert pictures
    for picture in pictures:
        assert picture.resolve() in linked, f"no page shows {name(picture)}"
        assert picture.stat().st_size < 200_000 or picture.parent.name == "examples"


def test_every_page_is_in_a_table_of_contents() -> None:
    listed = set()
    for page in DOCS.rglob("*.md"):
        for block in blocks(page):
            if block.language == "{toctree}":
                entries = [line.strip() for line in block.text.splitlines() if line.strip() and line[0] != ":"]
                listed |= {(page.parent / f"{entry}.md").resolve() for entry in entries}
    pages = {page.resolve() for page in DOCS.rglob("*.md") if page.name != "README.md"} - {DOCS / "index.md"}
    assert listed == pages


def documented() -> set[str]:
    """The full names that the API reference documents, as its directives say."""
    sections = runpy.run_path(str(DOCS / "extensions" / "method_sections.py"))
    methods = {f"dreamsim_guidance.guidance.{kind.__name__}" for kind in sections["method_classes"]()}
    names = set(methods) if sections["MARK"] in (DOCS / f"{sections['PAGE']}.md").read_text(encoding="utf-8") else set()
    for page in (DOCS / "api").glob("*.md"):
        for block in blocks(page):
            if block.language != "{eval-rst}":
                continue
            for directive, target, options in re.findall(
                r"^\.\. (auto\w+):: (\S+)((?:\n +:.*)*)", block.text, re.MULTILINE
            ):
                if directive != "automodule":
                    names.add(target)
                elif ":members:" in options:
                    excluded = re.search(r":exclude-members: (.*)", options)
                    left_out = set() if excluded is None else set(re.split(r",\s*", excluded[1].strip()))
                    public = importlib.import_module(target).__all__
                    names |= {f"{target}.{member}" for member in public if member not in left_out} - methods
    return names


@pytest.mark.parametrize(
    "room",
    ["", ".guidance", ".losses", ".data", ".evaluation", ".inversion", ".study", ".retrieval", ".sensitivity"],
)
def test_every_public_name_is_in_the_reference(room: str) -> None:
    public = importlib.import_module(f"dreamsim_guidance{room}")
    documented_names = {full.rpartition(".")[2] for full in documented()}
    assert set(public.__all__) <= documented_names


def test_the_reference_names_what_exists() -> None:
    for full in documented():
        module, _, attribute = full.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), full


def test_nothing_is_in_the_reference_twice() -> None:
    modules: dict[tuple[str, int], list[str]] = {}
    for full in documented():
        module, attribute = split(full)
        modules.setdefault((attribute, id(getattr(module, attribute))), []).append(module.__name__)
    assert {name: places for (name, _), places in modules.items() if len(places) > 1} == {}


def test_the_settings_of_the_documentation_load() -> None:
    before = list(sys.path)
    try:
        settings = runpy.run_path(str(DOCS / "conf.py"))
    finally:
        sys.path[:] = before
    assert settings["nitpicky"] is True


def test_docstrings_become_parameters_equations_and_escaped_text() -> None:
    convert = runpy.run_path(str(DOCS / "extensions" / "house_docstrings.py"))["convert"]
    lines = [
        "Move *x* by `a * b`.",
        "",
        "    x <- x * y",
        "",
        "strength: of a move,",
        "    in noise levels.",
        "rho, mu: factors.",
        "other: not an argument.",
        "",
        "adapter/   a folder",
        "model.pt   a file",
        "",
        "- one *x*,",
        "  continued",
        "- two",
    ]
    assert convert(lines, {"strength", "rho", "mu"}) == [
        r"Move \*x\* by `a * b`.",
        "",
        "::",
        "",
        "    x <- x * y",
        "",
        "",
        ":param strength: of a move, in noise levels.",
        ":param rho: factors.",
        ":param mu: factors.",
        "",
        "other: not an argument.",
        "",
        "::",
        "",
        "    adapter/   a folder",
        "    model.pt   a file",
        "",
        "",
        r"- one \*x\*, continued",
        "- two",
    ]

"""The order of the rooms: each imports only from its own layer and from those below."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import dreamsim_guidance

PACKAGE = Path(dreamsim_guidance.__file__).parent

LAYERS = (
    ("types", "preprocess", "schedule", "loss", "processes", "files", "tracing", "capture", "views", "weights"),
    ("metric", "checkpoints", "pipelines"),
    ("losses", "data", "guidance", "inversion", "evaluation", "study"),
    ("pocket", "pocket_gan"),
    ("retrieval", "generation", "sensitivity"),
    ("training",),
    ("experiment", "known_answers", "comparisons"),
    ("recipes",),
    ("cli", "__main__"),
)
"""From the bottom upwards. `metric` builds on `checkpoints` and the other way round, file by file without a cycle."""

APART = (("guidance", "inversion"), ("losses", "guidance"))
"""Rooms of one layer of which neither may import the other."""

RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}


def modules() -> dict[str, Path]:
    """Every module of the installed package, `metric.dreamsim` for example, with its file."""
    files = [*PACKAGE.rglob("*.py")]
    for link in ("losses", "recipes", "training"):  # `rglob` follows no links, and an editable install has no links
        folder = PACKAGE / link
        source = folder.resolve() if folder.exists() else PACKAGE.parent / link
        files += [PACKAGE / link / file.relative_to(source) for file in source.rglob("*.py")]
    names = {}
    for file in files:
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    del names[""]  # the hall names every room
    return names


MODULES = modules()


def imports(tree: ast.AST, at_start: bool = False) -> Iterator[str]:
    """The modules of this package that are imported; `at_start`: without those in functions and under TYPE_CHECKING."""
    for node in ast.iter_child_nodes(tree):
        if at_start and (
            isinstance(node, ast.FunctionDef) or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        ):
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "dreamsim_guidance":
            base = (node.module or "").partition(".")[2]
            for alias in node.names:
                name = f"{base}.{alias.name}".lstrip(".")
                yield name if name in MODULES else base
        elif isinstance(node, ast.Import):
            yield from (
                alias.name.partition(".")[2] for alias in node.names if alias.name.startswith("dreamsim_guidance.")
            )
        yield from imports(node, at_start)


def is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def room(module: str) -> str:
    return module.partition(".")[0]


TREES = {name: ast.parse(file.read_text(encoding="utf-8")) for name, file in MODULES.items()}


def test_every_room_has_a_layer() -> None:
    assert {room(name) for name in MODULES} == set(RANK)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_imports_only_from_its_layer_and_below(name: str) -> None:
    above = {other for other in imports(TREES[name]) if other and RANK[room(other)] > RANK[room(name)]}
    assert not above
    forbidden = {b for a, b in APART if a == room(name)} | {a for a, b in APART if b == room(name)}
    assert not {other for other in imports(TREES[name]) if room(other) in forbidden}


def test_no_module_imports_itself_through_others() -> None:
    graph = {name: {other for other in imports(tree, at_start=True) if other != name} for name, tree in TREES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))

"""The console script `dreamsim-guidance`: demo, guide, compare, evaluate, study, data, recipes, show, copy, run, version.

Parsing is tyro's: a command is a dataclass whose fields are its options and which is called to do the work. A mistake
of the user is one line on stderr and exit code 2, an interrupt is 130; `--debug`, anywhere, adds the traceback. Results
go to stdout, everything else to stderr. Torch is imported by the commands that need it, so that `--help` is quick.
"""

from __future__ import annotations

import json as jsonlib
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, subcommand

from dreamsim_guidance.cli import reconstructions
from dreamsim_guidance.cli.data import Data
from dreamsim_guidance.cli.evaluate import Evaluate
from dreamsim_guidance.cli.execution import execute, print_table
from dreamsim_guidance.cli.guide import Guide, tell
from dreamsim_guidance.cli.study import Study
from dreamsim_guidance.experiment import fields, registry

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 for a mistake in what was asked for, 130 when interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        return _dispatch([word for word in words if word != "--debug"])
    except SystemExit as stop:  # tyro's, after help or its own message
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        print("interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `... | head`: the reader has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        print(f"error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 2


@dataclass(frozen=True)
class Demo:
    """Reconstruct a photograph from noise by following the gradient of the metric; guide a small diffusion model to a scene.

    This runs the recipe reconstruct-photo and takes its fields as options (--image, --metric, --steps, --size, ...), and then
    guide-pocket as it is; with --only guided the options are that recipe's.
    """

    to: Path = Path("demo")
    """Folder of the pictures, the numbers and the record of the run; an earlier demo there is replaced."""
    only: Literal["reconstruction", "guided"] | None = None
    """One of the two parts, alone in the folder."""

    def __call__(self, words: Sequence[str] = ()) -> int:
        if self.only != "guided":
            recipe = _overridden(registry.load("reconstruct-photo"), words)
            code, results = execute(recipe, self.to, replace=True)
            if code:
                return code
            print_table(results["distances"])
            print(self.to / "reconstruction.png")
        if self.only != "reconstruction":
            folder = self.to if self.only else self.to / "guided"
            recipe = _overridden(registry.load("guide-pocket"), words if self.only else ())
            code, results = execute(recipe, folder, replace=True)
            if code:
                return code
            tell(results)
            print(folder / "sheet.png")
        return 0


@dataclass(frozen=True)
class Compare:
    """Distances between images: two files, one reference against several, two folders (by file name), or pairs.

    0 means alike, larger means more different. Images may have any size. Patterns such as 'out/*.png' are expanded; a
    folder stands for the pictures in it. With one reference, that is the first file.
    """

    images: Positional[tuple[str, ...]] = ()
    """Files, folders, patterns."""
    metric: str = "ensemble"
    """ensemble, dino_vitb16, clip_vitb32, ... (published weights), pocket (shipped), or a model file (.safetensors)."""
    pairs: Path | None = None
    """A CSV file with two columns of paths, relative to its folder; a header line is skipped."""
    json: bool = False
    """Print JSON instead of a table."""
    device: str | None = None
    """cpu, cuda, mps, ...; by default an accelerator if there is one."""

    def __call__(self) -> int:
        from dreamsim_guidance.cli import compare

        if bool(self.images) == (self.pairs is not None):
            raise ValueError("give images (files, folders, patterns) or --pairs FILE.csv.")
        found = compare.read_pairs(self.pairs) if self.pairs else compare.find_pairs(self.images)
        for where, names in found.unmatched.items():
            print(f"only in {where}: {', '.join(names)}", file=sys.stderr)
        distances = compare.distances(found.pairs, self.metric, self.device)
        if self.json:
            rows = [
                {"a": str(a), "b": str(b), "distance": distance}
                for (a, b), distance in zip(found.pairs, distances, strict=True)
            ]
            print(jsonlib.dumps({"metric": self.metric, "pairs": rows, "unmatched": found.unmatched}, indent=2))
        elif len(distances) == 1:
            print(f"{distances[0]:.6f}")
        else:
            for label, distance in zip(found.labels, distances, strict=True):
                print(f"{distance:.6f}  {label}")
            if found.labels != [str(b) for _, b in found.pairs]:
                print(f"{sum(distances) / len(distances):.6f}  mean of {len(distances)}")
        return 0


@dataclass(frozen=True)
class Recipes:
    """List the recipes with the first line of their documentation."""

    def __call__(self) -> int:
        found = registry.recipes()
        width = max(map(len, found), default=0)
        for name, function in found.items():
            print(f"{name:{width}}  {(function.__doc__ or '').strip().splitlines()[0]}")
        return 0


@dataclass(frozen=True)
class Show:
    """Print a recipe: its function, then every field with its type and value."""

    recipe: Positional[str]
    """A name, a file .py or a run folder."""

    def __call__(self) -> int:
        recipe = registry.load(self.recipe)
        print(f"# {recipe.path}\n{registry.function_source(recipe)}\n")
        leaves = fields.known_fields(recipe.config)
        names, types = max(map(len, leaves), default=0), max((len(leaf.type) for leaf in leaves.values()), default=0)
        for name, leaf in leaves.items():
            print(f"{name:{names}}  {leaf.type:{types}}  {leaf.value}")
        return 0


@dataclass(frozen=True)
class Copy:
    """Write a recipe to a file of your own, to edit and run."""

    recipe: Positional[str]
    """A name, or a run folder."""
    to: Path | None = None
    """The file; by default the recipe's name with .py, here. It must not exist."""

    def __call__(self) -> int:
        recipe = registry.load(self.recipe)
        to = Path(f"{recipe.name.replace('-', '_')}.py") if self.to is None else self.to
        to = to / f"{recipe.name.replace('-', '_')}.py" if to.is_dir() else to
        if to.suffix != ".py":
            raise ValueError(f"'{to}' must end in .py to be found as a recipe file.")
        if to.exists():
            raise ValueError(f"'{to}' exists already; give another file with --to.")
        to.parent.mkdir(parents=True, exist_ok=True)
        with to.open("x", encoding="utf-8") as file:
            file.write(recipe.source)
        print(f"{to}: edit it, then `dreamsim-guidance run {to}:{recipe.name}`")
        return 0


@dataclass(frozen=True)
class Run:
    """Run a recipe, with fields replaced: `run reconstruct-photo steps=100 --seed 1`.

    Each run has a folder: the resolved recipe, its source, versions, log, results, pictures. Giving such a folder as
    the recipe runs it again in a new one. `run NAME --help` lists the fields.
    """

    recipe: Positional[str]
    """A name, a file .py (or file.py:name), or the folder of an earlier run."""
    folder: Path | None = None
    """Folder of this run; by default runs/NAME-TIME. The same recipe, interrupted there, is resumed."""
    resume: bool = False
    """Go on in the run folder that is given as the recipe."""

    def __call__(self, words: Sequence[str] = ()) -> int:
        from dreamsim_guidance.experiment.runner import new_folder
        from dreamsim_guidance.processes import is_main

        recipe = registry.load(self.recipe)
        if self.resume:
            if not (Path(self.recipe) / "recipe.json").is_file():
                raise ValueError(f"--resume needs the folder of an earlier run, got '{self.recipe}'.")
            if words or self.folder is not None:
                raise ValueError("--resume goes on with the same fields in the same folder; leave the others out.")
            folder = Path(self.recipe)
        else:
            recipe = _overridden(recipe, words)
            folder = new_folder(recipe.name) if self.folder is None else self.folder
        code, results = execute(recipe, folder)
        if code == 0 and is_main():  # one of several processes tells
            print(jsonlib.dumps(results, indent=2))
            print(f"run folder: {folder}", file=sys.stderr)
        return code


@dataclass(frozen=True)
class Version:
    """Print the versions of this package and of what it stands on."""

    def __call__(self) -> int:
        import platform
        from importlib.metadata import PackageNotFoundError, version

        for name in ("dreamsim-guidance", "torch", "timm", "peft"):
            try:
                print(name, version(name))
            except PackageNotFoundError:
                print(name, "not installed")
        print("python", platform.python_version())
        return 0


_Command = (
    Annotated[Demo, subcommand("demo")]
    | Annotated[Guide, subcommand("guide")]
    | Annotated[Compare, subcommand("compare")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Study, subcommand("study")]
    | Annotated[Data, subcommand("data")]
    | Annotated[Recipes, subcommand("recipes")]
    | Annotated[Show, subcommand("show")]
    | Annotated[Copy, subcommand("copy")]
    | Annotated[Run, subcommand("run")]
    | Annotated[Version, subcommand("version")]
)


def _dispatch(words: list[str]) -> int:
    if words == ["--version"]:
        words = ["version"]
    if words[:2] == ["evaluate", "reconstructions"]:
        return reconstructions.main(words[2:])
    of = {"demo": "guide-pocket" if "guided" in words else "reconstruct-photo"}.get(words[0]) if words else None
    if words[:1] == ["run"] and len(words) > 1 and not words[1].startswith("-"):
        of = words[1]
    if of and {"-h", "--help"} & set(words):
        fields.print_help(registry.load(of).config, f"dreamsim-guidance run {of}")
        words = [words[0], "--help"]
    parsed: Any = tyro.cli(
        _Command,  # type: ignore[arg-type]
        args=words,
        prog="dreamsim-guidance",
        description="DreamSim as a metric and as a differentiable loss.",
        return_unknown_args=True,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    command, unknown = parsed
    if isinstance(command, Demo | Run):
        return command(unknown)
    if unknown:
        raise ValueError(f"unknown options: {' '.join(unknown)}; see `dreamsim-guidance {words[0]} --help`.")
    return command()


def _overridden(recipe: registry.Recipe, words: Sequence[str]) -> registry.Recipe:
    return replace(recipe, config=fields.override(recipe.config, words))

"""The console script `dreamsim-guidance`: finds the command, runs it, and reports errors.

A command is a dataclass whose fields are its options, parsed by tyro; calling it does the work and returns the exit code.
`demo`, `guide`, `invert` and `run` also pass on words that are no options of their own: fields of a recipe, `steps=100` or
`--steps 100`. A mistake of the user is one line on stderr and exit code 2, an interrupt is 130; `--debug`, anywhere, adds
the traceback. Results go to stdout, everything else to stderr. Commands import torch when they need it, so that `--help`,
`recipes`, `show` and `copy` answer quickly.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any, Union

from tyro.conf import subcommand

from dreamsim_guidance.cli import reconstructions
from dreamsim_guidance.cli.compare import CompareCommand
from dreamsim_guidance.cli.consistency import ConsistencyCommand
from dreamsim_guidance.cli.copy import CopyCommand
from dreamsim_guidance.cli.data import DataCommand
from dreamsim_guidance.cli.demo import PARTS, DemoCommand
from dreamsim_guidance.cli.diversity import DiversityCommand
from dreamsim_guidance.cli.duplicates import DuplicatesCommand
from dreamsim_guidance.cli.embed import EmbedCommand
from dreamsim_guidance.cli.evaluate import EvaluateCommand
from dreamsim_guidance.cli.fiftyone import FiftyOneCommand
from dreamsim_guidance.cli.generate import GenerateCommand
from dreamsim_guidance.cli.guide import GuideCommand
from dreamsim_guidance.cli.invert import InvertCommand
from dreamsim_guidance.cli.matrix import MatrixCommand
from dreamsim_guidance.cli.parsing import parse
from dreamsim_guidance.cli.recipes import RecipesCommand
from dreamsim_guidance.cli.run import RunCommand
from dreamsim_guidance.cli.search import SearchCommand
from dreamsim_guidance.cli.sensitivity import SensitivityCommand
from dreamsim_guidance.cli.show import ShowCommand
from dreamsim_guidance.cli.study import StudyCommand
from dreamsim_guidance.cli.version import VersionCommand
from dreamsim_guidance.comparisons.guided_sheet import GuidedSheet
from dreamsim_guidance.comparisons.inversion_sheet import InversionSheet
from dreamsim_guidance.experiment import fields, registry
from dreamsim_guidance.files.names import suggestion

__all__ = ["main"]

COMMANDS: dict[str, type] = {
    "demo": DemoCommand,
    "guide": GuideCommand,
    "invert": InvertCommand,
    "compare": CompareCommand,
    "generate": GenerateCommand,
    "embed": EmbedCommand,
    "search": SearchCommand,
    "matrix": MatrixCommand,
    "duplicates": DuplicatesCommand,
    "diversity": DiversityCommand,
    "consistency": ConsistencyCommand,
    "evaluate": EvaluateCommand,
    "sensitivity": SensitivityCommand,
    "study": StudyCommand,
    "fiftyone": FiftyOneCommand,
    "data": DataCommand,
    "recipes": RecipesCommand,
    "show": ShowCommand,
    "copy": CopyCommand,
    "run": RunCommand,
    "version": VersionCommand,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 for a mistake in the arguments, 130 when interrupted.

    arguments: the words after the program's name; by default those of `sys.argv`.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    _print_every_character()
    try:
        return _dispatch([word for word in words if word != "--debug"])
    except SystemExit as stop:  # tyro's, after help
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


def _print_every_character() -> None:
    """Print characters that the output's encoding lacks as escapes, so that results are not lost to an error at the end."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _dispatch(words: list[str]) -> int:
    if words == ["--version"]:
        words = ["version"]
    if words[:2] == ["evaluate", "reconstructions"]:
        return reconstructions.main(words[2:])
    if {"-h", "--help"} & set(words) and (config := _config_of(words)) is not None:
        fields.print_help(config, f"dreamsim-guidance {' '.join(words[:2] if words[0] == 'run' else words[:1])}")
        words = [words[0], "--help"]
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        raise ValueError(f"unknown command '{words[0]}'{suggestion(words[0], COMMANDS)}; known: {', '.join(COMMANDS)}.")
    kind = Union[tuple(Annotated[kind, subcommand(name)] for name, kind in COMMANDS.items())]  # type: ignore[misc]  # noqa: UP007
    command, unknown = parse(kind, words, "dreamsim-guidance", "DreamSim as a metric and as a differentiable loss.")
    if isinstance(command, DemoCommand | GuideCommand | InvertCommand | RunCommand):
        return command(unknown)
    if unknown:
        raise ValueError(f"unknown options: {' '.join(unknown)}; see `dreamsim-guidance {words[0]} --help`.")
    return command()


def _config_of(words: Sequence[str]) -> Any:
    """The dataclass whose fields the command takes beside its own options; None if there is none."""
    command, *rest = words
    if command == "demo":
        part = next((part for part in PARTS if part in rest), "reconstruction")
        return registry.load(PARTS[part][0]).config
    if command == "guide":
        return GuidedSheet()
    if command == "invert":
        return InversionSheet()
    if command == "run" and rest and not rest[0].startswith("-"):
        return registry.load(rest[0]).config
    return None

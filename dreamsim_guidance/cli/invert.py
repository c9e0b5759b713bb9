"""The command `invert`: what makes a generator produce a photograph, as a sheet with numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dreamsim_guidance.cli.execution import execute, print_table
from dreamsim_guidance.cli.recipe_source import recipe_source
from dreamsim_guidance.comparisons.inversion_sheet import InversionSheet
from dreamsim_guidance.experiment.fields import override
from dreamsim_guidance.experiment.registry import Recipe

__all__ = ["InvertCommand", "invert_recipe"]


@dataclass(frozen=True)
class InvertCommand:
    """Find what makes a generator produce a picture: `invert photo.png --through vae --model FOLDER`.

    Writes a sheet of target, start, result and floor, every picture, the leaves, and the distances of held-out judges.
    Without a picture, one that ships with the package is inverted. `--loss` is another name of `--metric`.
    """

    to: Path = Path("inversion")
    """Folder of the pictures, the numbers and the record of the run; an earlier result of this command in it is replaced."""

    def __call__(self, words: Sequence[str] = ()) -> int:
        named = ["--metric" + word.removeprefix("--loss") if _is_loss(word) else word for word in words]
        sheet = override(InversionSheet(), _with_image_named(named))
        code, results = execute(invert_recipe(sheet), self.to, replace=True)
        if code == 0:
            print_table(results["distances"])
            print((self.to / "sheet.png").as_posix())
        return code


def _is_loss(word: str) -> bool:
    return word == "--loss" or word.startswith("--loss=")


def _with_image_named(words: Sequence[str]) -> list[str]:
    """The words with `--image` before the one that neither is nor follows an option, the picture."""
    named = list(words)
    for i, word in enumerate(words):
        bare = not word.startswith("-") and "=" not in word
        if bare and (i == 0 or not words[i - 1].startswith("--")):
            named.insert(i, "--image")
            break
    return named


def invert_recipe(sheet: InversionSheet) -> Recipe:
    """A recipe of this sheet. Raises FileNotFoundError if the picture is missing."""
    if sheet.image is not None and not sheet.image.is_file():
        raise FileNotFoundError(f"image not found: '{sheet.image}'; give the path of a picture (png, jpg, webp, ...).")
    source = recipe_source(sheet, "invert", "Invert a picture, with the options that the command was given.")
    return Recipe("invert", sheet, source, Path("invert.py"), "invert")

"""The command `guide`: samples of a diffusion model that look like a picture, and unguided ones of the same seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dreamsim_guidance.cli.execution import execute, print_table
from dreamsim_guidance.cli.recipe_source import recipe_source
from dreamsim_guidance.comparisons.guided_sheet import GuidedSheet
from dreamsim_guidance.experiment.fields import override
from dreamsim_guidance.experiment.registry import Recipe

__all__ = ["GuideCommand", "guide_recipe", "print_distances"]


@dataclass(frozen=True)
class GuideCommand:
    """Guide a diffusion model to a reference picture, and show the result beside unguided samples of the same seeds.

    Writes a sheet of both, every image, the distances of the guide and of held-out judges, and a plot of the steps.
    """

    to: Path = Path("guided")
    """Folder of the pictures, the numbers and the record of the run; an earlier result of this command in it is replaced."""

    def __call__(self, words: Sequence[str] = ()) -> int:
        code, results = execute(guide_recipe(override(GuidedSheet(), words)), self.to, replace=True)
        if code == 0:
            print_distances(results)
            print((self.to / "sheet.png").as_posix())
        return code


def print_distances(results: Mapping[str, Any]) -> None:
    """Print the mean distances of a guided sheet, and whether the guide improved where a judge did not."""
    print_table(results["distances"])
    if results["parted"]:
        print(
            f"The guide and {', '.join(results['parted'])} have parted: part of the gain is adversarial. Less --strength, "
            "more --views, or --until may help."
        )


def guide_recipe(sheet: GuidedSheet) -> Recipe:
    """A recipe of this sheet. Raises ValueError and FileNotFoundError for mistakes that can be found before the run."""
    from dreamsim_guidance.generation import named_models

    model = named_models.find(sheet.model, sheet.prompt)
    if not sheet.reference and not model.pocket:
        raise ValueError("a reference is needed: --reference PICTURE, which the samples should look like.")
    if not model.pocket:
        named_models.check_reachable(model.source)
    for path in (*sheet.reference, sheet.mask, sheet.init):
        if path is not None and not path.is_file():
            raise FileNotFoundError(f"image not found: '{path}'; give the path of a picture (png, jpg, webp, ...).")
    if Path(sheet.model).is_dir():
        sheet = replace(sheet, model=str(Path(sheet.model).absolute()))  # the run folder can be run again from anywhere
    source = recipe_source(
        sheet, "guide", "Guide a diffusion model to a reference picture, with the command's options."
    )
    return Recipe("guide", sheet, source, Path("guide.py"), "guide")

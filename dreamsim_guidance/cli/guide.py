"""The command `guide`: samples of a diffusion model that look like a picture, beside what it makes without guidance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dreamsim_guidance.cli.execution import execute, print_table
from dreamsim_guidance.comparisons import guided_sheet as recipes
from dreamsim_guidance.experiment import registry

__all__ = ["Guide", "tell"]


@dataclass(frozen=True)
class Guide(recipes.GuidedSheet):
    """Guide a diffusion model to a reference picture, and show it beside what it makes without, from the same seeds.

    Writes a sheet of both, every image, the distances of guide and held-out judges, and a plot of the steps.
    """

    to: Path = Path("guided")
    """Folder of the pictures, the numbers and the record of the run; an earlier result of this command there is replaced."""

    def __post_init__(self) -> None:
        """The fields are checked when they become a recipe, where a mistake is told in one line."""

    def __call__(self) -> int:
        code, results = execute(_recipe(self), self.to, replace=True)
        if code == 0:
            tell(results)
            print(self.to / "sheet.png")
        return code


def tell(results: Mapping[str, Any]) -> None:
    """Print the mean distances, and whether guide and judges part."""
    print_table(results["distances"])
    if results["parted"]:
        print(
            f"The guide and {', '.join(results['parted'])} have parted: part of the gain is adversarial. Less --strength, "
            "more --views, or --until may help."
        )


def _recipe(command: Guide) -> registry.Recipe:
    """The command as a recipe, to be run in a folder. Raises `ValueError` for what can be seen to be wrong before."""
    from dreamsim_guidance.comparisons import guided_models

    model = guided_models.find(command.model, command.prompt)
    if not command.reference and not model.pocket:
        raise ValueError("a reference is needed: --reference PICTURE, what the samples shall look like.")
    if not model.pocket:
        guided_models.check_reachable(model.source)
    for path in (*command.reference, command.mask, command.init):
        if path is not None and not path.is_file():
            raise FileNotFoundError(f"image not found: '{path}'; give the path of a picture (png, jpg, webp, ...).")
    given: dict[str, Any] = {field.name: getattr(command, field.name) for field in fields(recipes.GuidedSheet)}
    if Path(command.model).is_dir():
        given["model"] = str(Path(command.model).absolute())  # the run folder can be run again from anywhere
    source = Path(recipes.__file__)
    text = source.read_text(encoding="utf-8")
    return registry.Recipe("guide", recipes.GuidedSheet(**given), text, source, recipes.__name__)

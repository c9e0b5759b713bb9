"""The command `show`: a recipe's source and its fields."""

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import Positional

from dreamsim_guidance.experiment import fields, registry

__all__ = ["ShowCommand"]


@dataclass(frozen=True)
class ShowCommand:
    """Print a recipe: its function, then every field with its type and value."""

    recipe: Positional[str]
    """A name, a .py file or a run folder."""

    def __call__(self) -> int:
        recipe = registry.load(self.recipe)
        print(f"# {recipe.path.as_posix()}\n{registry.function_source(recipe)}\n")
        all_fields = fields.known_fields(recipe.config)
        names, types = (
            max(map(len, all_fields), default=0),
            max((len(field.type) for field in all_fields.values()), default=0),
        )
        for name, field in all_fields.items():
            print(f"{name:{names}}  {field.type:{types}}  {field.value}")
        return 0

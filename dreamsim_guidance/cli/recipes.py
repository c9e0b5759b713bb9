"""The command `recipes`: a list of what can be run."""

from __future__ import annotations

from dataclasses import dataclass

from dreamsim_guidance.experiment import registry

__all__ = ["RecipesCommand"]


@dataclass(frozen=True)
class RecipesCommand:
    """List the recipes with the first line of their documentation."""

    def __call__(self) -> int:
        functions = registry.recipes()
        width = max(map(len, functions), default=0)
        for name, function in functions.items():
            summary = (function.__doc__ or "").strip().partition("\n")[0]  # python -OO leaves no docstrings
            print(f"{name:{width}}  {summary}".rstrip())
        return 0

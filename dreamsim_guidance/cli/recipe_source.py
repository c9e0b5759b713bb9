"""The source of a recipe that does what a command was asked for, for the run folder and for `dreamsim-guidance copy`."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

__all__ = ["recipe_source"]


def recipe_source(settings: Any, name: str, summary: str) -> str:
    """A recipe file whose function `name` returns these settings, a dataclass with defaults; those are left out.

    summary: the docstring of the function.
    """
    kind = type(settings)
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    changed = {key: value for key, value in values.items() if value != getattr(kind(), key)}
    arguments = "".join(f"        {key}={_literal(value)},\n" for key, value in changed.items())
    return f'''"""As the command `dreamsim-guidance {name}` was called."""

from pathlib import Path

from {kind.__module__} import {kind.__name__}
from dreamsim_guidance.experiment.registry import recipe


@recipe
def {name}() -> {kind.__name__}:
    """{summary}"""
    return {kind.__name__}(
{arguments}    )
'''


def _literal(value: Any) -> str:
    """Python text of a field's value."""
    if isinstance(value, Path):
        return f"Path({str(value.expanduser().absolute())!r})"
    if isinstance(value, tuple):
        return f"({', '.join(map(_literal, value))}{',' if len(value) == 1 else ''})"
    return repr(value)

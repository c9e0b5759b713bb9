"""A section of `api/methods.md` for every guidance method, so that a new method needs no line there.

A section has the docstring of the method's file (equation and paper) and the class with its fields. The page marks the place
with the comment `sections of all guidance methods`.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

PAGE, MARK = "api/methods", "<!-- sections of all guidance methods -->"


def method_classes() -> list[type]:
    """The guidance methods that `dreamsim_guidance.guidance` exports, by name."""
    from dreamsim_guidance import guidance

    exported = [getattr(guidance, name) for name in guidance.__all__]
    return sorted(
        (value for value in exported if _is_method(value) and value is not guidance.Method),
        key=lambda kind: kind.__name__,
    )


def section(kind: type) -> str:
    """The MyST text of one method's section."""
    return f"""## {kind.__name__}

```{{eval-rst}}
.. automodule:: {kind.__module__}

.. autoclass:: dreamsim_guidance.guidance.{kind.__name__}
```
"""


def _is_method(value: Any) -> bool:
    from dreamsim_guidance.guidance import Method

    return inspect.isclass(value) and issubclass(value, Method)


def _fill(app: Sphinx, page: str, source: list[str]) -> None:
    if page == PAGE:
        source[0] = source[0].replace(MARK, "\n".join(map(section, method_classes())))


def _skip(app: Sphinx, what: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
    """Leave methods out of the page of their room: they have their own."""
    return True if what == "module" and _is_method(value) else None


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", _fill)
    app.connect("autodoc-skip-member", _skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""Replace fields of a recipe by words of the command line.

    steps=400   --steps 400   optimiser.lr=0.1   --optimiser.betas 0.9 0.999   sizes=32,64   image=None   --compile

`field=value` is rewritten as the option `--field value` first; tyro then makes each value from its words by the field's
type. Fields of nested dataclasses have dotted names. A part that is None (`augmentation: Augmentation | None = None`) is
created with its defaults when one of its fields is set, and removed by `augmentation=None`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from dreamsim_guidance.files.names import suggestion

__all__ = ["Field", "known_fields", "override", "print_help"]


@dataclasses.dataclass(frozen=True)
class Field:
    """A field that holds no further fields: its type annotation and its present value."""

    hint: Any
    value: Any

    @property
    def type(self) -> str:
        """The type as users read it, for example `tuple[int, ...]` or `one of 'slow', 'fast'`."""
        if typing.get_origin(self.hint) is typing.Literal:
            return "one of " + ", ".join(map(repr, typing.get_args(self.hint)))
        if isinstance(self.hint, type) and not typing.get_args(self.hint):
            return self.hint.__name__
        return re.sub(r"\b[\w.]+\.", "", str(self.hint))

    @property
    def optional_part(self) -> Any:
        """The dataclass of a field that holds an instance of it or None; else None."""
        kinds = typing.get_args(self.hint)
        parts = [kind for kind in kinds if dataclasses.is_dataclass(kind)]
        return parts[0] if type(None) in kinds and len(parts) == 1 else None

    @property
    def accepts_many(self) -> bool:
        """Whether a value is made of several words, as that of a tuple."""
        spec = self._constructor()
        return spec is not None and spec.nargs != 1

    def parse(self, words: Sequence[str]) -> Any:
        """The value that `words` stand for. Raises ValueError if they do not fit the type."""
        if self.optional_part is not None and list(words) == ["None"]:
            return None
        spec = self._constructor()
        if spec is None:
            raise ValueError("a value of this type cannot be made from words")
        if spec.nargs == 1:
            (word,) = words
            boolean = self.hint is bool or bool in typing.get_args(self.hint)
            words = [word.capitalize()] if boolean and word.lower() in ("true", "false") else [word]
        elif len(words) == 1 and not ("," not in words[0] and Path in typing.get_args(self.hint)):
            words = [word for word in re.split(r"\s*,\s*", words[0].strip("()[] ")) if word]
        if spec.choices is not None and not set(words) <= set(spec.choices):
            raise ValueError(f"it must be one of {', '.join(spec.choices)}")
        return spec.instance_from_str(list(words))

    def default_part(self) -> Any:
        """The value, or a new instance in its defaults where the field may hold a dataclass and is None."""
        return self.optional_part() if self.value is None and self.optional_part is not None else self.value

    def _constructor(self) -> PrimitiveConstructorSpec[Any] | None:
        """tyro's rule for the type; None for a type that tyro cannot make from words."""
        spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(self.hint, set()))
        return spec if isinstance(spec, PrimitiveConstructorSpec) else None


def known_fields(config: Any, prefix: str = "") -> dict[str, Field]:
    """The fields of a dataclass instance and of the dataclasses in it, by their dotted names."""
    fields: dict[str, Field] = {}
    for name, field in _fields_of(config):
        if _holds_fields(field.value):
            fields.update(known_fields(field.value, f"{prefix}{name}."))
        else:
            fields[prefix + name] = field
    return fields


def override(config: Any, words: Sequence[str]) -> Any:
    """`config` with the fields replaced that `words` name; `config` itself if there are none.

    config: a frozen dataclass, with dataclasses or tuples of dataclasses in it.
    words: `field=value`, `--field=value`, `--field value ...`, or `--field` alone for a boolean that becomes True. The
        items of a tuple stand in one word, separated by commas, or follow as words. The last value of a field counts.

    Raises ValueError for an unknown field or a missing value, TypeError for a value of the wrong type, and what the
    dataclasses raise for values that do not go together.
    """
    values: dict[str, Any] = {}
    for name, texts in _by_field(config, words).items():
        field = _find(config, name)
        try:
            values[name] = field.parse(texts)
        except ValueError as error:
            raise TypeError(
                f"field {name} must be {field.type}, got '{' '.join(texts)}' (now {name}={field.value})."
            ) from error
    for name, value in values.items():
        inner = next((other for other in values if other.startswith(f"{name}.")), None)
        if value is None and inner is not None:
            raise ValueError(f"{name}=None leaves out what {inner} sets; give one of them.")
    return _replaced(config, values) if values else config


def print_help(config: Any, program: str) -> None:
    """Print the fields of a recipe with their types, defaults and documentation, as options of `program`."""
    style = (tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands)
    with contextlib.suppress(SystemExit):  # tyro ends the program after help
        tyro.cli(type(config), default=config, args=["--help"], prog=program, config=style)


def _by_field(config: Any, words: Sequence[str]) -> dict[str, list[str]]:
    """The texts given to each field; the last ones of a field that was given twice."""
    texts: dict[str, list[str]] = {}
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        name, equals, text = word.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not equals and not word.startswith("--"):
            available = known_fields(config)
            hint = (
                f"; write {name}=VALUE" if name in available else f"{suggestion(name, available)}; {_listed(available)}"
            )
            raise ValueError(f"'{word}' is not field=value{hint}.")
        field = _find(config, name)
        values = [text] if equals else []
        while not equals and remaining and not remaining[0].startswith("--"):
            if values and (not field.accepts_many or _sets_a_field(config, remaining[0])):
                break
            values.append(remaining.pop(0))
        if not values and field.hint is bool:
            values = ["True"]
        if not values and not field.accepts_many:
            raise ValueError(f"field {name} needs a value of type {field.type}.")
        texts[name] = values
    return texts


def _find(config: Any, name: str) -> Field:
    """The field of this dotted name. Raises ValueError for an unknown one, which lists those that exist."""
    field, available = Field(type(config), config), known_fields(config)
    reached = ""
    for part in name.split("."):
        value = field.default_part()
        inner = dict(_fields_of(value)) if _holds_fields(value) else {}
        available = {**available, **(known_fields(value, reached) if inner else {})}
        if part not in inner:
            raise ValueError(f"unknown field '{name}'{suggestion(name, available)}; {_listed(available)}.")
        field, reached = inner[part], f"{reached}{part}."
    if _holds_fields(field.value) and field.optional_part is None:
        raise ValueError(f"'{name}' holds fields of its own; {_listed(known_fields(field.value, reached))}.")
    return field


def _replaced(value: Any, changes: Mapping[str, Any]) -> Any:
    """`value`, a dataclass or a tuple of dataclasses, with the changes by dotted name."""
    new_values = {name: new for name, new in changes.items() if "." not in name}
    fields = dict(_fields_of(value))
    for part in dict.fromkeys(name.partition(".")[0] for name in changes if "." in name):
        inner = {name.partition(".")[2]: new for name, new in changes.items() if name.startswith(f"{part}.")}
        new_values[part] = _replaced(fields[part].default_part(), inner)
    if isinstance(value, tuple):
        return tuple(new_values.get(str(i), item) for i, item in enumerate(value))
    return dataclasses.replace(value, **new_values)


def _fields_of(value: Any) -> Iterator[tuple[str, Field]]:
    """Name and field of what a dataclass takes, or number and item of a tuple of dataclasses."""
    if isinstance(value, tuple):
        yield from ((str(i), Field(type(item), item)) for i, item in enumerate(value))
        return
    hints = typing.get_type_hints(type(value))
    for field in dataclasses.fields(value):
        if field.init:
            yield field.name, Field(hints.get(field.name, Any), getattr(value, field.name))


def _holds_fields(value: Any) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(map(_holds_fields, value))
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _sets_a_field(config: Any, word: str) -> bool:
    """Whether the word is `field=value`, and not a value with "=" in it."""
    name, equals, _ = word.partition("=")
    return bool(equals) and name.replace("-", "_") in known_fields(config)


def _listed(available: Mapping[str, Field]) -> str:
    return f"known fields: {', '.join(available) or 'none'}"

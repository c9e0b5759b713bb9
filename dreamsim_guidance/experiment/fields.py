"""Overriding the fields of a recipe from the command line, with typed errors.

    steps=400   --steps 400   optimiser.lr=0.1   --optimiser.betas 0.9 0.999   sizes=32,64   image=None

The words are brought into one form here; types are tyro's work.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import typing
from collections.abc import Sequence
from typing import Any

import tyro

from dreamsim_guidance.experiment.registry import suggestion

__all__ = ["known_fields", "override", "print_help"]

_STYLE = (tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands)


@dataclasses.dataclass(frozen=True)
class Field:
    """One leaf of the nested dataclasses: its type as written, its value, whether several words make up its value."""

    type: str
    value: Any
    hint: Any

    @property
    def many(self) -> bool:
        return any(
            typing.get_origin(hint) in (tuple, list) or hint in (tuple, list)
            for hint in (self.hint, *typing.get_args(self.hint))
        )


def known_fields(config: Any, prefix: str = "") -> dict[str, Field]:
    """The leaves of a recipe by their dotted names."""
    hints = typing.get_type_hints(type(config))
    found: dict[str, Field] = {}
    for field in dataclasses.fields(config):
        name, value, hint = prefix + field.name, getattr(config, field.name), hints.get(field.name, Any)
        if not field.init:
            continue
        if _is_instance(value):
            found.update(known_fields(value, f"{name}."))
        elif isinstance(value, tuple) and value and all(_is_instance(item) for item in value):
            for i, item in enumerate(value):
                found.update(known_fields(item, f"{name}.{i}."))
        else:
            found[name] = Field(_name(hint), value, hint)
    return found


def override(config: Any, words: Sequence[str]) -> Any:
    """`config` with fields replaced. Raises ValueError for an unknown field, TypeError for a value of a wrong type."""
    words, left_out = _without(config, words)
    for name in dict.fromkeys(re.split(r"[=\s]", word.removeprefix("--"))[0].replace("-", "_") for word in words):
        config = _with_part(config, name)
    known = known_fields(config)
    given = _split(words, known)
    if not given:
        return _leave_out(config, left_out)
    arguments = {name: _argument(name, values, known[name]) for name, values in given.items()}
    changed, message = _parse(config, [word for argument in arguments.values() for word in argument])
    if message is None:
        return _leave_out(changed, left_out)
    if own := re.search(r"Error parsing (?!--)\S+: (.*?)( For full helptext.*)?$", message):
        raise ValueError(own[1])  # what the recipe's own __post_init__ says
    for name, argument in arguments.items():
        if _parse(config, argument)[1] is not None:
            got = " ".join(given[name])
            raise TypeError(f"field {name} must be {known[name].type}, got '{got}' (now {name}={known[name].value}).")
    raise ValueError(message)


def _without(config: Any, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Words such as `lora=None`, where `lora` is a dataclass that may be None, apart from the others."""
    rest, names = [], []
    for word in words:
        name, _, value = word.removeprefix("--").partition("=")
        if value == "None" and _optional_part(config, name) is not None:
            names.append(name)
        else:
            rest.append(word)
    return rest, names


def _leave_out(config: Any, names: Sequence[str]) -> Any:
    return dataclasses.replace(config, **dict.fromkeys(names)) if names else config


def _with_part(config: Any, name: str) -> Any:
    """`config` with the dataclass before the dot, if it is None there, in its defaults: for `augmentation.crop=0.8`."""
    part, dot, _ = name.partition(".")
    kind = _optional_part(config, part) if dot else None
    if kind is None or getattr(config, part) is not None:
        return config
    return dataclasses.replace(config, **{part: kind()})


def _optional_part(config: Any, name: str) -> Any:
    """The dataclass of a field that holds one or None; else None."""
    hint = typing.get_type_hints(type(config)).get(name)
    kinds = typing.get_args(hint)
    found = [kind for kind in kinds if dataclasses.is_dataclass(kind)]
    return found[0] if type(None) in kinds and len(found) == 1 else None


def print_help(config: Any, program: str) -> None:
    """Print the fields with their types, defaults and documentation."""
    with contextlib.suppress(SystemExit):
        tyro.cli(type(config), default=config, args=["--help"], prog=program, config=_STYLE)


def _split(words: Sequence[str], known: dict[str, Field]) -> dict[str, list[str]]:
    """`field=value` and `--field value ...` as {field: values}; a field given twice has its last value."""
    given: dict[str, list[str]] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not equals and not word.startswith("--"):
            raise ValueError(f"'{word}' is not field=value{suggestion(name, known)}; known fields: {_list(known)}.")
        name = name.replace("-", "_")
        if name not in known:
            raise ValueError(f"unknown field '{name}'{suggestion(name, known)}; known fields: {_list(known)}.")
        field, values = known[name], [value] if equals else []
        while not equals and rest and not rest[0].startswith("--"):
            if values and (not field.many or _is_field(rest[0])):
                break
            values.append(rest.pop(0))
        if not values and not field.many:
            raise ValueError(f"field {name} needs a value of type {field.type}.")
        given[name] = values
    return given


def _argument(name: str, values: list[str], field: Field) -> list[str]:
    if field.many:
        words = values if len(values) > 1 else re.split(r"\s*,\s*", values[0].strip("()[] ")) if values else []
        words = [word for word in words if word]
        return [f"--{name}", *words]
    value = values[0]
    if field.hint is bool and value.lower() in ("true", "false"):
        value = value.capitalize()
    return [f"--{name}={value}"]


def _parse(config: Any, arguments: list[str]) -> tuple[Any, str | None]:
    """The new config, or why there is none."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(type(config), default=config, args=arguments, config=_STYLE), None
    except SystemExit:
        return None, " ".join(re.sub(r"[─│╭╮╰╯]", " ", said.getvalue()).split())


def _is_field(word: str) -> bool:
    return re.match(r"[A-Za-z_][\w.]*=", word) is not None


def _is_instance(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _list(known: dict[str, Field]) -> str:
    return ", ".join(known) or "none"


def _name(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    return (
        hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else re.sub(r"\b[\w.]+\.", "", str(hint))
    )

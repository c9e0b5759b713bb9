from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from dreamsim_guidance.experiment.fields import known_fields, override


@dataclass(frozen=True)
class Adam:
    lr: float = 0.1
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass(frozen=True)
class Work:
    steps: int = 3
    optimiser: Adam = field(default_factory=Adam)
    sizes: tuple[int, ...] = (1, 2)
    mode: Literal["slow", "fast"] = "slow"
    flag: bool = True
    image: Path | None = None
    name: str = "x"
    stages: tuple[Adam, ...] = (Adam(), Adam(lr=0.2))


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["steps=5"], "steps", 5),
        (["--steps", "5"], "steps", 5),
        (["--steps=-5"], "steps", -5),
        (["--steps", "-5"], "steps", -5),
        (["steps=4", "steps=6"], "steps", 6),
        (["sizes=4,5,6"], "sizes", (4, 5, 6)),
        (["--sizes", "4", "5", "6"], "sizes", (4, 5, 6)),
        (["--sizes", "4", "5", "steps=3"], "sizes", (4, 5)),
        (["sizes=(7, 8)"], "sizes", (7, 8)),
        (["--sizes"], "sizes", ()),
        (["mode=fast"], "mode", "fast"),
        (["flag=false"], "flag", False),
        (["--flag", "False"], "flag", False),
        (["image=a b.png"], "image", Path("a b.png")),
        (["image=None"], "image", None),
        (["name=--a=b"], "name", "--a=b"),
        (["name="], "name", ""),
    ],
)
def test_fields_are_overridden_by_words(words: list[str], name: str, value: Any) -> None:
    changed = getattr(override(Work(), words), name)
    assert changed == value and type(changed) is type(value)


def test_nested_fields_have_dotted_names() -> None:
    work = override(Work(optimiser=Adam(lr=7.0)), ["--optimiser.betas", "0.5", "0.6", "stages.1.lr=9"])
    assert work.optimiser == Adam(lr=7.0, betas=(0.5, 0.6))
    assert work.stages == (Adam(), Adam(lr=9.0))


def test_dashes_in_a_name_are_underscores() -> None:
    @dataclass(frozen=True)
    class Dashed:
        batch_size: int = 1

    assert override(Dashed(), ["--batch-size", "2"]).batch_size == 2


def test_nothing_given_changes_nothing() -> None:
    work = Work()
    assert override(work, []) is work


def test_an_unknown_field_lists_the_known_ones() -> None:
    known = ", ".join(known_fields(Work()))
    assert known.startswith("steps, optimiser.lr, optimiser.betas, sizes")
    with pytest.raises(ValueError, match="unknown field 'stepps'") as caught:
        override(Work(), ["stepps=3"])
    assert str(caught.value) == f"unknown field 'stepps' (did you mean 'steps'?); known fields: {known}."


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["steps=many"], r"field steps must be int, got 'many' \(now steps=3\)"),
        (["steps=1.5"], "field steps must be int, got '1.5'"),
        (["optimiser.lr=high"], "field optimiser.lr must be float, got 'high'"),
        (["sizes=1,a"], r"field sizes must be tuple\[int, \.\.\.\], got '1,a'"),
        (["optimiser.betas=1"], r"field optimiser.betas must be tuple\[float, float\], got '1'"),
        (["mode=quick"], "field mode must be one of 'slow', 'fast', got 'quick'"),
        (["flag=perhaps"], "field flag must be bool, got 'perhaps'"),
        (["name=x", "steps=y"], "field steps must be int, got 'y'"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        override(Work(), words)


def test_a_word_alone_and_a_field_without_value_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'steps' is not field=value \(did you mean 'steps'\?\)"):
        override(Work(), ["steps"])
    with pytest.raises(ValueError, match="field steps needs a value of type int"):
        override(Work(), ["--steps"])


@dataclass(frozen=True)
class Strict:
    steps: int = 3
    names: tuple[str, ...] = ("a",)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError("steps must be at least 1.")


def test_a_recipes_own_objection_is_shown() -> None:
    with pytest.raises(ValueError, match=r"^steps must be at least 1\.$"):
        override(Strict(), ["steps=0"])


def test_words_with_blanks_stay_whole() -> None:
    assert override(Strict(), ["names=q r, s"]).names == ("q r", "s")
    assert override(Strict(), ["--names", "q r", "s"]).names == ("q r", "s")

from dataclasses import dataclass, field, replace
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


def test_without_words_the_recipe_is_the_same() -> None:
    work = Work()
    assert override(work, []) is work


def test_an_unknown_field_lists_the_known_ones() -> None:
    names = ", ".join(known_fields(Work()))
    assert names.startswith("steps, optimiser.lr, optimiser.betas, sizes")
    with pytest.raises(ValueError, match="unknown field 'stepps'") as caught:
        override(Work(), ["stepps=3"])
    assert str(caught.value) == f"unknown field 'stepps' (did you mean 'steps'?); known fields: {names}."


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
    with pytest.raises(ValueError, match="'steps' is not field=value; write steps=VALUE"):
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


def test_the_recipe_s_own_error_is_raised() -> None:
    with pytest.raises(ValueError, match=r"^steps must be at least 1\.$"):
        override(Strict(), ["steps=0"])


def test_values_may_contain_blanks() -> None:
    assert override(Strict(), ["names=q r, s"]).names == ("q r", "s")
    assert override(Strict(), ["--names", "q r", "s"]).names == ("q r", "s")


@dataclass(frozen=True)
class Part:
    size: int = 8
    share: float | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}.")


@dataclass(frozen=True)
class Inner:
    part: Part | None = None
    rate: float = 0.1


@dataclass(frozen=True)
class Whole:
    inner: Inner = field(default_factory=Inner)
    part: Part | None = field(default_factory=Part)
    other: Part | None = None
    all_weights: bool = False
    fast: bool | None = None
    mode: Literal["slow", "fast"] | None = None
    options: tuple[str, ...] = ()
    sizes: tuple[int, ...] | None = (1,)
    table: dict[str, int] = field(default_factory=dict)
    path: Path = Path("a")

    def __post_init__(self) -> None:
        if self.other is not None and not self.all_weights:
            raise ValueError("other needs all_weights.")


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        (["inner.part.size=3"], {"inner": Inner(part=Part(size=3))}),
        (["--inner.part.share", "-1e-3", "inner.rate=-inf"], {"inner": Inner(Part(share=-1e-3), float("-inf"))}),
        (["inner.part.share=None"], {"inner": Inner(part=Part())}),
        (["part=None"], {"part": None}),
        (["--part", "None", "--all-weights"], {"part": None, "all_weights": True}),
        (["other.size=2", "all_weights=true"], {"other": Part(size=2), "all_weights": True}),  # checked together only
        (["--all-weights", "--other.size=2"], {"other": Part(size=2), "all_weights": True}),
        (["fast=false", "mode=None"], {"fast": False, "mode": None}),
        (["--mode", "fast", "fast=None"], {"mode": "fast", "fast": None}),
        (
            ["--options", "cap=0.2", "rule=raw", "a=b=c", "mode=slow"],
            {"options": ("cap=0.2", "rule=raw", "a=b=c"), "mode": "slow"},
        ),
        (["options=cap=0.2,b=1"], {"options": ("cap=0.2", "b=1")}),
        (["options="], {"options": ()}),
        (["--options", "-x"], {"options": ("-x",)}),
        (["sizes=None"], {"sizes": None}),
        (["sizes=3,-4"], {"sizes": (3, -4)}),
        (["table=a,1,b,2"], {"table": {"a": 1, "b": 2}}),
        (["path=x=y z"], {"path": Path("x=y z")}),
        (["path=first", "--path", "last"], {"path": Path("last")}),
    ],
)
def test_any_field_that_can_be_written_in_words_is_set(words: list[str], changes: dict[str, Any]) -> None:
    assert override(Whole(), words) == replace(Whole(), **changes)


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["inner.part.sise=3"], ValueError, r"unknown field 'inner.part.sise' \(did you mean 'inner.part.size'\?\)"),
        (["inner.part.size.x=3"], ValueError, "unknown field 'inner.part.size.x'"),
        (["inner=3"], ValueError, r"'inner' holds fields of its own; known fields: inner\.part, inner\.rate\."),
        (["part=3"], TypeError, r"field part must be Part \| None, got '3' \(now part=Part"),
        (["inner.part.size=x"], TypeError, r"field inner.part.size must be int, got 'x' \(now inner.part.size=8\)"),
        (["inner.part.size=0"], ValueError, r"^size must be at least 1, got 0\.$"),
        (["other.size=2"], ValueError, r"^other needs all_weights\.$"),
        (["part=None", "part.size=3"], ValueError, "part=None leaves out what part.size sets"),
        (["fast=perhaps"], TypeError, r"field fast must be bool \| None, got 'perhaps'"),
        (["mode=quick"], TypeError, r"field mode must be .*'slow', 'fast'.*, got 'quick'"),
        (["--path"], ValueError, "field path needs a value of type Path"),
        (["--all-weights", "2"], TypeError, "field all_weights must be bool, got '2'"),
        (["--sizes", "1", "2", "pathh=x"], TypeError, "field sizes must be .*int.*, got '1 2 pathh=x'"),
        (["--path", "a", "b"], ValueError, "'b' is not field=value"),
        (["=3"], ValueError, "unknown field ''"),
        (["--=3"], ValueError, "unknown field ''"),
    ],
)
def test_what_cannot_be_set_is_an_error_that_names_the_field(
    words: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        override(Whole(), words)


@dataclass(frozen=True)
class Odd:
    anything: Any = None
    steps: int = 1


def test_a_field_of_a_type_that_words_cannot_make_says_so() -> None:
    assert override(Odd(), ["steps=2"]).steps == 2
    with pytest.raises(TypeError, match="field anything must be Any, got 'x'"):
        override(Odd(), ["anything=x"])

"""Plans: what they describe, and which ones are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dreamsim_guidance.generation.plan import Plan, PlannedModel, Screen, Way
from dreamsim_guidance.generation.plan_file import built_in_plans, plan_of, read_plan

pytestmark = pytest.mark.usefixtures("unchecked")

SMALL = {"models": ["pocket"], "categories": ["red star", "blue heart"], "metric": "pocket"}


def write(folder: Path, text: str, name: str = "plan.toml") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def plan(**changes: Any) -> Plan:
    return plan_of({**SMALL, **changes}, Path())


def test_prompts_models_ways_and_amounts_multiply() -> None:
    ways = [{"way": "seed", "count": 3}, {"way": "guide", "amounts": [0.1, [0.1, 0.2]], "count": 2}]
    made = plan(models=["pocket", "sd15"], templates=["a <category>", "the <category>"], ways=ways)
    triplets = list(made.triplets())
    assert len(triplets) == len(made) == 2 * (2 * 2) * (3 + 2 * 2)
    assert [t.number for t in triplets] == list(range(len(made)))
    assert {t.prompt for t in triplets} == {"a red star", "the red star", "a blue heart", "the blue heart"}
    assert {t.amounts for t in triplets if made.ways[t.way].way == "guide"} == {(0.1, 0.1), (0.1, 0.2)}
    seeds = [seed for t in triplets for seed in t.seeds]
    assert len(set(seeds)) == 3 * len(made)


def test_no_two_plans_with_different_seeds_start_from_the_same_noise() -> None:
    def noises(seed: int) -> set[int]:
        return {s for t in plan(seed=seed).triplets() for s in t.seeds}

    seeds = (0, 1, 2, 1430, 1431, 1432, 2026, 4295, 79_999)
    assert len(set.union(*map(noises, seeds))) == len(seeds) * len(noises(0)) == len(seeds) * 3 * len(plan())
    assert max(noises(2**32 - 1)) < 2**32  # torch's generator on the CPU reads no more


@pytest.mark.parametrize(("seeds", "triplets"), [(4_000, 300_000), (80_000, 15_000)])
def test_the_pictures_of_plans_have_seeds_far_enough_apart(seeds: int, triplets: int) -> None:
    step = next(plan(seed=1).triplets()).seeds[0] - next(plan(seed=0).triplets()).seeds[0]
    starts = np.sort(np.arange(seeds) * step % 2**32)
    gaps = np.diff(starts, append=starts[0] + 2**32)
    assert gaps.min() >= 3 * triplets


def test_categories_are_marked_as_those_of_imagenet() -> None:
    made = plan(imagenet_categories=["goldfish"], templates=["<category>"])
    assert [(t.prompt, t.is_imagenet) for t in made.triplets()] == [
        ("red star", False), ("blue heart", False), ("goldfish", True)
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["flux", "pocket", "sd14", "sd15", "sdxl"])
def test_every_built_in_plan_is_read_and_survives_its_record(name: str) -> None:
    assert name in built_in_plans()
    made = read_plan(name)
    assert len(made) > 0 and plan_of(json.loads(json.dumps(made.to_dict())), Path()) == made
    assert made.models[0].model == name


def test_toml_and_json_say_the_same(tmp_path: Path) -> None:
    text = 'categories = ["a", "b"]\nmodels = ["sd15"]\nways = [{way = "noise", amounts = [0.2, [0.2, 0.4]]}]\n'
    text += "[screen]\nleast = 0.1"
    content = {
        "categories": ["a", "b"],
        "models": [{"model": "sd15"}],
        "ways": [{"way": "noise", "amounts": [0.2, [0.2, 0.4]]}],
        "screen": {"least": 0.1},
    }
    assert read_plan(write(tmp_path, text)) == read_plan(write(tmp_path, json.dumps(content), "plan.json"))


def test_categories_come_from_a_file_beside_the_plan_and_may_hold_anything_a_line_can(tmp_path: Path) -> None:
    names = ["../../x", "a/b\\c", "naïve café", "雪だるま", "C:\\temp", "rm -rf /", "{}%s", 'a "quoted" cat', "🦊"]
    write(tmp_path, "\r\n\n".join(names) + "\n", "names.txt")
    made = read_plan(write(tmp_path, 'categories = "names.txt"\nmodels = ["sd15"]'))
    assert made.categories == tuple(names)
    files = {file for t in made.triplets() for file in t.files}
    assert all(file.split("/")[0] in ("ref", "distort") and ".." not in file for file in files)
    write(tmp_path, "red\x0cstar\nblue heart\n", "names.txt")  # one line, which `str.splitlines` would divide
    with pytest.raises(ValueError, match=r"without control characters, got 'red\\x0cstar'"):
        read_plan(tmp_path / "plan.toml")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"categories": []}, "a plan needs categories"),
    ({"categories": ["star", "heart", "star"]}, "the category 'star' occurs twice in the plan; leave one out"),
    ({"imagenet_categories": ["red star"]}, "the category 'red star' occurs twice"),
    ({"categories": [""]}, "must be text without spaces around it"),
    ({"categories": [" star"]}, "must be text without spaces around it"),
    ({"categories": ["a\nb"]}, "one line of text without control characters"),
    ({"categories": ["a\x1b[2J"]}, "one line of text without control characters"),
    ({"categories": ["x" * 5000]}, "has 5000 characters, at most 300"),
    ({"categories": [3]}, "a category must be text, got 3"),
    ({"categories": {"a": 1}}, "categories must be a list"),
    ({"templates": []}, "a plan needs a template"),
    ({"templates": ["An image"]}, "lacks <category>"),
    ({"templates": ["An image of a <categroy>"]}, "has <categroy>; the only word that is replaced is <category>"),
    ({"templates": "a <category>"}, "templates must be a list"),
    ({"models": []}, "a plan needs a model"),
    ({"models": ["sd15", "sd15"]}, "the model .* occurs twice"),
    ({"models": [{"steps": 3}]}, "a model needs the key 'model', got steps"),
    ({"models": [{"model": "sd15", "stpes": 3}]}, r"unknown key 'stpes' \(did you mean 'steps'"),
    ({"models": [{"model": "sd15", "steps": 0}]}, "steps must be a whole number from 1 to 1000, got 0"),
    ({"models": [{"model": "sd15", "steps": 10**9}]}, "steps must be a whole number from 1 to 1000"),
    ({"models": [{"model": "sd15", "steps": True}]}, "steps must be a whole number"),
    ({"models": [{"model": "sd15", "steps": "20"}]}, "steps must be a whole number"),
    ({"models": [{"model": "sd15", "size": 100}]}, "size must be a multiple of 8"),
    ({"models": [{"model": "sd15", "size": 10**6}]}, "size must be a whole number from 16 to 4096"),
    ({"models": [{"model": "sd15", "batch": 0}]}, "batch must be a whole number from 1 to 1024"),
    ({"models": [{"model": "sd15", "guidance_scale": float("nan")}]}, "guidance_scale must be a number from 0 to 100"),
    ({"models": [{"model": "sd15", "guidance_scale": float("inf")}]}, "guidance_scale must be a number"),
    ({"models": [{"model": "sd15", "dtype": "float8"}]}, "unknown dtype 'float8'"),
    ({"models": [3]}, "a model must be a table"),
    ({"ways": []}, "a plan needs a way"),
    ({"ways": ["sed"]}, r"unknown way 'sed' \(did you mean 'seed'"),
    ({"ways": [{"way": "seed", "count": 0}]}, "count must be a whole number from 1"),
    ({"ways": [{"way": "seed", "count": -1}]}, "count must be a whole number from 1"),
    ({"ways": [{"way": "seed", "count": 10**12}]}, "count must be a whole number from 1"),
    ({"ways": [{"way": "seed", "count": 10**6}]}, "describes 2,000,000 triplets, at most 1,000,000"),
    ({"ways": [{"way": "seed", "amounts": [0.1]}]}, "the way 'seed' has no amounts"),
    ({"ways": [{"way": "noise", "amounts": [0]}]}, "must be a number above 0 and at most 1, got 0"),
    ({"ways": [{"way": "noise", "amounts": [1.5]}]}, "must be a number above 0 and at most 1"),
    ({"ways": [{"way": "noise", "amounts": [[0.1]]}]}, "one number, or two"),
    ({"ways": [{"way": "noise", "amounts": [[0.1, 0.2, 0.3]]}]}, "one number, or two"),
    ({"ways": [{"way": "noise", "amounts": [[0.1, [0.2]]]}]}, "one number, or two"),
    ({"ways": [{"way": "noise", "amounts": [0.1, 0.1]}]}, "has an amount twice"),
    ({"ways": [{"way": "noise", "amounts": 0.1}]}, "amounts must be a list"),
    ({"ways": [{"way": "noise", "strength": 2}]}, "strength is for the way 'guide'"),
    ({"ways": ["guide"]}, "the way 'guide' needs amounts"),
    ({"ways": [{"way": "guide", "amounts": [-0.1]}]}, "above 0 and at most 2"),
    ({"ways": [{"way": "guide", "amounts": [0.1], "attempts": 1000}]}, "attempts must be a whole number from 1 to 20"),
    ({"ways": [{"way": "guide", "amounts": [0.1], "strength": -1}]}, "strength must be a number above 0"),
    ({"ways": ["seed", "seed"]}, "the way .* occurs twice"),
    ({"seed": -1}, "seed must be a whole number from 0"),
    ({"seed": 2**32}, "seed must be a whole number from 0 to"),
    ({"seed": 1.5}, "seed must be a whole number"),
    ({"metric": 3}, "metric must be text"),
    ({"split_by": "prompt"}, "unknown split_by 'prompt'"),
    ({"shares": {"train": 0.5}}, "must add up to 1, got 0.5"),
    ({"shares": {"train": 2, "val": -1}}, "the share of 'train' must be a number from 0 to 1"),
    ({"shares": {}}, "shares must give the share of each split"),
    ({"screen": {"duplicate": -1}}, "duplicate must be a number from 0 to 2"),
    ({"screen": {"least": 0.5, "most": 0.4}}, "most must be above least and duplicate"),
    ({"screen": {"lest": 0.5}}, r"screen has the unknown key 'lest' \(did you mean 'least'"),
    ({"screen": 3}, "screen must be a table"),
    ({"category": ["star"]}, r"a plan has the unknown key 'category' \(did you mean 'categories'"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_what_no_run_could_carry_out_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(**change)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a plan needs a model"),
        ("categories = [", "is not TOML"),
        ('models = ["sd15"]', "a plan needs categories"),
        ('models = ["sd15"]\ncategories = "empty.txt"', "the list of categories .*empty.txt' is empty"),
        ('models = ["sd15"]\ncategories = "latin.txt"', "latin.txt' is not UTF-8 text"),
        ('models = ["sd15"]\ncategories = "twice.txt"', "the category 'cat' occurs twice"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, "\n \n", "empty.txt")
    write(tmp_path, "cat\ndog\ncat\n", "twice.txt")
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(ValueError, match=message) as error:
        read_plan(write(tmp_path, text))
    assert "plan.toml" in str(error.value)


@pytest.mark.parametrize("text", ["[]", "3", "null", '{"models": NaN}', "[" * 100_000])
def test_json_that_is_no_plan_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"must be a table|not JSON|must be a list"):
        read_plan(write(tmp_path, text, "plan.json"))


def test_missing_files_and_unknown_names_say_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"the plan '.*missing\.toml' is not a file"):
        read_plan(tmp_path / "missing.toml")
    with pytest.raises(FileNotFoundError, match=r"the list of categories '.*none\.txt' is not a file"):
        read_plan(write(tmp_path, 'models = ["sd15"]\ncategories = "none.txt"'))
    with pytest.raises(FileNotFoundError, match="is not a file"):
        read_plan(write(tmp_path, 'models = ["sd15"]\ncategories = "."'))
    with pytest.raises(ValueError, match=r"unknown plan 'pocke' \(did you mean 'pocket'\?\); give a file"):
        read_plan("pocke")


def test_the_python_interface_checks_as_the_file_does() -> None:
    with pytest.raises(ValueError, match="a plan needs categories"):
        Plan((PlannedModel("sd15"),))
    with pytest.raises(ValueError, match="unknown way"):
        Way("noises")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="across must be a number"):
        Screen(across=None)  # type: ignore[arg-type]

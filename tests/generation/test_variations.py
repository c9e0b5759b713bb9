"""The four ways to vary a reference, on the pocket model and on tiny random pipelines of the published families."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_plan import small_plan
from tiny_networks import TEXT, TOKENS
from tiny_pipelines import build

from dreamsim_guidance.data import read_triplet_rows
from dreamsim_guidance.generation import generating, named_models
from dreamsim_guidance.generation.generating import generate
from dreamsim_guidance.generation.plan import PlannedModel, Way
from dreamsim_guidance.generation.variations import Source, slerp
from dreamsim_guidance.metric.dreamsim import DreamSim

PROMPTS = ["two red stars", "a blue heart"]
SEEDS, OTHERS = [5, 6], [15, 16]


@pytest.fixture(scope="module", autouse=True)
def load_each_model_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(named_models, "load", functools.cache(named_models.load))
        yield


@pytest.fixture(scope="module")
def metric() -> DreamSim:
    return DreamSim("pocket", device="cpu")


@pytest.fixture(scope="module")
def source() -> Source:
    return Source(PlannedModel("pocket", steps=6), "cpu")


@pytest.fixture(scope="module")
def references(source: Source) -> torch.Tensor:
    return source.references(PROMPTS, SEEDS).images


def vary(source: Source, way: Way, amount: float, references: torch.Tensor, metric: DreamSim) -> Any:
    return source.variations(way, amount, PROMPTS, lambda: references, SEEDS, OTHERS, lambda: metric)


def test_points_of_the_arc_keep_the_length_and_divide_the_angle() -> None:
    a, b = torch.randn(3, 4, 8, 8, dtype=torch.float64), torch.randn(3, 4, 8, 8, dtype=torch.float64)
    a, b = (x / x.flatten(1).norm(dim=1).view(-1, 1, 1, 1) for x in (a, b))
    angle = (a * b).flatten(1).sum(1).arccos()
    for share in (0.0, 0.3, 1.0):
        point = slerp(a, b, share)
        torch.testing.assert_close(point.flatten(1).norm(dim=1), torch.ones(3, dtype=torch.float64))
        torch.testing.assert_close(
            (a * point).flatten(1).sum(1).clamp(-1, 1).arccos(), share * angle, atol=1e-6, rtol=0
        )
    torch.testing.assert_close(slerp(a, a, 0.3), a)


def test_all_of_the_way_to_other_noise_is_the_picture_of_that_noise(
    source: Source, references: torch.Tensor, metric: DreamSim
) -> None:
    end = vary(source, Way("noise"), 1.0, references, metric).images
    torch.testing.assert_close(end, source.references(PROMPTS, OTHERS).images, atol=1.5 / 255, rtol=0)
    near, far = (vary(source, Way("noise"), amount, references, metric).images for amount in (0.02, 0.5))
    target = metric.target(references)
    assert bool((target(near) < target(far)).all()) and bool((target(near) < 0.05).all())
    assert not hasattr(source.pipe.prepare_latents, "function")  # the pipeline is as it was


def test_more_noise_leads_farther_from_the_reference_in_img2img(
    source: Source, references: torch.Tensor, metric: DreamSim
) -> None:
    near, far = (vary(source, Way("img2img"), amount, references, metric).images for amount in (0.3, 1.0))
    target = metric.target(references)
    assert bool((target(near) < target(far)).all())


def test_guided_variations_are_about_as_far_as_chosen_and_retries_come_nearer(
    source: Source, references: torch.Tensor, metric: DreamSim
) -> None:
    once = Way("guide", amounts=((0.15, 0.15),), strength=0.1, attempts=1, tolerance=0.0)
    first = vary(source, once, 0.15, references, metric)
    again = vary(source, replace(once, attempts=3), 0.15, references, metric)
    errors = [np.abs(np.array(drawn.reached) - 0.15) for drawn in (first, again)]
    assert (errors[1] <= errors[0]).all() and errors[1].max() < 0.03
    assert again.attempts == [3, 3] and first.attempts == [1, 1]
    assert all(math.log2(strength / 0.1) in (0, 1, 2) for strength in again.strength)
    torch.testing.assert_close(metric.target(references)(again.images), torch.tensor(again.reached))
    free = metric.target(references)(vary(source, Way("seed"), 0.0, references, metric).images)
    assert errors[1].max() < float((free - 0.15).abs().max())


FAMILIES = {"sd15": "sd", "sdxl": "sdxl", "flux": "flux-dev"}


def embedded(shape: tuple[int, ...], prompts: Any) -> torch.Tensor:
    """Stands for a text encoder: an embedding that depends on the prompt."""
    listed = [prompts] if isinstance(prompts, str) else list(prompts)
    seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") for text in listed]
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def encode_for_sdxl(self: Any, prompt: Any = None, negative_prompt: Any = None, **_: Any) -> tuple[torch.Tensor, ...]:
    negative = [""] * len(prompt) if negative_prompt is None else negative_prompt
    shapes = ((TOKENS, TEXT), (TEXT,))
    first, pooled = (embedded(shape, prompt) for shape in shapes)
    second, negative_pooled = (embedded(shape, negative) for shape in shapes)
    return first, second, pooled, negative_pooled


def encode_for_flux(self: Any, prompt: Any = None, **_: Any) -> tuple[torch.Tensor, ...]:
    return embedded((TOKENS, TEXT), prompt), embedded((TEXT,), prompt), torch.zeros(TOKENS, 3)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_of_the_built_in_plans_makes_triplets_in_all_ways(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffusers

    for prefix, encode in (("StableDiffusionXL", encode_for_sdxl), ("Flux", encode_for_flux)):
        for suffix in ("Pipeline", "Img2ImgPipeline"):
            monkeypatch.setattr(getattr(diffusers, prefix + suffix), "encode_prompt", encode)
    pipe = build(FAMILIES[name]).pipe
    monkeypatch.setattr(named_models, "load", lambda *_, **__: pipe)
    monkeypatch.setattr(named_models, "check_reachable", lambda *_: None)
    plan = small_plan(
        models=[{"model": name, "steps": 3, "size": 32, "batch": 2}],
        templates=["An image of a <category>"],
        ways=["seed", "noise", "img2img", {"way": "guide", "amounts": [0.1], "attempts": 1}],
    )
    result = generate(plan, tmp_path / "set", "cpu", progress=False)
    assert len(read_triplet_rows(tmp_path / "set")) == len(result.screening.triplets) == 8
    again = generate(plan, tmp_path / "again", "cpu", progress=False)
    first, second = (
        {file.name: file.read_bytes() for file in folder.rglob("[0-9]*.png")}
        for folder in (tmp_path / "set", tmp_path / "again")
    )
    assert first == second and again.sampled == 24
    licence = named_models.MODELS[name].licence
    assert licence and f'"licence": "{licence}"' in (tmp_path / "set" / "pictures.jsonl").read_text()


def test_flagged_pictures_are_recorded_and_in_no_triplet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = build("sd").pipe
    calls = 0

    def check(image: Any, device: Any, dtype: Any) -> tuple[Any, list[bool]]:
        nonlocal calls
        calls += 1
        return image, [calls == 2, False]  # the first picture of the second batch

    monkeypatch.setattr(pipe, "run_safety_checker", check)
    monkeypatch.setitem(vars(pipe), "safety_checker", object())
    monkeypatch.setattr(named_models, "load", lambda *_, **__: pipe)
    monkeypatch.setattr(named_models, "check_reachable", lambda *_: None)
    plan = small_plan(
        models=[{"model": "sd14", "steps": 2, "size": 32, "batch": 2}], ways=["seed"], templates=["<category>"]
    )
    screening = generate(plan, tmp_path / "set", "cpu", progress=False).screening
    assert [triplet.dropped for triplet in screening.triplets] == ["flagged", None]
    records = (tmp_path / "set" / "pictures.jsonl").read_text()
    assert records.count('"safety": "flagged"') == 1 and records.count('"safety": "passed"') == 5
    assert [row.id for row in read_triplet_rows(tmp_path / "set")] == ["1"]


def test_a_model_without_img2img_or_prompts_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named_models, "check_reachable", lambda *_: None)
    for family, ways, message in (
        ("ddim", ["seed"], "takes no prompt; a plan needs a model that does"),
        ("sana", ["img2img"], "diffusers has no img2img pipeline for SanaPipeline"),
    ):
        pipe = build(family).pipe
        monkeypatch.setattr(named_models, "load", lambda *_, pipe=pipe, **__: pipe)
        plan = small_plan(models=["sd15"], ways=ways)
        with pytest.raises(ValueError, match=message):
            generate(plan, tmp_path / "set", "cpu", progress=False)
        assert not (tmp_path / "set").exists()


def test_copies_and_triplets_outside_of_the_bounds_are_dropped_with_their_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = small_plan(
        categories=["red star", "blue heart", "green circle", "two pink squares"],
        ways=["seed"],
        models=[{"model": "pocket", "steps": 2, "batch": 4}],
    )
    save, kept = generating.save_image, {}

    def with_copies(image: torch.Tensor, path: Path) -> None:
        kept[path.relative_to(tmp_path / "set").as_posix()] = image
        if path.name == "000_1.png":
            image = kept["distort/000/000_0.png"]  # both variations of triplet 0 are the same
        if path.name == "001_0.png":
            image = (kept["ref/000/001.png"] + 1 / 255).clamp(0, 1)  # nearly the reference of triplet 1
        if path.name == "003_1.png":
            image = kept["distort/000/002_0.png"]  # used in triplet 2 already
        save(image, path)

    monkeypatch.setattr(generating, "save_image", with_copies)
    result = generate(plan, tmp_path / "set", "cpu", progress=False).screening
    assert [triplet.dropped for triplet in result.triplets] == ["same file", None, None, "same file"]

    def screened(**rules: float) -> list[str | None]:
        screening = generate(
            replace(plan, screen=replace(plan.screen, **rules)), tmp_path / "set", "cpu", False
        ).screening
        return [triplet.dropped for triplet in screening.triplets]

    assert screened(duplicate=0.01) == ["same file", "duplicate", None, "same file"]
    assert screened(least=0.01) == ["same file", "too near", None, "same file"]
    assert screened(most=0.02) == ["same file", "too far", "too far", "too far"]  # no longer a copy of one that is kept
    assert screened(most_difference=0.01)[1] == "unequal"
    assert screened(across=1.9) == ["same file", None, "across", "across"]
    assert [row.id for row in read_triplet_rows(tmp_path / "set")] == ["1"]

"""The plan of a generated set: which prompts, which models, and how the variations of each reference are made.

    categories x templates -> prompts;   prompts x models x ways x amounts x count -> triplets

A triplet is a reference and two variations of it. All three show the same prompt, and every picture has its own seed, which
follows from the plan's seed and the triplet's number. The *way* says how the variations come from the reference, and the
*amount* how far they go:

    way        amount                                                                   default
    seed       none: each variation starts from its own noise, as in NIGHTS
    noise      share of the path from the reference's noise to another, in (0, 1]       0.5
    img2img    share of the noise schedule that the reference is sent through, (0, 1]   0.6
    guide      the metric's distance to the reference, above 0                          must be given

An amount is one number for both variations, or two, one for each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

from dreamsim_guidance.data.triplet_folder import SHARES, distorted_path, reference_path
from dreamsim_guidance.generation.checks import check_choice, check_distinct, check_real, check_text, check_whole

__all__ = ["WAYS", "Plan", "PlannedModel", "PlannedTriplet", "Screen", "Way"]

Ways = Literal["seed", "noise", "img2img", "guide"]
WAYS: tuple[Ways, ...] = get_args(Ways)

_CATEGORY = "<category>"
_DEFAULT_AMOUNTS: Mapping[str, float] = MappingProxyType({"seed": 0.0, "noise": 0.5, "img2img": 0.6})
_MOST_TRIPLETS = 1_000_000
_SEEDS = 2**32
"""Seeds of pictures: torch's generator on the CPU reads 32 bits."""


@dataclass(frozen=True)
class PlannedModel:
    """A diffusion pipeline and how it is sampled; None leaves a setting to the model's usual one.

    model: a name of `generation.named_models`, a folder that save_pretrained wrote, or the Hub's owner/name.
    steps: of the sampler, 1 to 1000. guidance_scale: of classifier-free guidance, 0 to 100.
    size: height and width in pixels, a multiple of 8 from 16 to 4096.
    batch: pictures that are sampled at once, 1 to 1024. It is part of the plan, because rounding depends on it.
    scheduler: a class of diffusers that replaces the pipeline's own. dtype: of the weights.
    licence, licence_source: name and address of the model's licence, for the records; by default what is known of named models.
    """

    model: str
    steps: int | None = None
    guidance_scale: int | float | None = None
    size: int | None = None
    batch: int | None = None
    scheduler: str | None = None
    negative_prompt: str = ""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    licence: str | None = None
    licence_source: str | None = None

    def __post_init__(self) -> None:
        check_text("model", self.model)
        check_whole("steps", self.steps, 1, 1000)
        check_real("guidance_scale", self.guidance_scale, 0, 100)
        check_whole("size", self.size, 16, 4096)
        if self.size is not None and self.size % 8:
            raise ValueError(f"size must be a multiple of 8, got {self.size}.")
        check_whole("batch", self.batch, 1, 1024)
        check_choice("dtype", self.dtype, ("float32", "float16", "bfloat16"))
        for name in ("scheduler", "licence", "licence_source"):
            if getattr(self, name) is not None:
                check_text(name, getattr(self, name))
        if self.negative_prompt:
            check_text("negative_prompt", self.negative_prompt)


@dataclass(frozen=True)
class Way:
    """How variations are made; the top of this file describes the ways and their amounts.

    count: triplets for each prompt, model and amount, at least 1.
    amounts: each a number or a pair.
    method, strength: of guidance, for the way guide only; by default mpgd, and 0.5.
    tolerance, attempts: a guided variation whose distance differs from the chosen one by more than `tolerance` (by default
        0.005) is sampled again with twice the strength, up to `attempts` times in all (by default 3); the nearest is kept.
    """

    way: Ways
    count: int = 1
    amounts: tuple[tuple[float, float], ...] = ()
    method: str | None = None
    strength: int | float | None = None
    tolerance: int | float | None = None
    attempts: int | None = None

    def __post_init__(self) -> None:
        check_choice("way", self.way, WAYS)
        check_whole("count", self.count, 1, _MOST_TRIPLETS)
        guide = {"method": "mpgd", "strength": 0.5, "tolerance": 0.005, "attempts": 3}
        for name, default in guide.items():
            if self.way != "guide" and getattr(self, name) is not None:
                raise ValueError(f"{name} is for the way 'guide'; leave it out of the way '{self.way}'.")
            if self.way == "guide" and getattr(self, name) is None:
                object.__setattr__(self, name, default)
        if not self.amounts:
            if self.way not in _DEFAULT_AMOUNTS:
                raise ValueError(
                    "the way 'guide' needs amounts, the metric's distances to the reference; such as amounts = [0.1, 0.2]."
                )
            object.__setattr__(self, "amounts", ((_DEFAULT_AMOUNTS[self.way],) * 2,))
        elif self.way == "seed" and self.amounts != ((0.0, 0.0),):
            raise ValueError("the way 'seed' has no amounts; leave them out.")
        if self.way != "seed":
            for value in (value for pair in self.amounts for value in pair):
                check_real(f"an amount of the way '{self.way}'", value, 0, 2 if self.way == "guide" else 1, above=True)
        if len(set(self.amounts)) < len(self.amounts):
            raise ValueError(f"the way '{self.way}' has an amount twice; raise its count instead.")
        if self.way == "guide":
            check_text("method", self.method)
            check_real("strength", self.strength, 0, 1000, above=True)
            check_real("tolerance", self.tolerance, 0, 2)
            check_whole("attempts", self.attempts, 1, 20)


@dataclass(frozen=True)
class Screen:
    """Which triplets are left out of data.csv, by the metric's distances.

    duplicate: two pictures of one triplet that are nearer than this count as the same picture; by default 0.01.
    across: two pictures of different triplets that are nearer than this count as the same picture, and the later triplet is
        left out; 0, the default, compares files only.
    least, most: bounds of both variations' distances to the reference; by default 0 and no upper bound.
    most_difference: largest difference of these two distances; by default no bound.
    """

    duplicate: int | float = 0.01
    across: int | float = 0.0
    least: int | float = 0.0
    most: int | float | None = None
    most_difference: int | float | None = None

    def __post_init__(self) -> None:
        for name in ("duplicate", "across", "least", "most", "most_difference"):
            value = getattr(self, name)
            if value is None and name in ("duplicate", "across", "least"):
                raise ValueError(f"{name} must be a number of at least 0.")
            check_real(name, value, 0, 2)
        if self.most is not None and self.most <= max(self.least, self.duplicate):
            raise ValueError(
                f"most must be above least and duplicate, got {self.most:g}, {self.least:g} and {self.duplicate:g}."
            )


@dataclass(frozen=True)
class PlannedTriplet:
    """One triplet of a plan. amounts: of its two variations. seeds: of the reference and its two variations."""

    number: int
    model: int
    way: int
    prompt: str
    category: str
    is_imagenet: bool
    amounts: tuple[float, float]
    seeds: tuple[int, int, int]

    @property
    def files(self) -> tuple[str, str, str]:
        """The paths of the reference and its two variations, see `data.triplet_folder`."""
        return reference_path(self.number), distorted_path(self.number, 0), distorted_path(self.number, 1)


@dataclass(frozen=True)
class Plan:
    """A whole plan; the top of this file describes it. Raises ValueError for whatever cannot be carried out.

    categories, imagenet_categories: words for the templates; the second mark their triplets `is_imagenet`, as in NIGHTS.
    templates: prompts with the word <category>; by default that of NIGHTS.
    metric: the DreamSim that guides, screens and measures; by default "ensemble".
    seed: of all pictures, sides and splits; from 0 to 2^32 - 1. No picture's seed belongs to two plans of up to 300,000
        triplets with different seeds below 4,000, or of up to 15,000 triplets with different seeds below 80,000.
    shares: of the splits, by default those of NIGHTS.
    split_by: "triplet" draws a split for each triplet, as in NIGHTS; "category" keeps all triplets of a category in one split.
    """

    models: tuple[PlannedModel, ...]
    categories: tuple[str, ...] = ()
    imagenet_categories: tuple[str, ...] = ()
    templates: tuple[str, ...] = ("An image of a <category>",)
    ways: tuple[Way, ...] = (Way("seed"),)
    metric: str = "ensemble"
    seed: int = 0
    split_by: Literal["triplet", "category"] = "triplet"
    shares: Mapping[str, int | float] = field(default_factory=lambda: dict(SHARES))
    screen: Screen = Screen()

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("a plan needs a model; such as models = ['sd15'].")
        if not self.ways:
            raise ValueError("a plan needs a way; such as ways = ['seed'].")
        names = (*self.categories, *self.imagenet_categories)
        if not names:
            raise ValueError("a plan needs categories: a list, or a text file with one on each line.")
        for name in names:
            check_text("a category", name)
        check_distinct("the category", names)
        if not self.templates:
            raise ValueError(f"a plan needs a template; such as templates = ['An image of a {_CATEGORY}'].")
        for template in self.templates:
            check_text("a template", template)
            unknown = [word for word in re.findall(r"<[^<>]*>", template) if word != _CATEGORY]
            if unknown:
                raise ValueError(
                    f"the template '{template}' has {unknown[0]}; the only word that is replaced is {_CATEGORY}."
                )
            if _CATEGORY not in template:
                raise ValueError(f"the template '{template}' lacks {_CATEGORY}, the place of the category.")
        check_distinct("the template", self.templates)
        check_distinct("the model", [str(model) for model in self.models])
        check_distinct("the way", [str((way.way, way.amounts)) for way in self.ways])
        check_text("metric", self.metric)
        check_whole("seed", self.seed, 0, _SEEDS - 1)
        check_choice("split_by", self.split_by, ("triplet", "category"))
        _check_shares(self.shares)
        if len(self) > _MOST_TRIPLETS:
            raise ValueError(
                f"the plan describes {len(self):,} triplets, at most {_MOST_TRIPLETS:,} are made at once; split it into "
                "several plans with different seeds and folders."
            )

    def __len__(self) -> int:
        """The number of triplets."""
        prompts = len(self.templates) * (len(self.categories) + len(self.imagenet_categories))
        return prompts * len(self.models) * sum(way.count * len(way.amounts) for way in self.ways)

    def triplets(self) -> Iterator[PlannedTriplet]:
        """All triplets in order; those of one model, way and amount follow each other."""
        named = [(name, False) for name in self.categories] + [(name, True) for name in self.imagenet_categories]
        number = 0
        for model in range(len(self.models)):
            for place, way in enumerate(self.ways):
                for amounts in way.amounts:
                    for template in self.templates:
                        for category, is_imagenet in named:
                            for _ in range(way.count):
                                first = 3 * (self.seed * _MOST_TRIPLETS + number)
                                yield PlannedTriplet(
                                    number,
                                    model,
                                    place,
                                    template.replace(_CATEGORY, category),
                                    category,
                                    is_imagenet,
                                    amounts,
                                    (first % _SEEDS, (first + 1) % _SEEDS, (first + 2) % _SEEDS),
                                )
                                number += 1

    def to_dict(self) -> dict[str, Any]:
        """The plan in the types that JSON has; `read_plan` makes the same plan of it."""
        content = asdict(self)
        content["shares"] = dict(self.shares)
        return _lists(content)


def _lists(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value


def _check_shares(shares: Any) -> None:
    if not isinstance(shares, Mapping) or not shares:
        raise ValueError(f"shares must give the share of each split, such as train = 0.8, got {shares!r}.")
    for name, share in shares.items():
        check_text("a split", name)
        check_real(f"the share of '{name}'", share, 0, 1)
        if share is None:
            raise ValueError(f"the share of '{name}' must be a number.")
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"the shares of the splits must add up to 1, got {sum(shares.values()):g}.")

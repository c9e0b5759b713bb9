"""Plans choose the way of guiding that fits a budget, change nothing in the pipeline, and refuse wrong arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from planned import brightness, call_of
from real_pipelines import build as build_real
from tiny_pipeline import TinyPipeline, picture
from tiny_pipelines import build
from torch import nn

from dreamsim_guidance import DreamSim
from dreamsim_guidance.guidance import DPS, MPGD, Plan, plan
from dreamsim_guidance.guidance.planning.machine import ARITHMETIC
from dreamsim_guidance.guidance.planning.plan import Option
from dreamsim_guidance.guidance.planning.rehearsal import Rehearsal


@pytest.fixture(scope="module")
def through() -> Plan:
    """The plan for a method that differentiates through the denoiser."""
    tiny = build("ddim")
    return plan(tiny.pipe, brightness, DPS(), progress=False, **call_of(tiny))


def test_budget_picks_the_smallest_sacrifice(through: Plan) -> None:
    gib = 2**30
    assert through.within().best == through.asked
    checkpointed_bytes = min(o.peak_bytes for o in through.options if o.switches == ("checkpointing=True",))
    best = through.within(memory=(checkpointed_bytes + 1) / gib).best
    assert best is not None and best.switches == ("checkpointing=True",)
    assert best.peak_bytes <= checkpointed_bytes
    fast = through.within(slowdown=1 + 0.6 * (through.asked.slowdown - 1)).best
    assert fast is not None and fast.switches == ("every=2",)
    impossible = through.within(memory=1 / gib)
    assert impossible.best is None
    assert "nothing fits" in str(impossible) and "too much" in str(impossible)
    assert "Within 1 GiB: as asked." in str(through.within(memory=1.0))


def test_each_option_is_faster_or_smaller_than_every_option_before_it(through: Plan) -> None:
    for position, option in enumerate(through.options):
        earlier = through.options[:position]
        assert not any(o.slowdown <= option.slowdown and o.peak_bytes <= option.peak_bytes for o in earlier)


def test_planning_changes_no_state_and_draws_no_random_number(sd: TinyPipeline) -> None:
    pipe = sd.pipe
    generator = torch.Generator().manual_seed(3)

    def state() -> list[Any]:
        networks = [m for m in vars(pipe).values() if isinstance(m, nn.Module)]
        parts = [part for network in networks for part in network.modules()]
        flags = [(id(p), p.data_ptr(), p.requires_grad) for network in networks for p in network.parameters()]
        hooks = [(type(part), dict(vars(part)).keys(), len(part._forward_pre_hooks)) for part in parts]
        attributes = [{k: id(v) for k, v in vars(owner).items()} for owner in (pipe, pipe.scheduler)]
        return [flags, hooks, attributes, torch.is_grad_enabled()]

    before, global_state, generator_state = state(), torch.get_rng_state(), generator.get_state()
    plan(pipe, brightness, progress=False, generator=generator, **call_of(sd))
    assert state() == before
    assert torch.equal(torch.get_rng_state(), global_state) and torch.equal(generator.get_state(), generator_state)


@pytest.mark.parametrize("kind", ["one", "mask", "weights", "nearest", "one for each prompt", "a sum"])
def test_a_distance_to_references_can_be_planned(sd: TinyPipeline, metric: DreamSim, kind: str) -> None:
    call = call_of(sd)
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., :16] = 1
    two = picture(1, 2)
    losses = {
        "one": lambda: metric.target(two[:1]),
        "mask": lambda: metric.target(two[:1], mask),
        "weights": lambda: metric.target([two[:1], two[1:]], reduction="mean", weights=[1.0, 3.0]),
        "nearest": lambda: metric.target(two, reduction="min"),
        "one for each prompt": lambda: metric.target(two),
        "a sum": lambda: 0.5 * metric.target(two[:1]) + metric.target(two[1:]),
    }
    if kind == "one for each prompt":
        call = {**call_of(sd, batch=2), "num_images_per_prompt": 2}
    loss = losses[kind]()
    before = loss(picture(3, 2))
    planned = plan(sd.pipe, loss, progress=False, **call)
    assert planned.asked.slowdown > 2 and planned.asked.peak_bytes > planned.unguided_bytes
    assert torch.equal(loss(picture(3, 2)), before)  # the loss has cached nothing from the run on shapes alone
    assert not torch.compiler.is_compiling()


def test_references_belong_to_prompts_unless_images_per_reference_is_passed(sd: TinyPipeline, metric: DreamSim) -> None:
    loss = metric.target(picture(1, 2))
    four = plan(sd.pipe, loss, progress=False, images_per_reference=2, **call_of(sd, batch=4))
    assert four.asked.slowdown > 2
    with pytest.raises(ValueError, match="got 2 references and 4 images"):
        plan(sd.pipe, loss, progress=False, **call_of(sd, batch=4))


@pytest.mark.parametrize("name", ["schedule", "until", "judges", "callback", "augmentation"])
def test_an_argument_of_guide_that_plan_does_not_count_is_refused(sd: TinyPipeline, name: str) -> None:
    with pytest.raises(ValueError, match=f"has no argument {name}; leave it out here and give it to guide alone"):
        plan(sd.pipe, brightness, progress=False, **{name: 0.5}, **call_of(sd))


def test_bad_input_is_refused(sd: TinyPipeline, unchecked: None) -> None:
    with pytest.raises(ValueError, match=r"memory must be a number of GiB above 0, got -1\.0"):
        plan(sd.pipe, brightness, progress=False, memory=-1.0)
    with pytest.raises(ValueError, match="slowdown must be a factor of at least 1"):
        plan(sd.pipe, brightness, progress=False, slowdown=0.5)
    with pytest.raises(ValueError, match="every must be a whole number"):
        plan(sd.pipe, brightness, progress=False, every=0)
    with pytest.raises(ValueError, match="has no scheduler"):
        plan(object(), brightness)
    with pytest.raises(ValueError, match="prompt"):
        plan(sd.pipe, brightness, progress=False)
    with pytest.raises(RuntimeError, match="the loss cannot be run on shapes alone"):
        plan(sd.pipe, lambda images: brightness(images) * images.mean().item(), progress=False, **call_of(sd))
    with pytest.raises(TypeError, match="loss must be callable"):
        plan(sd.pipe, 3, progress=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "graph_gib", "checkpointed_gib", "slowdown", "slowdown_with_tiny_vae"),
    [("sd15", 1.44, 0.29, 4.3, 1.30), ("sdxl", 9.94, 0.94, 2.62, 1.10), ("flux", 20.1, 1.5, 1.34, 1.02)],
)
def test_memory_and_slowdown_of_published_architectures(
    name: str, graph_gib: float, checkpointed_gib: float, slowdown: float, slowdown_with_tiny_vae: float
) -> None:
    pipe, call = build_real(name)
    rehearsal = Rehearsal(pipe, call)
    for checkpointing, expected in ((False, graph_gib), (True, checkpointed_gib)):
        forward, _ = rehearsal.denoise(ARITHMETIC, graph=True, checkpointing=checkpointing)
        assert forward.held / 2**30 == pytest.approx(expected, rel=0.05)
    planned = plan(pipe, method=MPGD(), progress=False, **call)
    with_tiny: Option = next(o for o in planned.options if len(o.switches) == 1 and o.switches[0].startswith("vae=tae"))
    assert planned.asked.slowdown == pytest.approx(slowdown, rel=0.05)
    assert with_tiny.slowdown == pytest.approx(slowdown_with_tiny_vae, rel=0.05)
    assert with_tiny.peak_bytes < planned.asked.peak_bytes

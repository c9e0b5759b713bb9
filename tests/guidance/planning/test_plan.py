"""Plans against what really happens: the same arithmetic, the same bytes, and nothing touched."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from real_pipelines import build as build_real
from tiny_networks import tiny_autoencoder
from tiny_pipeline import TinyPipeline, picture
from tiny_pipelines import build
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from dreamsim_guidance import DreamSim
from dreamsim_guidance.guidance import (
    DPS,
    LGD,
    MPGD,
    TFG,
    FreeDoM,
    Machine,
    Method,
    Plan,
    UniversalGuidance,
    guide,
    plan,
)
from dreamsim_guidance.guidance.planning.cost import ARITHMETIC, SAME_SHAPES, Meter
from dreamsim_guidance.guidance.planning.demand import Demand, demand_of
from dreamsim_guidance.guidance.planning.plan import Option
from dreamsim_guidance.guidance.planning.prices import Prices, Way
from dreamsim_guidance.guidance.planning.rehearsal import Rehearsal


def brightness(images: Tensor) -> Tensor:
    return images.square().flatten(1).mean(1)


def call_of(tiny: TinyPipeline, batch: int = 1, steps: int = 4) -> dict[str, Any]:
    return {**{k: tiny.cast(v) for k, v in tiny.inputs(batch).items()}, "num_inference_steps": steps}


def priced(tiny: TinyPipeline, loss: Any = brightness, machine: Machine = ARITHMETIC, **options: Any) -> Prices:
    """Parts are counted once, so that several ways of guiding can share them."""
    defaults = {"window": (0.0, 1.0), "decode": None, "views": 1}
    return Prices(tiny.pipe, loss, call_of(tiny), machine, {**defaults, **options}, progress=False)


def way(method: Method, vae: nn.Module | None = None, every: int = 1, checkpointing: bool = False) -> Way:
    return Way(method, every, vae, checkpointing)


@pytest.fixture(scope="module")
def sd() -> TinyPipeline:
    return build("sd-v")


@pytest.fixture(scope="module")
def prices(sd: TinyPipeline) -> Prices:
    return priced(sd)


@pytest.fixture(scope="module")
def through() -> Plan:
    """The plan for a method through the denoiser."""
    tiny = build("ddim")
    return plan(tiny.pipe, brightness, DPS(), progress=False, **call_of(tiny))


@pytest.fixture(autouse=True)
def older_versions_of_pytorch_count_attention_on_the_cpu_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for operation, like in SAME_SHAPES.items():
        if operation not in flop_registry:
            monkeypatch.setitem(flop_registry, operation, flop_registry[like])


class Counter(TorchDispatchMode):
    """FLOP of what really runs; PyTorch's own counter follows modules too, and cannot follow them through autograd.grad."""

    flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


def arithmetic(tiny: TinyPipeline, **guidance: Any) -> int:
    """FLOP of a real run, without the decoding at its end."""
    call = {"output_type": "latent", **call_of(tiny), "generator": torch.Generator().manual_seed(0)}
    with Counter() as counter:
        if guidance:
            with guide(tiny.pipe, brightness, judges={}, **guidance):
                tiny.pipe(**call)
        else:
            tiny.pipe(**call)
    return counter.flops


@pytest.mark.parametrize(("method", "checkpointing"), [(MPGD(), True), (TFG(iterations=3), False), (FreeDoM(), True)])
def test_slowdown_is_the_ratio_of_real_arithmetic(
    sd: TinyPipeline, prices: Prices, method: Method, checkpointing: bool
) -> None:
    real = arithmetic(sd, method=method, checkpointing=checkpointing) / arithmetic(sd)
    assert prices.slowdown(way(method, checkpointing=checkpointing)) == pytest.approx(real, rel=1e-3)


@pytest.mark.parametrize(
    ("family", "method", "options"),
    [
        ("ddim", LGD(samples=2), {"window": (0.3, 0.7)}),
        ("flux-true-cfg", DPS(), {}),
        ("sd-controlnet", DPS(), {}),
    ],
)
def test_slowdown_is_right_for_other_families(family: str, method: Method, options: dict[str, Any]) -> None:
    tiny = build(family)
    real = arithmetic(tiny, method=method, **options) / arithmetic(tiny)
    assert priced(tiny, **options).slowdown(way(method)) == pytest.approx(real, rel=1e-3)


def test_kept_bytes_are_those_that_autograd_saves(sd: TinyPipeline) -> None:
    given: list[tuple[Any, Any]] = []
    hook = sd.pipe.unet.register_forward_pre_hook(
        lambda _, args, kwargs: given.append((args, kwargs)), with_kwargs=True
    )
    try:
        sd.call(steps=1)
    finally:
        hook.remove()
    (state, *rest), keywords = given[0]
    state = state.clone().requires_grad_()
    given_tensors = [*sd.pipe.unet.parameters(), state, *rest, *keywords.values()]
    older = {t.untyped_storage()._cdata for t in given_tensors if isinstance(t, Tensor)}
    saved: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    sd.pipe.unet.requires_grad_(False)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = sd.pipe.unet(state, *rest, **keywords)[0]
    saved[output.untyped_storage()._cdata] = output
    real = sum(t.untyped_storage().nbytes() for key, t in saved.items() if key not in older)
    sd.pipe.unet.requires_grad_(True)
    forward, _ = Rehearsal(sd.pipe, call_of(sd)).denoise(ARITHMETIC, graph=True)
    assert forward.held == pytest.approx(real, rel=0.02)


def test_arithmetic_is_what_pytorch_counts(sd: TinyPipeline, prices: Prices) -> None:
    counts = []
    for steps in (2, 3):
        with FlopCounterMode(display=False) as counter:
            sd.call(steps=steps)
        counts.append(counter.get_total_flops())
    assert prices.denoise(False, False)[0].flops == counts[1] - counts[0]


def test_peak_of_a_meter_is_the_most_that_was_alive() -> None:
    with Meter() as meter:
        a = torch.zeros(1000)
        b = a + 1
        del a
        c = b[:500] * 2
    assert (meter.peak, meter.live) == (8000, 6000)
    del b, c
    assert meter.live == 0


def test_switches_cost_less(prices: Prices) -> None:
    def cost(one: Way) -> tuple[float, int]:
        return prices.slowdown(one), prices.peak(one)

    through, alone = cost(way(DPS())), cost(way(MPGD()))
    checkpointed = cost(way(DPS(), checkpointing=True))
    assert checkpointed[0] > through[0] and checkpointed[1] < through[1]
    assert alone[0] < through[0] and alone[1] < through[1]
    tiny = cost(way(MPGD(), prices.twin(tiny_autoencoder())))
    assert tiny[0] < alone[0] and tiny[1] < alone[1]
    assert cost(way(MPGD(), every=2)) == (pytest.approx(1 + (alone[0] - 1) / 2), alone[1])
    assert cost(way(DPS(strength=0.0))) == (1, prices.unguided_peak())


def test_budget_picks_the_smallest_sacrifice(through: Plan) -> None:
    gib = 2**30
    assert through.within().best == through.asked
    spared = min(o.peak_bytes for o in through.options if o.switches == ("checkpointing=True",))
    best = through.within(memory=(spared + 1) / gib).best
    assert best is not None and best.switches == ("checkpointing=True",)
    assert best.peak_bytes <= spared
    fast = through.within(slowdown=1 + 0.6 * (through.asked.slowdown - 1)).best
    assert fast is not None and fast.switches == ("every=2",)
    nothing = through.within(memory=1 / gib)
    assert nothing.best is None
    assert "nothing fits" in str(nothing) and "too much" in str(nothing)
    assert "Within 1 GiB: as asked." in str(through.within(memory=1.0))


def test_options_are_worth_their_sacrifice(through: Plan) -> None:
    for place, option in enumerate(through.options):
        before = through.options[:place]
        assert not any(o.slowdown <= option.slowdown and o.peak_bytes <= option.peak_bytes for o in before)


def test_nothing_is_changed_or_drawn(sd: TinyPipeline) -> None:
    pipe = sd.pipe
    generator = torch.Generator().manual_seed(3)

    def state() -> list[Any]:
        networks = [m for m in vars(pipe).values() if isinstance(m, nn.Module)]
        parts = [part for network in networks for part in network.modules()]
        flags = [(id(p), p.data_ptr(), p.requires_grad) for network in networks for p in network.parameters()]
        hooks = [(type(part), dict(vars(part)).keys(), len(part._forward_pre_hooks)) for part in parts]
        kept = [{k: id(v) for k, v in vars(thing).items()} for thing in (pipe, pipe.scheduler)]
        return [flags, hooks, kept, torch.is_grad_enabled()]

    before, global_numbers, own = state(), torch.get_rng_state(), generator.get_state()
    plan(pipe, brightness, progress=False, generator=generator, **call_of(sd))
    assert state() == before
    assert torch.equal(torch.get_rng_state(), global_numbers) and torch.equal(generator.get_state(), own)


def test_networks_without_weights_cost_the_same(prices: Prices) -> None:
    tiny = build("sd-v")
    tiny.pipe.unet.to("meta")
    tiny.pipe.vae.to("meta")
    bare = priced(tiny)
    assert bare.denoise(False, False) == prices.denoise(False, False)
    assert bare.gradient(None, False) == prices.gradient(None, False)
    assert bare.weights() == prices.weights()


class Network(nn.Module):
    """A loss with a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.filter(images).square().flatten(1).mean(1)


def test_loss_is_counted_once_for_each_view(sd: TinyPipeline, prices: Prices) -> None:
    plain = prices.gradient(None, False).flops
    one = priced(sd, Network()).gradient(None, False).flops
    three = priced(sd, Network().to("meta"), views=3).gradient(None, False).flops
    assert one > plain
    assert three - plain == 3 * (one - plain)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (MPGD(), Demand(1, 0)),
        (DPS(), Demand(1, 1)),
        (LGD(samples=5), Demand(5, 1)),
        (UniversalGuidance(backward_steps=3), Demand(4, 1)),
        (TFG(rho=0, iterations=4), Demand(4, 0)),
    ],
)
def test_demand_is_found_by_asking(method: Method, expected: Demand) -> None:
    assert demand_of(method, 0.5) == expected


@pytest.mark.parametrize("kind", ["one", "mask", "weights", "nearest", "one for each prompt", "a sum"])
def test_a_distance_to_references_can_be_planned(sd: TinyPipeline, kind: str) -> None:
    metric, call = DreamSim("pocket"), call_of(sd)
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
    found = plan(sd.pipe, loss, progress=False, **call)
    assert found.asked.slowdown > 2 and found.asked.peak_bytes > found.unguided_bytes
    assert torch.equal(loss(picture(3, 2)), before)  # and what was asked without values has kept none of it
    assert not torch.compiler.is_compiling()


def test_images_of_a_reference_are_those_of_its_prompt_or_as_many_as_told(sd: TinyPipeline) -> None:
    loss = DreamSim("pocket").target(picture(1, 2))
    four = plan(sd.pipe, loss, progress=False, images_per_reference=2, **call_of(sd, batch=4))
    assert four.asked.slowdown > 2
    with pytest.raises(ValueError, match="got 2 references and 4 images"):
        plan(sd.pipe, loss, progress=False, **call_of(sd, batch=4))


def test_latents_whose_grid_is_read_from_positions_can_be_planned() -> None:
    tiny = build("flux2")
    real = arithmetic(tiny, method=MPGD()) / arithmetic(tiny)
    prices = priced(tiny)
    assert prices.slowdown(way(MPGD())) == pytest.approx(real, rel=1e-3)
    with prices.rehearsal.mode:
        run = prices._run(way(MPGD()))
        assert run.decoder is not None and run.decoder(prices.rehearsal.x0).shape == (1, 3, 32, 32)


@pytest.mark.parametrize("name", ["schedule", "until", "judges", "callback", "augmentation"])
def test_an_argument_that_is_not_counted_is_refused(sd: TinyPipeline, name: str) -> None:
    with pytest.raises(ValueError, match=f"has no argument {name}; leave it out here and give it to guide alone"):
        plan(sd.pipe, brightness, progress=False, **{name: 0.5}, **call_of(sd))


def test_a_machine_has_finite_rates(sd: TinyPipeline) -> None:
    machine = Machine.measured()
    assert machine.flops_per_second > 1e8 and machine.bytes_per_second > 1e7 and 0 < machine.latency < 1e-2
    assert machine.seconds(0.0, 0.0) == machine.latency
    counting = priced(sd, machine=Machine(1e12, latency=1.0))
    assert counting.denoise(False, False)[0].seconds > 100  # one for each operation


def test_bad_input_is_told(sd: TinyPipeline, unchecked: None) -> None:
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
    ("name", "kept", "checkpointed", "own", "tiny"),
    [("sd15", 1.44, 0.29, 4.3, 1.30), ("sdxl", 9.94, 0.94, 2.62, 1.10), ("flux", 20.1, 1.5, 1.34, 1.02)],
)
def test_published_architectures(name: str, kept: float, checkpointed: float, own: float, tiny: float) -> None:
    pipe, call = build_real(name)
    rehearsal = Rehearsal(pipe, call)
    for checkpointing, expected in ((False, kept), (True, checkpointed)):
        forward, _ = rehearsal.denoise(ARITHMETIC, graph=True, checkpointing=checkpointing)
        assert forward.held / 2**30 == pytest.approx(expected, rel=0.05)
    found = plan(pipe, method=MPGD(), progress=False, **call)
    with_tiny: Option = next(o for o in found.options if len(o.switches) == 1 and o.switches[0].startswith("vae=tae"))
    assert found.asked.slowdown == pytest.approx(own, rel=0.05)
    assert with_tiny.slowdown == pytest.approx(tiny, rel=0.05)
    assert with_tiny.peak_bytes < found.asked.peak_bytes

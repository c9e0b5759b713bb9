"""Guidance from recorded graphs gives the images of ordinary guidance, whatever changes between steps, calls and pipelines.

The graphs are tapes on the CPU (see `tape_recorder`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tape_recorder import TapeRecorder
from tiny_pipelines import build
from torch import Tensor, nn

from dreamsim_guidance import DreamSim, Loss
from dreamsim_guidance.guidance import DPS, LGD, MPGD, TFG, FlowChef, guide
from dreamsim_guidance.guidance.captured import CapturedGradient
from dreamsim_guidance.guidance.method import Method
from dreamsim_guidance.guidance.native import LossGuidance
from dreamsim_guidance.loss.terms import scheduled_weights
from dreamsim_guidance.losses import L1, MSE, Augmented, MultiCrop, TotalVariation
from dreamsim_guidance.pipelines.decoder import Decoder, Geometry
from dreamsim_guidance.schedule import Cosine, Linear


@pytest.fixture
def recorder() -> TapeRecorder:
    return TapeRecorder()


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.DEBUG, "dreamsim_guidance")
    return lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def assert_guided_alike(
    tiny: Any, loss: Callable[[Tensor], Tensor], method: Method, recorder: TapeRecorder, **options: Any
) -> int:
    """Images and logs with and without graphs agree; returns the number of recordings."""
    call = options.pop("call", {})
    with guide(tiny.pipe, loss, method, capture=False, **options) as plain:
        expected = tiny.call(**call)
    with guide(tiny.pipe, loss, method, capture=recorder, **options) as log:
        torch.testing.assert_close(tiny.call(**call), expected, rtol=1e-3, atol=1e-4)
    for ours, theirs in zip(log.entries, plain.entries, strict=True):
        assert ours.distance == pytest.approx(theirs.distance, rel=1e-3, abs=1e-6)
        assert ours.move == pytest.approx(theirs.move, rel=1e-2, abs=1e-6)
        assert ours.gradient_norm == pytest.approx(theirs.gradient_norm, rel=1e-2, abs=1e-8)
    return recorder.recorded


METHODS: list[Method] = [MPGD(0.1), DPS(0.1), LGD(0.1, samples=2), TFG(0.1), FlowChef(0.1)]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_methods_get_the_same_gradients(method: Method, recorder: TapeRecorder) -> None:
    tiny = build("sd")
    target = DreamSim("pocket").target(tiny.target())
    assert assert_guided_alike(tiny, target, method, recorder, until=0.0) == 1


@pytest.mark.parametrize(
    "family", ["ddpm", "ddim", "sd", "sdxl", "sd3", "flux-dev", "qwen-image", "animatediff", "modular-sd3"]
)
def test_families_are_decoded_from_one_recording(family: str, recorder: TapeRecorder) -> None:
    tiny = build(family)
    assert assert_guided_alike(tiny, tiny.loss(), MPGD(1.0), recorder) == 1


@pytest.mark.parametrize("batch", [1, 3])
def test_views_are_drawn_anew_between_recordings(batch: int, recorder: TapeRecorder) -> None:
    tiny = build("sd")
    target = DreamSim("pocket").target(tiny.target())
    options = {"views": 2, "until": 0.0, "call": {"batch": batch}}
    assert assert_guided_alike(tiny, target, MPGD(0.1), recorder, **options) == 3


def test_an_augmentation_of_the_users_stays_outside_of_the_recordings(recorder: TapeRecorder) -> None:
    tiny = build("ddim")
    options = {"augmentation": lambda x: x + 0.1 * torch.rand_like(x), "views": 2}
    assert assert_guided_alike(tiny, tiny.loss(), MPGD(1.0), recorder, **options) == 3


def test_scheduled_weights_are_inputs_of_a_recording(recorder: TapeRecorder) -> None:
    tiny = build("sd")
    image = tiny.target()
    terms = Cosine(1.0, 0.1, steps=4) * MSE(image) + Linear(0.0, 3.0, steps=4) * (
        Linear(1.0, 0.0, steps=4) * L1(image) + 0.5 * TotalVariation()
    ).named("inner")
    assert assert_guided_alike(tiny, terms, MPGD(3.0), recorder) == 1
    assert assert_guided_alike(tiny, terms, MPGD(3.0), recorder, views=2) == 4


def test_only_weights_that_changed_are_written(recorder: TapeRecorder, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = build("sd")
    image = tiny.target()
    terms = Linear(1.0, 0.5, steps=4) * MSE(image) + Linear(0.5, 0.5, steps=4) * L1(image)
    captured = CapturedGradient(terms, recorder)
    written: list[float] = []
    fill = Tensor.fill_
    monkeypatch.setattr(Tensor, "fill_", lambda self, value: written.append(value) or fill(self, value))
    for values in ([1.0, 0.5], [0.75, 0.5], [0.75, 0.5], [0.75, 0.25]):
        assert captured._filled(values, torch.device("cpu")).tolist() == values
    assert written == [1.0, 0.5, 0.75, 0.25]


def test_whether_to_record_is_decided_once_for_each_call(
    recorder: TapeRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = build("sd")
    guided = guide(tiny.pipe, DreamSim("pocket").target(tiny.target()), MPGD(0.1), capture="auto")
    captured = guided.guidance().captured
    for graphs in captured._graphs:
        graphs.recorder = recorder
    decided: list[Decoder] = []
    reason = CapturedGradient.reason
    monkeypatch.setattr(CapturedGradient, "reason", lambda self, on: decided.append(on) or reason(self, on))
    with guided:
        tiny.call()
        tiny.call()
    assert len(decided) == 2 and recorder.recorded == 1
    assert captured._decoder is None  # the block ends: nothing of the pipeline is held


def test_a_loss_lists_its_scheduled_weights_and_reads_them_from_memory() -> None:
    image = torch.rand(1, 3, 8, 8)
    loss = Linear(0.0, 1.0, steps=4) * MSE(image) + 2 * L1(image) + MultiCrop(Linear(1.0, 2.0, steps=4) * MSE(), image)
    with scheduled_weights() as values:
        loss.at(3)
    assert values[0] == 0.75 and set(values[1:]) == {1.75}
    memory = torch.zeros(len(values), dtype=torch.float64)
    with scheduled_weights(memory):
        fixed = loss.at(0)
    x = torch.rand(2, 3, 8, 8)
    for step in (0, 1, 4):
        with scheduled_weights() as values:
            loss.at(step)
        memory.copy_(torch.tensor(values, dtype=torch.float64))
        torch.testing.assert_close(fixed(x), loss.at(step)(x))
    assert loss.at(1).weights == loss.at(1).at(2).weights


def test_several_images_of_a_prompt_share_a_reference(recorder: TapeRecorder) -> None:
    tiny = build("sd")
    references = torch.cat([tiny.target(1), tiny.target(2)])
    target = DreamSim("pocket").target(references)
    call = {"batch": 2, "num_images_per_prompt": 2}
    assert assert_guided_alike(tiny, target, MPGD(0.1), recorder, call=call) == 1


def test_calls_in_one_block_share_recordings_and_the_block_ends_them(recorder: TapeRecorder) -> None:
    tiny = build("sd")
    guided = guide(tiny.pipe, tiny.loss(), MPGD(1.0), capture=recorder)
    captured = guided.guidance().captured
    with guided:
        first = tiny.call(0)
        second = tiny.call(1)
        assert torch.equal(tiny.call(0), first) and recorder.recorded == 1
        tiny.call(0, batch=2)
        assert recorder.recorded == 2
    assert not torch.equal(first, second) and all(len(graphs) == 0 for graphs in captured._graphs)
    with guided:
        assert torch.equal(tiny.call(0), first)
    assert recorder.recorded == 3


def test_another_size_of_the_same_latents_has_a_recording_of_its_own(recorder: TapeRecorder) -> None:
    tiny = build("flux-dev")  # packed: 32 x 64 and 64 x 32 have the same shape
    loss = Loss.of(lambda x: (x * torch.linspace(0, 1, x.shape[-1])).square().flatten(1).mean(1), "ramp")
    with guide(tiny.pipe, loss, MPGD(1.0), capture=False):
        expected = [tiny.call(height=h, width=w) for h, w in ((32, 64), (64, 32))]
    with guide(tiny.pipe, loss, MPGD(1.0), capture=recorder):
        for image, (h, w) in zip(expected, ((32, 64), (64, 32)), strict=True):
            torch.testing.assert_close(tiny.call(height=h, width=w), image, rtol=1e-3, atol=1e-4)
    assert recorder.recorded == 2


def test_many_sizes_in_one_block_with_views(recorder: TapeRecorder) -> None:
    tiny = build("ddim")
    loss = Loss.of(lambda x: x.square().flatten(1).mean(1), "square")
    with guide(tiny.pipe, loss, MPGD(1.0), views=2, augmentation=lambda x: x.flip(-1), capture=False):
        expected = [tiny.call(0, 2, batch=batch) for batch in range(1, 11)]
    with guide(tiny.pipe, loss, MPGD(1.0), views=2, augmentation=lambda x: x.flip(-1), capture=recorder) as log:
        for batch in [*range(1, 11), 1]:
            torch.testing.assert_close(tiny.call(0, 2, batch=batch), expected[batch - 1], rtol=1e-3, atol=1e-4)
    assert log.entries


def test_recordings_of_views_that_were_dropped_for_others_are_made_once(recorder: TapeRecorder) -> None:
    tiny = build("sd")
    loss = Loss.of(lambda x: x.square().flatten(1).mean(1), "square")
    guided = guide(tiny.pipe, loss, MPGD(1.0), views=2, augmentation=lambda x: x.flip(-1), capture=recorder)
    guided.guidance().captured._decoding.size = 1
    with guided:
        tiny.call(0, 3, batch=1)
        assert recorder.recorded == 3
        tiny.call(0, 3, batch=2)
    assert recorder.recorded == 6


@pytest.mark.parametrize("views", [1, 2])
def test_autocast_may_change_between_calls(views: int, recorder: TapeRecorder) -> None:
    tiny = build("sd")
    target = DreamSim("pocket").target(tiny.target())

    def distances(capture: Any) -> list[float]:
        numbers: list[float] = []
        with guide(tiny.pipe, target, MPGD(0.1), views=views, capture=capture) as log:
            for enabled in (False, True, False):
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
                    tiny.call()
                numbers += [x for entry in log.entries for x in (*entry.distance, *entry.gradient_norm)]
        return numbers

    assert distances(recorder) == pytest.approx(distances(False), rel=3e-2)  # bfloat16 rounds sums in another order
    assert recorder.recorded == (2 if views == 1 else 6)


def test_a_loss_that_decides_on_the_host_guides_without_a_graph(
    recorder: TapeRecorder, lines: Callable[[], list[str]]
) -> None:
    tiny = build("ddim")
    target = tiny.target()

    def loss(images: Tensor) -> Tensor:
        values = (images - target).square().flatten(1).mean(1)
        return values * (2 if float(values.detach().max()) > 0.01 else 1)

    assert assert_guided_alike(tiny, loss, MPGD(1.0), recorder) == 0
    assert len(lines()) == 1 and "reads values back to the host" in lines()[0]


def test_a_failed_way_back_does_not_spoil_the_views(recorder: TapeRecorder, lines: Callable[[], list[str]]) -> None:
    tiny = build("sd")
    record = recorder.record

    def failing(work: Any, device: Any, owner: Any) -> Any:
        if recorder.recorded == 2:  # decoding and loss
            raise RuntimeError("no graph for the way back")
        return record(work, device, owner)

    recorder.record = failing  # type: ignore[method-assign]
    assert assert_guided_alike(tiny, DreamSim("pocket").target(tiny.target()), MPGD(0.1), recorder, views=2) == 2
    assert len(lines()) == 1 and "no graph for the way back" in lines()[0]


# What is recorded by default.


def auto(tiny: Any, loss: Any, recorder: TapeRecorder, **options: Any) -> int:
    captured = CapturedGradient(loss, "auto")
    for graphs in captured._graphs:
        graphs.recorder = recorder
    decoder = Decoder(tiny.pipe, Geometry(32, 32), options.get("vae"), options.get("decode"))
    from dreamsim_guidance.guidance.views import Views

    channels = tiny.pipe.unet.config.in_channels
    captured(decoder, Views(loss), torch.randn(1, channels, 8, 8), 0)
    return recorder.recorded


class Custom(Loss):
    def forward(self, images: Tensor) -> Tensor:
        return images.square().flatten(1).mean(1)


class Declared(Custom):
    capturable = True


def test_losses_that_declare_it_are_recorded_by_default(recorder: TapeRecorder) -> None:
    tiny = build("sd")
    image = torch.rand(1, 3, 16, 16)
    metric = DreamSim("pocket")
    size = Decoder(tiny.pipe, Geometry(32, 32))(torch.randn(1, 4, 8, 8)).shape[-2:]
    reference = torch.rand(1, 3, *size)
    recordable: list[Any] = [
        metric.target(image),
        metric.target(image) + Linear(0.1, 1.0, steps=4) * L1(reference),
        MultiCrop(metric, reference).named("crops"),
        Declared(),
    ]
    others: list[Any] = [
        Custom(),
        metric.target(image) + Custom(),
        Augmented(metric, image),
        lambda x: x.mean((1, 2, 3)),
    ]
    for i, loss in enumerate(recordable):
        assert auto(tiny, loss, recorder) == i + 1
    for loss in others:
        assert auto(tiny, loss, recorder) == len(recordable)


def test_offloaded_pipelines_and_unknown_decoders_are_not_recorded_by_default(
    recorder: TapeRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "dreamsim_guidance")
    tiny, loss = build("sd"), Declared()
    assert auto(tiny, loss, recorder, decode=lambda x: x[:, :3].sigmoid()) == 0
    tiny.pipe.unet._hf_hook = object()
    assert auto(tiny, loss, recorder) == 0
    del tiny.pipe.unet._hf_hook
    assert auto(tiny, loss, recorder) == 1
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2 and all("guidance runs without CUDA graphs" in message for message in messages)
    assert "offloaded" in messages[1]


def test_on_the_cpu_nothing_is_recorded_and_nothing_is_said(lines: Callable[[], list[str]]) -> None:
    tiny = build("sd")
    with guide(tiny.pipe, DreamSim("pocket").target(tiny.target())):
        tiny.call()
    assert lines() == []


def test_refusals_say_what_to_do(unchecked: None) -> None:
    tiny = build("ddim")
    with (
        pytest.raises(ValueError, match=r"the pipeline works on cpu; use pipe.to\('cuda'\), or leave capture out"),
        guide(tiny.pipe, tiny.loss(), capture=True),
    ):
        tiny.call()
    with pytest.raises(ValueError, match="keeps the memory that checkpointing=True saves"):
        guide(tiny.pipe, tiny.loss(), capture=True, checkpointing=True)
    with pytest.raises(ValueError, match="capture must be True, False or 'auto', got 'yes'"):
        guide(tiny.pipe, tiny.loss(), capture="yes")  # type: ignore[arg-type]


@pytest.mark.parametrize("change", ["resize", "swap", "normalize_embeds"])
def test_a_target_that_changes_between_calls_is_recorded_anew(change: str, recorder: TapeRecorder) -> None:
    tiny = build("sd")
    metric = DreamSim("pocket")
    target = metric.target(tiny.target())
    distances: dict[bool, list[float]] = {}
    for captured in (False, True):
        metric.resize = metric.normalize_embeds = True
        target.swap(tiny.target())
        with guide(tiny.pipe, target, MPGD(0.1), capture=recorder if captured else False) as log:
            tiny.call()
            before = log.entries[0].distance
            if change == "swap":
                target.swap(tiny.target().flip(-1))
            else:
                setattr(metric, change, False)
                target.swap(tiny.target())
            tiny.call()
        distances[captured] = [*before, *log.entries[0].distance]
    assert distances[True] == pytest.approx(distances[False], rel=1e-4)
    assert distances[False][0] != pytest.approx(distances[False][-1], rel=1e-3)


def test_guidance_is_captured_by_default_and_not_if_refused(
    monkeypatch: pytest.MonkeyPatch, recorder: TapeRecorder
) -> None:
    tiny = build("sd")
    monkeypatch.setattr("dreamsim_guidance.capture.graphs.CUDA", recorder)  # as if this were a card
    with guide(tiny.pipe, TotalVariation(), MPGD(0.1)):
        tiny.call()
    assert recorder.recorded == 1
    with guide(tiny.pipe, TotalVariation(), MPGD(0.1), capture=False):
        tiny.call()
    assert recorder.recorded == 1


def test_weights_of_the_decoder_may_be_replaced_between_calls(recorder: TapeRecorder) -> None:
    tiny = build("sd")
    loss = tiny.loss()

    def change() -> None:
        for parameter in tiny.pipe.vae.parameters():
            parameter.data = parameter.data * 1.05

    with guide(tiny.pipe, loss, MPGD(1.0), capture=recorder) as log:
        tiny.call()
        change()
        images = tiny.call()
        distances = [entry.distance for entry in log.entries]
    assert recorder.recorded == 2
    with guide(tiny.pipe, loss, MPGD(1.0), capture=False) as log:
        torch.testing.assert_close(tiny.call(), images, rtol=1e-3, atol=1e-4)
    assert [entry.distance for entry in log.entries] == [pytest.approx(d, rel=1e-3) for d in distances]


def test_a_guider_runs_from_recordings_too(recorder: TapeRecorder) -> None:
    tiny = build("modular-sd3")
    loss = tiny.loss()
    images = []
    for capture in (False, recorder):
        tiny.pipe.update_components(guider=LossGuidance(tiny.pipe, loss, MPGD(10.0), capture=capture))
        images.append(tiny.call())
    torch.testing.assert_close(images[1], images[0], rtol=1e-3, atol=1e-4)
    assert recorder.recorded == 1
    tiny.call()
    assert recorder.recorded == 1
    tiny.pipe.guider.release()
    tiny.call()
    assert recorder.recorded == 2


def test_a_target_that_is_captured_itself_guides_as_part_of_the_recording(recorder: TapeRecorder) -> None:
    tiny = build("sd")
    recorder_of_target = TapeRecorder()
    target = DreamSim("pocket").target(tiny.target(), capture=recorder_of_target)
    plain = DreamSim("pocket").target(tiny.target())
    with guide(tiny.pipe, plain, MPGD(0.1), capture=False):
        expected = tiny.call()
    for capture in (recorder, False):
        with guide(tiny.pipe, target, MPGD(0.1), capture=capture):
            torch.testing.assert_close(tiny.call(), expected, rtol=1e-3, atol=1e-4)
    assert recorder.recorded == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("method", [MPGD(0.1), DPS(0.1)], ids=["MPGD", "DPS"])
@pytest.mark.parametrize("family", ["ddim", "sd", "sdxl", "flux-dev"])
def test_on_a_card_guided_images_are_those_without_graphs(
    family: str, method: Method, views: int, lines: Callable[[], list[str]]
) -> None:
    tiny = build(family)
    tiny.pipe.to("cuda")
    target = DreamSim("pocket", device="cuda").target(tiny.target().cuda())
    loss = target + Linear(0.0, 0.1, steps=4) * TotalVariation()
    guided = [guide(tiny.pipe, loss, method, views=views, capture=capture) for capture in (False, "auto")]
    images = []
    for each in guided:
        with each:
            images.append(tiny.call())
            assert not isinstance(each, nn.Module)
    torch.testing.assert_close(images[1], images[0], rtol=1e-2, atol=1e-3)
    assert lines() == []

"""What only a card can show of captured targets: real graphs, streams, synchronisation, and the state after a failure."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from device_waits import waiting_is_an_error
from torch import Tensor

from dreamsim_guidance import DreamSim

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture(params=[torch.float32, torch.float16, torch.bfloat16], ids=str)
def on_card(request: pytest.FixtureRequest) -> DreamSim:
    return DreamSim("pocket", device="cuda", dtype=request.param)


@pytest.fixture
def pocket() -> DreamSim:
    return DreamSim("pocket", device="cuda")


@pytest.fixture
def reference() -> Tensor:
    return torch.rand(1, 3, 64, 64, device="cuda")


def value_and_gradient(target: object, images: Tensor) -> tuple[Tensor, Tensor]:
    leaf = images.detach().clone().requires_grad_()
    values = target(leaf)
    return values.detach(), torch.autograd.grad(values.sum(), leaf)[0]


def assert_same(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], tolerance: float = 1e-3) -> None:
    for ours, theirs in zip(a, b, strict=True):
        assert (ours - theirs).norm() <= tolerance * theirs.norm() + 1e-6


def test_a_replay_gives_value_and_gradient_of_the_target(on_card: DreamSim, reference: Tensor) -> None:
    plain, captured = on_card.target(reference), on_card.target(reference, capture=True)
    for shape in ((1, 3, 64, 64), (4, 3, 100, 80), (1, 3, 64, 64)):
        for _ in range(3):
            images = torch.rand(shape, device="cuda")
            assert_same(value_and_gradient(captured, images), value_and_gradient(plain, images))
            with torch.no_grad():
                assert_same((captured(images),) * 2, (plain(images),) * 2)
    assert captured._graphs is not None and len(captured._graphs) == 4 and not captured._graphs._logged


def test_a_replay_does_not_wait_for_the_device(pocket: DreamSim, reference: Tensor) -> None:
    target = pocket.target(reference, capture=True)
    images = torch.rand(2, 3, 64, 64, device="cuda")
    value_and_gradient(target, images)
    torch.cuda.synchronize()
    with waiting_is_an_error():
        value_and_gradient(target, images)


def test_other_streams_and_threads_get_their_own_results(pocket: DreamSim, reference: Tensor) -> None:
    plain, captured = pocket.target(reference), pocket.target(reference, capture=True)
    batches = [torch.rand(2, 3, 64, 64, device="cuda") for _ in range(24)]
    expected = [value_and_gradient(plain, images) for images in batches]
    results: dict[int, tuple[Tensor, Tensor]] = {}
    torch.cuda.synchronize()

    def work(number: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            for i in range(number, len(batches), 3):
                results[i] = value_and_gradient(captured, batches[i])
            torch.cuda.current_stream().synchronize()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, pair in enumerate(expected):
        assert_same(results[i], pair)


def test_two_targets_share_a_pool_and_keep_their_results_apart(pocket: DreamSim, reference: Tensor) -> None:
    targets = [pocket.target(r, capture=True) for r in (reference, 1 - reference)]
    plain = [pocket.target(r) for r in (reference, 1 - reference)]
    for _ in range(3):
        for shape in ((1, 3, 64, 64), (3, 3, 90, 70)):
            images = torch.rand(shape, device="cuda")
            for target, other in zip(targets, plain, strict=True):
                assert_same(value_and_gradient(target, images), value_and_gradient(other, images))
    targets[0].release()
    torch.cuda.empty_cache()
    images = torch.rand(1, 3, 64, 64, device="cuda")
    for target, other in zip(targets, plain, strict=True):
        assert_same(value_and_gradient(target, images), value_and_gradient(other, images))


def test_swap_move_copy_and_autocast(pocket: DreamSim, reference: Tensor) -> None:
    target = pocket.target(reference, capture=True)
    images = torch.rand(2, 3, 64, 64, device="cuda")
    value_and_gradient(target, images)
    other = torch.rand(1, 3, 90, 50, device="cuda")
    target.swap(other)
    assert_same(value_and_gradient(target, images), value_and_gradient(pocket.target(other), images))
    assert_same(value_and_gradient(copy.deepcopy(target), images), value_and_gradient(pocket.target(other), images))
    with torch.autocast("cuda", dtype=torch.bfloat16):
        expected = value_and_gradient(pocket.target(other), images)
        assert_same(value_and_gradient(target, images), expected, 2e-2)
    pocket.to("cpu")
    with pytest.raises(ValueError, match="must be on one device"):
        target(images)
    pocket.to("cuda")
    assert_same(value_and_gradient(target, images), value_and_gradient(pocket.target(other), images))


class Waiting(torch.autograd.Function):
    """Waits for the device where no dispatch mode can see it, which breaks a recording."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        torch.cuda.synchronize()
        return x.view_as(x)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient


def test_the_card_is_usable_after_a_failed_recording(
    pocket: DreamSim, reference: Tensor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    images = torch.rand(2, 3, 64, 64, device="cuda")
    expected = value_and_gradient(pocket.target(reference), images)
    directions = type(pocket).directions
    target = pocket.target(reference, capture=True)
    monkeypatch.setattr(type(pocket), "directions", lambda *inputs: Waiting.apply(directions(*inputs)))
    for _ in range(2):
        assert_same(value_and_gradient(target, images), expected)
    assert len(caplog.records) == 1 and "not run as a CUDA graph" in caplog.text
    monkeypatch.undo()
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    torch.randn(3, device="cuda").sum().item()
    target.release()
    assert_same(value_and_gradient(target, images), expected)
    assert target._graphs is not None and len(target._graphs) == 1

"""The metric on a GPU: numbers of the CPU, half precision, no waiting for the device, captured, compiled, moved, shared."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from device_waits import waiting_is_an_error
from torch import Tensor

from dreamsim_guidance import DreamSim

pytestmark = pytest.mark.gpu


def step(distance: Callable[[Tensor], Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    """Distances, and the gradient of their sum."""
    leaf = images.detach().clone().requires_grad_()
    values = distance(leaf)
    return values.detach(), torch.autograd.grad(values.float().sum(), leaf)[0]


def assert_close(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor], tolerance: float) -> None:
    """Compare distances and gradients by their relative Euclidean differences."""
    for a, b in zip(ours, theirs, strict=True):
        a, b = a.double().cpu(), b.double().cpu()
        assert a.isfinite().all() and (a - b).norm() <= tolerance * b.norm()


def test_numbers_are_those_of_the_cpu(pocket: DreamSim, images: Tensor, reference: Tensor) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        ours = step(pocket.target(reference), images)
    finally:
        torch.set_float32_matmul_precision(before)
    exact = step(
        DreamSim("pocket", device="cpu", dtype=torch.float64).target(reference.cpu().double()), images.cpu().double()
    )
    assert_close(ours, exact, 1e-3)  # convolutions on a GPU may round their input to tf32


def test_a_step_never_waits_for_the_device(pocket: DreamSim, images: Tensor, reference: Tensor) -> None:
    target, leaf = pocket.target(reference), images.clone().requires_grad_()
    torch.autograd.grad(target(leaf).sum(), leaf)  # the first step may prepare things
    with waiting_is_an_error():
        torch.autograd.grad(target(leaf).sum(), leaf)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.02), (torch.bfloat16, 0.1)], ids=str)
def test_half_precision_is_close_to_float32(
    device: str, pocket: DreamSim, images: Tensor, reference: Tensor, dtype: torch.dtype, tolerance: float
) -> None:
    half = DreamSim("pocket", device=device, dtype=dtype)
    assert_close(step(half.target(reference), images), step(pocket.target(reference), images), tolerance)
    halves = half.target(reference)(images.to(dtype))
    assert halves.isfinite().all() and halves.shape == (3,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_is_close_to_float32_and_finite_for_equal_images(
    device: str, pocket: DreamSim, images: Tensor, reference: Tensor, dtype: torch.dtype
) -> None:
    with torch.autocast(device, dtype):
        ours = step(pocket.target(reference), images)
        values, gradient = step(pocket.target(images), images)
    assert_close(ours, step(pocket.target(reference), images), 0.1)
    assert values.abs().max() < 0.02 and gradient.isfinite().all()


def test_a_step_captured_by_hand_is_the_step(device: str, pocket: DreamSim, images: Tensor, reference: Tensor) -> None:
    if device != "cuda":
        pytest.skip("graphs are CUDA's")
    target, static = pocket.target(reference), images.clone().requires_grad_()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            torch.autograd.grad(target(static).sum(), static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        values = target(static)
        (gradient,) = torch.autograd.grad(values.sum(), static)
    other = images.flip(0)
    with torch.no_grad():
        static.copy_(other)
    graph.replay()
    assert_close((values, gradient), step(target, other), 1e-4)


def test_images_on_another_device_are_refused(
    device: str, pocket: DreamSim, images: Tensor, reference: Tensor, unchecked: None
) -> None:
    if device == "cpu":
        pytest.skip("there is one device")
    with pytest.raises(ValueError, match=r"metric\.to\('cpu'\)"):
        pocket.target(reference)(images.cpu())
    with pytest.raises(ValueError, match=r"metric\.to\('cpu'\)"):
        pocket.target(reference.cpu())


def test_what_a_mask_hides_has_no_influence(device: str, pocket: DreamSim, images: Tensor, reference: Tensor) -> None:
    mask = torch.zeros(1, 1, 64, 64, device=device)
    mask[..., :32] = 1
    target = pocket.target(reference, mask)
    changed = images.clone()
    changed[..., 32:] = 0.5
    torch.testing.assert_close(target(images), target(changed), atol=1e-4, rtol=0)
    assert step(target, images)[1][..., 33:].abs().max() < 1e-6


def test_a_target_moves_and_is_copied_with_its_references(device: str, images: Tensor, reference: Tensor) -> None:
    target = DreamSim("pocket", device="cpu").target(reference.cpu())
    expected = step(target, images.cpu())
    moved = copy.deepcopy(target).to(device)
    assert_close(step(moved, images), expected, 1e-3)
    assert_close(step(target, images.cpu()), expected, 1e-6)
    buffer = io.BytesIO()
    pickle.dump(moved, buffer)
    again = pickle.loads(buffer.getvalue())
    for twin in (copy.deepcopy(moved), again):
        assert_close(step(twin, images), expected, 1e-3)


def test_threads_share_a_metric(pocket: DreamSim, images: Tensor, reference: Tensor) -> None:
    batches = [images.roll(k, 2) for k in range(4)]
    target = pocket.target(reference)
    expected = [step(target, batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda batch: [step(target, batch) for _ in range(5)], batches))
    for ours, theirs in zip(results, expected, strict=True):
        for result in ours:
            assert_close(result, theirs, 1e-4)


def test_the_stacked_metric_is_the_metric(device: str, images: Tensor, reference: Tensor) -> None:
    apart, stacked = (DreamSim("pocket", device=device, stacked=stacked) for stacked in (False, True))
    assert_close(step(stacked.target(reference), images), step(apart.target(reference), images), 1e-3)

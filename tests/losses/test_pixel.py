"""L1, MSE, Charbonnier, total variation and SSIM: laws, parity with other libraries, and errors."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable

import kornia
import pytest
import skimage.metrics
import torch
import torchmetrics.functional.image as torchmetrics
from torch import Tensor

from dreamsim_guidance import Loss, PairLoss
from dreamsim_guidance.losses import L1, MSE, SSIM, Charbonnier, TotalVariation

PAIRS: dict[str, Callable[..., PairLoss]] = {"l1": L1, "mse": MSE, "charbonnier": Charbonnier, "ssim": SSIM}
pairs = pytest.mark.parametrize("make", PAIRS.values(), ids=PAIRS.keys())


@pytest.fixture
def x() -> Tensor:
    return torch.rand(3, 3, 20, 16)


@pytest.fixture
def y() -> Tensor:
    return torch.rand(3, 3, 20, 16)


@pairs
def test_pixel_losses_are_symmetric(make: Callable[..., PairLoss], x: Tensor, y: Tensor) -> None:
    torch.testing.assert_close(make()(x, y), make()(y, x))


@pairs
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_equal_images_are_at_zero_with_a_finite_gradient(make: Callable[..., PairLoss], value: float) -> None:
    for image in (torch.rand(2, 3, 16, 16), torch.full((2, 3, 16, 16), value)):
        leaf = image.clone().requires_grad_()
        loss = make()(leaf, image)
        assert torch.allclose(loss, torch.zeros(2), atol=1e-6)
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        assert gradient.isfinite().all()


@pairs
def test_the_value_of_an_image_does_not_depend_on_its_batch(
    make: Callable[..., PairLoss], x: Tensor, y: Tensor
) -> None:
    loss = make()
    torch.testing.assert_close(loss(x, y), torch.cat([loss(a[None], b[None]) for a, b in zip(x, y, strict=True)]))


@pairs
def test_one_reference_serves_a_batch(make: Callable[..., PairLoss], x: Tensor, y: Tensor) -> None:
    reference = y[:1]
    torch.testing.assert_close(make()(x, reference), make()(x, reference.expand(3, -1, -1, -1)))
    torch.testing.assert_close(make(reference)(x), make()(x, reference))


@pairs
def test_a_bound_loss_is_the_pair_loss(make: Callable[..., PairLoss], x: Tensor, y: Tensor) -> None:
    bound = make(y)
    assert isinstance(bound, Loss)
    assert isinstance(make(), PairLoss)
    torch.testing.assert_close(bound(x), make()(x, y))
    assert list(bound.terms(x)) == list(make().terms(x, y))


@pairs
def test_gradients_are_exact_in_float64(make: Callable[..., PairLoss]) -> None:
    x, y = (torch.rand(2, 3, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    options = {"window": 3} if make is SSIM else {}
    assert torch.autograd.gradcheck(make(**options), (x, y), fast_mode=make is SSIM)


@pairs
def test_half_precision_images_are_compared_in_float32(make: Callable[..., PairLoss], x: Tensor, y: Tensor) -> None:
    half = make()(x.bfloat16(), y)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, make()(x.bfloat16().float(), y))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(make()(x, y), make()(x, y).float(), atol=0, rtol=0)


@pairs
@pytest.mark.usefixtures("unchecked")
def test_pixel_losses_compile_without_breaks(make: Callable[..., PairLoss], x: Tensor, y: Tensor) -> None:
    torch._dynamo.reset()
    fullgraph = make is not SSIM  # kornia chooses its convolution by the kind of tensor, which breaks the graph
    compiled = torch.compile(make(), backend="eager", fullgraph=fullgraph)
    torch.testing.assert_close(compiled(x, y), make()(x, y))


@pairs
def test_pixel_losses_survive_pickle_and_deepcopy(make: Callable[..., PairLoss], x: Tensor, y: Tensor) -> None:
    for loss, images in ((make(), (x, y)), (make(y), (x,))):
        for twin in (pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss)):
            torch.testing.assert_close(twin(*images), loss(*images))


def test_the_values_are_those_of_the_formulas(x: Tensor, y: Tensor) -> None:
    d = (x - y).flatten(1)
    torch.testing.assert_close(L1()(x, y), d.abs().mean(1))
    torch.testing.assert_close(MSE()(x, y), d.square().mean(1))
    torch.testing.assert_close(Charbonnier(eps=0.1)(x, y), ((d**2 + 0.01).sqrt() - 0.1).mean(1))


def test_the_former_name_of_mse_still_works(x: Tensor, y: Tensor) -> None:
    from dreamsim_guidance.losses import L2

    total, terms = (0.5 * L2(y) + L1(y)).value_and_terms(x)
    assert list(terms) == ["mse", "l1"]
    torch.testing.assert_close(total, 0.5 * MSE()(x, y) + L1()(x, y))


def test_the_scale_does_not_depend_on_the_resolution() -> None:
    for size in (16, 64):
        x, y = torch.full((1, 3, size, size), 0.7), torch.full((1, 3, size, size), 0.2)
        torch.testing.assert_close(L1()(x, y), torch.tensor([0.5]))


def test_mse_gives_the_peak_signal_to_noise_ratio(x: Tensor, y: Tensor) -> None:
    for a, b, value in zip(x, y, MSE()(x, y), strict=True):
        expected = skimage.metrics.peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=1.0)
        assert -10 * math.log10(value) == pytest.approx(expected, abs=1e-5)


def test_ssim_agrees_with_scikit_image(photograph: Tensor) -> None:
    x = photograph[..., 100:180, 150:250]
    y = (x + 0.1 * torch.randn_like(x)).clamp(0, 1)
    ours = 1 - SSIM()(x, y).item()
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    theirs = skimage.metrics.structural_similarity(
        x[0].double().numpy(), y[0].double().numpy(), channel_axis=0, data_range=1.0, **settings
    )
    assert ours == pytest.approx(theirs, abs=1e-5)


def test_ssim_is_kornias_map_averaged_per_image(x: Tensor, y: Tensor) -> None:
    expected = kornia.metrics.ssim(x, y, 11, padding="valid").mean((1, 2, 3))
    torch.testing.assert_close(1 - SSIM()(x, y), expected)


def test_total_variation_is_zero_for_flat_images_and_known_for_stripes() -> None:
    stripes = torch.zeros(2, 3, 8, 8)
    stripes[1, :, ::2] = 1
    torch.testing.assert_close(TotalVariation()(stripes), torch.tensor([0.0, 1.0]))


def test_total_variation_agrees_with_torchmetrics(x: Tensor) -> None:
    h, w = x.shape[-2:]
    vertical, horizontal = (x[..., 1:, :] - x[..., :-1, :]).abs(), (x[..., 1:] - x[..., :-1]).abs()
    torch.testing.assert_close(vertical.sum() + horizontal.sum(), torchmetrics.total_variation(x))
    expected = vertical.sum((1, 2, 3)) / (3 * (h - 1) * w) + horizontal.sum((1, 2, 3)) / (3 * h * (w - 1))
    torch.testing.assert_close(TotalVariation()(x), expected)


def test_total_variation_has_a_finite_gradient_on_flat_images_and_an_exact_one_elsewhere() -> None:
    flat = torch.zeros(1, 3, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(TotalVariation()(flat).sum(), flat)
    assert gradient.isfinite().all()
    assert torch.autograd.gradcheck(
        TotalVariation(), (torch.rand(2, 3, 4, 4, dtype=torch.float64, requires_grad=True),)
    )


def test_total_variation_joins_a_training_loss(x: Tensor, y: Tensor) -> None:
    loss = L1() + 0.1 * TotalVariation().of_pred()
    torch.testing.assert_close(loss(x, y), L1()(x, y) + 0.1 * TotalVariation()(x))


@pairs
@pytest.mark.usefixtures("unchecked")
def test_the_error_for_images_of_different_size_states_both_shapes(make: Callable[..., PairLoss]) -> None:
    message = r"got \(1, 3, 16, 16\) and \(1, 3, 16, 20\); dreamsim_guidance.preprocess.resize"
    with pytest.raises(ValueError, match=message):
        make()(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 20))
    with pytest.raises(ValueError, match=r"got \(3, 3, 16, 16\) and \(2, 3, 16, 16\)"):
        make()(torch.rand(3, 3, 16, 16), torch.rand(2, 3, 16, 16))


@pairs
@pytest.mark.usefixtures("unchecked")
def test_the_wrong_range_is_refused_on_both_sides(make: Callable[..., PairLoss], x: Tensor) -> None:
    message = r"must lie in \[0, 1\], got \[-.*; use \(x \+ 1\) / 2 for images in \[-1, 1\]."
    for images in ((2 * x - 1, x), (x, 2 * x - 1)):
        with pytest.raises(ValueError, match=message):
            make()(*images)
    with pytest.raises(ValueError, match=message):
        make(2 * x - 1)
    with pytest.raises(ValueError, match=r"reference must lie .* use x / 255"):
        make(x * 255)


@pytest.mark.usefixtures("unchecked")
def test_inputs_that_are_not_image_batches_are_refused() -> None:
    with pytest.raises(TypeError, match="pred must be floating point"):
        L1()(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="3 channels"):
        TotalVariation()(torch.rand(1, 1, 8, 8))
    with pytest.raises(ValueError, match=r"unsqueeze\(0\)"):
        L1(torch.rand(3, 8, 8))


@pytest.mark.usefixtures("unchecked")
def test_images_on_two_devices_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be on one device, got cpu and meta; use target.to"):
        L1()(torch.rand(1, 3, 8, 8), torch.empty(1, 3, 8, 8, device="meta"))


def test_ssim_says_when_an_image_is_smaller_than_its_window() -> None:
    with pytest.raises(ValueError, match="SSIM needs images of at least 11 x 11 pixels, got 8 x 20"):
        SSIM()(torch.rand(1, 3, 8, 20), torch.rand(1, 3, 8, 20))
    with pytest.raises(ValueError, match="window must be odd"):
        SSIM(window=8)
    with pytest.raises(ValueError, match="eps must be positive"):
        Charbonnier(eps=0.0)

"""DreamSimLoss in training: frozen weights, gradient paths, and the frameworks it has to work with."""

from __future__ import annotations

import copy
import pickle
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from autoencoder import Autoencoder, train_in_parallel
from torch import Tensor, nn

from dreamsim_guidance import BranchConfig, DreamSim, Loss
from dreamsim_guidance.losses import L1, DreamSimLoss
from dreamsim_guidance.training.accelerate_state import own_accelerate_state


@pytest.fixture
def x() -> Tensor:
    return torch.rand(2, 3, 40, 48)


@pytest.fixture
def y() -> Tensor:
    return torch.rand(2, 3, 40, 48)


def test_the_loss_is_the_metric(metric: DreamSim, x: Tensor, y: Tensor) -> None:
    torch.testing.assert_close(DreamSimLoss(metric)(x, y), metric(x, y))


def test_the_gradient_is_the_metrics(metric: DreamSim, x: Tensor, y: Tensor) -> None:
    x.requires_grad_()
    gradients = [torch.autograd.grad(loss(x, y).sum(), x)[0] for loss in (DreamSimLoss(metric), metric)]
    torch.testing.assert_close(*gradients)


def test_pictures_of_different_sizes_are_compared(metric: DreamSim, x: Tensor) -> None:
    assert DreamSimLoss(metric)(x, torch.rand(1, 3, 64, 33)).shape == (2,)


def test_the_target_has_no_graph(metric: DreamSim, x: Tensor, y: Tensor) -> None:
    assert not DreamSimLoss(metric)(x, y.requires_grad_()).requires_grad
    DreamSimLoss(metric)(x.requires_grad_(), y).sum().backward()
    assert y.grad is None


def test_the_metric_is_frozen_and_not_a_submodule(metric: DreamSim, x: Tensor) -> None:
    model = Autoencoder(metric)
    model.train().requires_grad_(True)
    assert {name for name, _ in model.named_parameters()} == {"net.weight", "net.bias"}
    assert set(model.state_dict()) == {"net.weight", "net.bias"}
    assert not any(module.training for module in metric.modules())
    model(x).backward()
    assert all(p.grad is None and not p.requires_grad for p in metric.parameters())
    assert all(p.grad is not None for p in model.parameters())


def test_an_adapter_that_was_trainable_is_frozen_too(metric: DreamSim) -> None:
    metric.attach_adapter(rank=2)
    DreamSimLoss(metric)
    assert not any(p.requires_grad for p in metric.parameters())


def test_equal_images_have_a_finite_gradient(metric: DreamSim, x: Tensor) -> None:
    for image in (x, torch.zeros_like(x), torch.ones_like(x)):
        leaf = image.clone().requires_grad_()
        value = DreamSimLoss(metric)(leaf, image)
        assert (value >= 0).all()
        assert torch.allclose(value, torch.zeros(2), atol=1e-6)
        assert torch.autograd.grad(value.sum(), leaf)[0].isfinite().all()


def test_the_gradient_is_exact_in_float64(metric: DreamSim) -> None:
    loss, y = DreamSimLoss(metric).double(), torch.rand(1, 3, 33, 30, dtype=torch.float64)
    x = (0.25 + 0.5 * torch.rand(1, 3, 33, 30, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda images: loss(images, y), (x,), fast_mode=True)


def test_moving_the_loss_moves_its_metric(metric: DreamSim) -> None:
    nn.ModuleDict({"loss": DreamSimLoss(metric)}).to(torch.float64)
    assert metric.dtype == torch.float64


def test_a_mask_confines_the_loss(metric: DreamSim, x: Tensor, y: Tensor) -> None:
    mask = torch.zeros(1, 1, 40, 48)
    mask[..., :24] = 1
    loss = DreamSimLoss(metric)
    inside = torch.where(mask.bool(), x, y)
    torch.testing.assert_close(loss(x, inside, mask), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(loss(x, y, torch.ones_like(mask)), loss(x, y))


def test_binding_caches_the_reference(metric: DreamSim, x: Tensor, y: Tensor) -> None:
    bound = (DreamSimLoss(metric) + 0.1 * L1()).against(y)
    assert isinstance(bound, Loss)
    assert list(bound.weights) == ["dreamsim", "l1"]
    torch.testing.assert_close(bound(x), (DreamSimLoss(metric) + 0.1 * L1())(x, y))


def test_it_builds_its_metric_from_a_list_of_branches(x: Tensor) -> None:
    overrides = {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_size": 8}
    config = BranchConfig("tiny", "vit_base_patch16_224", image_size=32, overrides=overrides)
    loss = DreamSimLoss(DreamSim([config], pretrained=False))
    assert loss(x, x).shape == (2,)
    assert isinstance(DreamSimLoss(loss.metric.ensemble).metric, DreamSim)


def test_it_survives_pickle_and_deepcopy(metric: DreamSim, x: Tensor, y: Tensor) -> None:
    loss = DreamSimLoss(metric) + 0.1 * L1()
    for twin in (pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss)):
        torch.testing.assert_close(twin(x, y), loss(x, y))
        assert not list(twin.parameters())


# the table of resize weights is a pure function of two integers; tracing through its cache is harmless
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_it_compiles_without_breaks(backend: str, metric: DreamSim, x: Tensor, y: Tensor) -> None:
    torch._dynamo.reset()
    loss, leaf = DreamSimLoss(metric), x.clone().requires_grad_()
    compiled = torch.compile(loss, backend=backend, fullgraph=True)
    value = compiled(leaf, y)
    torch.testing.assert_close(value.detach(), loss(x, y))
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    (expected,) = torch.autograd.grad(loss(leaf, y).sum(), leaf)
    torch.testing.assert_close(gradient, expected)


def test_it_is_float32_under_bfloat16_autocast(metric: DreamSim, x: Tensor, y: Tensor) -> None:
    loss = DreamSimLoss(metric)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(x.requires_grad_(), y)
        same = loss(x, x.detach())
    (value + same).sum().backward()
    assert value.dtype == torch.float32
    assert x.grad is not None
    assert x.grad.isfinite().all()
    torch.testing.assert_close(value, loss(x, y), atol=3e-2, rtol=0)  # bfloat16 features


def test_it_trains_under_accelerate(metric: DreamSim, x: Tensor) -> None:
    from accelerate import Accelerator

    with own_accelerate_state():
        accelerator = Accelerator(cpu=True)
        model = Autoencoder(metric)
        optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
        prepared, optimiser = accelerator.prepare(model, optimiser)
        losses = []
        for _ in range(5):
            loss = prepared(x)
            optimiser.zero_grad()
            accelerator.backward(loss)
            optimiser.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]
        assert set(accelerator.get_state_dict(prepared)) == {"net.weight", "net.bias"}


def _port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.exact
def test_two_processes_train_as_one_does_on_both_halves(metric: DreamSim, x: Tensor, tmp_path: Path) -> None:
    """In float64, in which the two differ by their order of summation only: 1e-15, on every processor."""
    metric, x = metric.double(), x.double()
    torch.multiprocessing.spawn(train_in_parallel, (2, _port(), metric, x, tmp_path), nprocs=2)
    parallel = torch.load(tmp_path / "state.pt", weights_only=True)
    model = Autoencoder(metric).double()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(2):
        optimiser.zero_grad()
        model(x).backward()
        optimiser.step()
    assert set(parallel) == {"net.weight", "net.bias"}
    for name, value in model.state_dict().items():
        assert value.dtype == torch.float64
        torch.testing.assert_close(parallel[name], value, atol=1e-10, rtol=0)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("swap", [False, True], ids=["pred", "target"])
def test_images_in_another_range_are_refused(swap: bool, metric: DreamSim, x: Tensor) -> None:
    images = (x, 2 * x - 1) if swap else (2 * x - 1, x)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got \[-1.00, 1.00\]; use \(x \+ 1\) / 2"):
        DreamSimLoss(metric)(*images)


@pytest.mark.parametrize(
    ("options", "combine"),
    [
        ({"reduction": "mean"}, lambda d: d.mean(1)),
        ({"reduction": "min"}, lambda d: d.amin(1)),
        ({"reduction": "mean", "weights": [1.0, 2.0, 1.0]}, lambda d: d @ torch.tensor([0.25, 0.5, 0.25])),
    ],
    ids=["mean", "min", "weighted"],
)
def test_many_references_are_combined_and_join_a_sum(
    options: dict[str, object], combine: Callable[[Tensor], Tensor], metric: DreamSim, x: Tensor
) -> None:
    references = torch.rand(3, 3, 32, 32)
    distances = torch.stack([metric(x, reference[None]) for reference in references], dim=1)
    goal = metric.target(references, **options)  # type: ignore[arg-type]
    torch.testing.assert_close(goal(x), combine(distances))
    loss = 2 * goal + L1(x)
    torch.testing.assert_close(loss(x), 2 * combine(distances))
    assert list(loss.weights) == ["dreamsim", "l1"]


def test_predictions_may_overshoot_in_validation_as_in_training(metric: DreamSim) -> None:
    loss, target = DreamSimLoss(metric), torch.rand(2, 3, 32, 32)
    pred = (target * 1.1 - 0.05).requires_grad_()
    with torch.no_grad():
        validation = loss(pred, target)
    torch.testing.assert_close(loss(pred, target), validation)
    with pytest.raises(ValueError, match=r"pred must lie in \[0, 1\]"):
        loss(pred.detach() * 255, target)
    with pytest.raises(ValueError, match=r"target must lie in \[0, 1\]"):
        loss(pred, pred.detach())


def test_the_target_has_the_batch_of_the_prediction_or_one_image(metric: DreamSim, unchecked: None) -> None:
    with pytest.raises(ValueError, match="got 3 targets for 1 images"):
        DreamSimLoss(metric)(torch.rand(1, 3, 32, 32), torch.rand(3, 3, 32, 32))


def test_sums_take_the_names_that_their_terms_take(metric: DreamSim) -> None:
    pred, target = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    loss = DreamSimLoss(metric) + 0.5 * L1()
    torch.testing.assert_close(loss(pred=pred, target=target), loss(pred, target))

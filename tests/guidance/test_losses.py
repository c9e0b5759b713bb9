"""Any differentiable function of images alone can guide; one that needs a target, or ignores the images, is refused."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from tiny_pipelines import build
from torch import Tensor, nn

from dreamsim_guidance import DreamSim, Loss, PairLoss
from dreamsim_guidance.guidance import DSG, Method, guide, plan
from dreamsim_guidance.guidance.judges import judges_of
from dreamsim_guidance.guidance.methods import METHODS, method_class
from dreamsim_guidance.losses import L1

TINY = build("ddim")
TARGET = torch.rand(1, 3, *TINY.call(0, 1).shape[-2:], generator=torch.Generator().manual_seed(3))
ALL = [method_class(name)() for name in METHODS]
every_method = pytest.mark.parametrize("method", ALL, ids=lambda method: type(method).__name__)


def squared(images: Tensor, target: Tensor = TARGET) -> Tensor:
    return (images - target).square().flatten(1).mean(1)


class Callable:
    """A callable object that is no module, with an attribute `target`."""

    def __init__(self) -> None:
        self.target, self.references = TARGET, TARGET

    def __call__(self, images: Tensor) -> Tensor:
        return squared(images, self.target)


class Module(nn.Module):
    """A module with attributes named like those of the package's targets, but with other contents."""

    references: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.target = 0.5
        self.register_buffer("references", torch.zeros(7))
        self.mask = self.reduction = "something else"

    def forward(self, images: Tensor) -> Tensor:
        return squared(images, torch.tensor(self.target))


class OwnLoss(Loss):
    """A subclass of `Loss` with attributes named like those of the package's targets."""

    def __init__(self) -> None:
        super().__init__()
        self.target = TARGET
        self.register_buffer("references", torch.zeros(2, 5))

    def forward(self, images: Tensor) -> Tensor:
        return squared(images, self.target)


def with_attribute() -> Any:
    def loss(images: Tensor) -> Tensor:
        return squared(images)

    loss.target = TARGET  # type: ignore[attr-defined]
    return loss


@pytest.mark.parametrize(
    "make",
    [
        Callable,
        Module,
        OwnLoss,
        with_attribute,
        lambda: functools.partial(squared, target=TARGET),
        lambda: 2 * OwnLoss() + Loss.of(squared),
        lambda: L1().against(TARGET),
        lambda: torch.compile(Module(), backend="eager"),
    ],
)
def test_a_loss_of_images_alone_guides_whatever_its_attributes_are_called(make: Any) -> None:
    loss = make()
    assert judges_of(loss) == {}
    with guide(TINY.pipe, loss, window=(0.5, 1.0)) as log:
        TINY.call(steps=2)
    assert set(log.final) == {"distance"} and log.entries[0].move[0] > 0
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("make", "needed"),
    [
        (lambda: DreamSim("pocket"), "y"),
        (lambda: torch.compile(DreamSim("pocket"), backend="eager"), "y"),
        (L1, "target"),
        (lambda: PairLoss.of(torch.nn.functional.mse_loss) + L1(), "target"),
        (lambda: torch.nn.functional.mse_loss, "target"),
        (nn.MSELoss, "target"),
        (lambda: lambda images, step: squared(images), "step"),
    ],
)
def test_a_loss_that_needs_more_than_images_is_refused_naming_the_argument(make: Any, needed: str) -> None:
    with pytest.raises(TypeError, match=f"needs {needed} as well.*metric.target"):
        guide(TINY.pipe, make())


@pytest.mark.parametrize("make", [Callable, with_attribute])
def test_adding_a_callable_that_is_no_loss_says_to_wrap_it(make: Any) -> None:
    with pytest.raises(TypeError, match=r"wrap it, Loss.of"):
        OwnLoss() + make()
    with pytest.raises(TypeError, match=r"metric.target\(image\)"):
        OwnLoss() + DreamSim("pocket")


def test_a_target_inside_another_module_is_judged_by_its_references() -> None:
    class Wrapper(nn.Module):
        references = torch.zeros(3)

        def __init__(self) -> None:
            super().__init__()
            self.inner = DreamSim("pocket").target(TARGET)

        def forward(self, images: Tensor) -> Tensor:
            return self.inner(images)

    judges = judges_of(Wrapper())
    assert set(judges) == {"rms", "1 - ssim"}
    torch.testing.assert_close(judges["rms"](TARGET), torch.zeros(1))


class Constant(nn.Module):
    """A value with a gradient in a parameter, but none in the images."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return self.value.expand(len(images))


CONSTANT = [
    lambda images: torch.ones(len(images)),
    lambda images: squared(images.detach()),
    Constant(),
    lambda images: torch.full((len(images),), images.detach().mean().item()),
    lambda images: torch.as_tensor(images.detach().numpy().mean((1, 2, 3))),
]


@pytest.mark.parametrize("loss", CONSTANT)
@every_method
def test_a_loss_that_does_not_depend_on_the_images_is_refused(method: Method, loss: Any) -> None:
    unguided = TINY.call(steps=2, eta=1.0)
    message = r"no gradient in the images.*cannot guide, leave it out"
    with pytest.raises(ValueError, match=message), guide(TINY.pipe, loss, method):
        TINY.call(steps=2, eta=1.0)
    assert torch.equal(TINY.call(steps=2, eta=1.0), unguided)


@every_method
def test_a_loss_whose_gradient_is_zero_moves_nothing(method: Method) -> None:
    unguided = TINY.call(steps=2, eta=1.0)
    with guide(TINY.pipe, lambda images: 0 * squared(images), method) as log:
        images = TINY.call(steps=2, eta=1.0)
    assert log.skipped == 0 and not any(entry.gradient_norm[0] for entry in log.entries)
    assert images.isfinite().all()
    if not method.recurrent:  # time travel draws additional noise
        assert float((images - unguided).abs().max()) < 1e-5


def test_with_strength_zero_a_constant_loss_is_logged_and_not_refused() -> None:
    with guide(TINY.pipe, Constant(), DSG(0.0)) as log:
        TINY.call(steps=2)
    assert log.distance == [1.0]


# The meta device.


def test_a_loss_on_the_meta_device_is_refused_by_guide_and_counted_by_plan() -> None:
    metric = DreamSim("pocket")
    target = metric.target(TARGET)
    target.to("meta")
    with pytest.raises(RuntimeError, match="Target is on the meta device"), guide(TINY.pipe, target):
        pass
    assert plan(TINY.pipe, target, progress=False, **TINY.inputs(1), num_inference_steps=2).asked.slowdown > 1


def test_a_pipeline_on_the_meta_device_is_refused_by_guide_and_counted_by_plan() -> None:
    tiny = build("ddim")
    tiny.pipe.unet.to("meta")
    with pytest.raises(RuntimeError, match="UNet2DModel is on the meta device"), guide(tiny.pipe, squared):
        pass
    assert "step" not in vars(tiny.pipe.scheduler)
    target = DreamSim("pocket").target(TARGET)
    assert plan(tiny.pipe, target, progress=False, **tiny.inputs(1), num_inference_steps=2).asked.slowdown > 1


def test_an_attribute_called_at_is_used_only_on_losses_of_this_package() -> None:
    class Timed:
        at = "noon"

        def __call__(self, images: Tensor) -> Tensor:
            return squared(images)

    with guide(TINY.pipe, Timed()) as log:
        TINY.call(steps=2)
    assert log.entries[0].move[0] > 0

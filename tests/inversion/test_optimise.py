"""`optimise` finds the image that a loss asks for, returns the best step with its history, and refuses what has no gradient."""

import pytest
import torch
from torch import Tensor, nn

from dreamsim_guidance.inversion import Optimised, Pixels, optimise
from dreamsim_guidance.loss import Loss
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.schedule import Linear


class DistanceTo(Loss):
    """Mean squared distance to a picture."""

    name = "distance"

    def __init__(self, picture: Tensor) -> None:
        super().__init__()
        self.register_buffer("picture", picture)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.picture).square().flatten(1).mean(1)


def pixels(batch: int = 1, seed: int = 0) -> Pixels:
    return Pixels(16, batch=batch, generator=torch.Generator().manual_seed(seed))


def optimised(loss: object, image: nn.Module, steps: int = 30, **options: object) -> Optimised:
    return optimise(loss, image, steps, progress=False, **options)  # type: ignore[arg-type]


def test_it_finds_the_picture_that_the_loss_asks_for() -> None:
    picture = torch.rand(1, 3, 16, 16) * 0.8 + 0.1
    result = optimised(DistanceTo(picture), pixels(), 300)
    assert (result.image - picture).abs().mean() < 0.01


def test_following_the_gradient_of_the_metric_lowers_its_distance(metric: DreamSim, photograph: Tensor) -> None:
    target = metric.target(photograph)
    start = pixels()
    before = target(start().detach())
    assert (optimised(target, start, 40).loss < 0.5 * before).all()


def test_the_best_step_is_returned_and_not_the_last() -> None:
    images: list[Tensor] = []

    def worse_every_step(x: Tensor) -> Tensor:
        images.append(x.detach())
        return x.flatten(1).mean(1) * 0 + len(images)

    result = optimised(worse_every_step, pixels(), 5)
    assert result.best_step.tolist() == [0]
    assert torch.equal(result.image, images[0])


def test_the_returned_loss_is_that_of_the_returned_image() -> None:
    loss = DistanceTo(torch.rand(2, 3, 16, 16))
    result = optimised(loss, pixels(2))
    assert torch.equal(loss(result.image), result.loss)
    assert torch.equal(result.loss, result.history["loss"].amin(0))


def test_each_image_of_a_batch_is_optimised_as_if_it_were_alone() -> None:
    pictures = torch.rand(2, 3, 16, 16)
    together = pixels(2)
    alone = pixels(1)
    for level_of_one, level_of_two in zip(alone.levels, together.levels, strict=True):
        level_of_one.data = level_of_two.data[1:].clone()
    assert torch.allclose(
        optimised(DistanceTo(pictures), together).image[1:], optimised(DistanceTo(pictures[1:]), alone).image, atol=1e-6
    )


def test_the_same_seed_gives_the_same_picture() -> None:
    loss = DistanceTo(torch.rand(1, 3, 16, 16))
    assert torch.equal(optimised(loss, pixels(seed=3)).image, optimised(loss, pixels(seed=3)).image)


def test_history_holds_the_start_and_every_term() -> None:
    target = torch.rand(1, 3, 16, 16)
    loss = DistanceTo(target) + 2 * DistanceTo(1 - target).named("opposite")
    result = optimised(loss, pixels(2), 7)
    assert set(result.history) == {"loss", "distance", "opposite"}
    assert all(values.shape == (8, 2) for values in result.history.values())
    assert torch.allclose(result.history["loss"], result.history["distance"] + 2 * result.history["opposite"])


def test_scheduled_weights_follow_the_step() -> None:
    result = optimised(Linear(1, 0, steps=4) * DistanceTo(torch.rand(1, 3, 16, 16)), pixels(), 4)
    weights = (result.history["loss"] / result.history["distance"])[:, 0]
    assert torch.allclose(weights, torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]))


def test_zero_steps_return_the_start_and_its_loss() -> None:
    start = pixels()
    result = optimised(DistanceTo(torch.rand(1, 3, 16, 16)), start, 0)
    assert torch.equal(result.image, start().detach())
    assert result.history["loss"].shape == (1, 1)


def test_the_callback_sees_every_step_without_a_graph() -> None:
    calls: list[tuple[int, bool, tuple[int, ...]]] = []
    optimised(
        DistanceTo(torch.rand(1, 3, 16, 16)),
        pixels(2),
        3,
        callback=lambda step, images, losses: calls.append((step, images.requires_grad, tuple(losses.shape))),
    )
    assert calls == [(step, False, (2,)) for step in range(4)]


def test_trainable_weights_of_the_loss_receive_no_gradient() -> None:
    network = nn.Conv2d(3, 1, 3)
    optimised(lambda x: network(x).square().flatten(1).mean(1), pixels(), 2)
    assert network.weight.grad is None


def test_an_image_whose_loss_becomes_nan_is_returned_at_its_best_step() -> None:
    calls: list[int] = []

    def nan_from_the_fourth_call(x: Tensor) -> Tensor:
        calls.append(1)
        value = x.flatten(1).mean(1)
        return value * torch.nan if len(calls) > 3 else value

    result = optimised(nan_from_the_fourth_call, pixels(), 6)
    assert result.image.isfinite().all() and result.best_step.item() == 2


def test_a_loss_that_is_never_finite_is_an_error() -> None:
    with pytest.raises(FloatingPointError, match=r"samples \[0\] was never finite"):
        optimised(lambda x: x.flatten(1).mean(1) * torch.nan, pixels(), 2)


def test_a_loss_must_give_one_value_per_image() -> None:
    with pytest.raises(ValueError, match=r"one value per image, shape \(2,\)"):
        optimised(lambda x: x.mean(), pixels(2))


def test_an_image_without_trainable_parameters_is_an_error() -> None:
    frozen = pixels().requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to optimise"):
        optimised(lambda x: x.flatten(1).mean(1), frozen)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: torch.ones(len(x)),
        lambda x: x.detach().flatten(1).mean(1),
        lambda x: torch.ones(len(x), requires_grad=True) * 2,  # has a graph, but not to the images
    ],
    ids=["constant", "detached", "of other parameters"],
)
def test_a_loss_that_does_not_depend_on_the_images_is_an_error(loss: object) -> None:
    with pytest.raises(ValueError, match="the loss does not depend on the images, so there is no gradient to follow"):
        optimised(loss, pixels(2))
    assert optimised(loss, pixels(2), 0).image.shape == (2, 3, 16, 16)  # without steps no gradient is needed


def test_images_without_a_graph_to_the_parameters_are_an_error() -> None:
    class Detached(Pixels):
        def forward(self) -> Tensor:
            return super().forward().detach()

    with pytest.raises(ValueError, match="the images do not depend on the parameters"):
        optimised(DistanceTo(torch.rand(1, 3, 16, 16)), Detached(16))


def test_a_parameter_that_the_images_do_not_use_stays_as_it_is() -> None:
    image = pixels()
    image.register_parameter("unused", nn.Parameter(torch.ones(3)))
    result = optimised(DistanceTo(torch.rand(1, 3, 16, 16)), image)
    assert result.history["loss"][-1] < result.history["loss"][0] and torch.equal(image.unused, torch.ones(3))


def test_the_result_has_the_dtype_of_the_images_whatever_the_default_is() -> None:
    picture, start = torch.rand(1, 3, 16, 16), pixels()
    torch.set_default_dtype(torch.float64)
    try:
        result = optimised(DistanceTo(picture), start, 3)
        assert Pixels(16)().dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
    assert result.image.dtype == result.loss.dtype == torch.float32 and result.best_step.dtype == torch.int64


def test_progress_goes_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    optimise(DistanceTo(torch.rand(1, 3, 16, 16)), pixels(), 3, progress="searching")
    out, err = capfd.readouterr()
    assert out == "" and "searching" in err

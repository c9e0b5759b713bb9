"""`invert` finds what makes a generator produce an image: exactly where the answer is known, and alike alone or in a batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import dreamsim_guidance
from dreamsim_guidance import Inversion, invert
from dreamsim_guidance.losses import L1, MSE, TotalVariation
from dreamsim_guidance.schedule import Constant


def linear(inputs: int = 24, side: int = 6) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    """A linear generator z -> A z + b of images about 0.5, with A and b."""
    a = 0.03 * torch.randn(3 * side * side, inputs)
    b = torch.full((3 * side * side,), 0.5)
    return (lambda z: (z @ a.T + b).view(-1, 3, side, side)), a, b


def distance_to(images: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: (x - images).square().flatten(1).mean(1)


def wavy(z: Tensor) -> Tensor:
    """A generator with many basins, `(b, 4)` -> `(b, 3, 8, 8)`."""
    grid = torch.linspace(0, 3, 192).view(3, 8, 8)
    waves = torch.stack([(2 * z[:, k, None, None, None] + (k + 1) * grid).sin() for k in range(4)])
    return 0.5 + 0.12 * waves.sum(0)


def sampler(n: int, generator: torch.Generator) -> Tensor:
    return 2 * torch.randn(n, 4, generator=generator)


def quick(loss: Any, through: Any, init: Any = None, steps: int = 40, **options: Any) -> Inversion:
    return invert(loss, through, init, steps, **{"progress": False, "search": 24, **options})


@pytest.mark.parametrize("optimiser", ["adam", "lbfgs"])
def test_a_linear_generator_gives_the_least_squares_solution(optimiser: str) -> None:
    torch.set_default_dtype(torch.float64)  # in float32 the rounding of the loss hides the last digits of the leaves
    try:
        generator, a, b = linear()
        targets = 0.5 + 0.1 * torch.randn(2, 3, 6, 6)
        result = quick(distance_to(targets), generator, torch.zeros(2, 24), 400, optimiser=optimiser)
        solution = torch.linalg.lstsq(a, (targets.flatten(1) - b).T).solution.T
    finally:
        torch.set_default_dtype(torch.float32)
    assert (result.leaves["leaf"] - solution).abs().max() < 1e-5
    assert torch.equal(result.images, generator(result.leaves["leaf"]))


def test_the_call_of_the_readme_works() -> None:
    generator, _, _ = linear()
    assert invert(L1(torch.rand(1, 3, 6, 6)), through=generator, init=torch.zeros(2, 24), steps=3).images.shape == (
        2,
        3,
        6,
        6,
    )
    assert dreamsim_guidance.inversion.invert is invert


@pytest.mark.parametrize("optimiser", ["adam", "sgd", "lbfgs"])
def test_each_sample_of_a_batch_is_found_as_if_it_were_alone(optimiser: str) -> None:
    targets = wavy(sampler(3, torch.Generator().manual_seed(3)))
    together = quick(distance_to(targets), wavy, sampler, batch=3, optimiser=optimiser)
    for i in range(3):
        alone = quick(distance_to(targets[i : i + 1]), wavy, sampler, optimiser=optimiser)
        assert torch.allclose(together.images[i], alone.images[0], atol=1e-4)
        assert torch.allclose(together.history["loss"][:10, i], alone.history["loss"][:10, 0], atol=1e-6)


def test_a_sample_that_stops_early_in_a_batch_stops_as_it_does_alone() -> None:
    targets = torch.stack([torch.full((3, 6, 6), 0.5), torch.rand(3, 6, 6)])
    generator, _, _ = linear()
    options = {"steps": 100, "stop_below": 1e-4, "lr": Constant(0.3)}
    together = quick(distance_to(targets), generator, 0.05 * torch.ones(2, 24), **options)
    alone = quick(distance_to(targets[:1]), generator, 0.05 * torch.ones(1, 24), **options)
    assert len(alone.history["loss"]) < 100 == len(together.history["loss"]) - 1
    assert torch.equal(together.best_step[:1], alone.best_step)
    assert torch.allclose(together.images[:1], alone.images, atol=1e-6)
    assert together.history["loss"][-1, 0].isnan() and together.history["loss"][-1, 1].isfinite()


def test_patience_stops_a_sample_that_no_longer_improves() -> None:
    generator, _, _ = linear()
    worse: list[int] = []

    def rising(x: Tensor) -> Tensor:
        worse.append(1)
        return 0 * x.flatten(1).sum(1) + len(worse)

    result = quick(rising, generator, torch.zeros(1, 24), 400, patience=30)
    assert result.best_step.item() == 0 and len(result.history["loss"]) == 51


def test_the_same_seed_gives_the_same_result_and_another_seed_other_starts() -> None:
    loss = distance_to(wavy(sampler(1, torch.Generator().manual_seed(3))))
    a, b, c = (quick(loss, wavy, sampler, 10, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(a.images, b.images) and torch.equal(a.history["loss"], b.history["loss"])
    assert not torch.equal(a.images, c.images)


def test_the_search_starts_from_the_candidate_with_the_lowest_loss() -> None:
    loss = distance_to(wavy(sampler(1, torch.Generator().manual_seed(3))))
    candidates = sampler(24, torch.Generator().manual_seed(0))
    result = quick(loss, wavy, sampler, 0, chunk=5)
    assert torch.allclose(result.leaves["leaf"][0], candidates[loss(wavy(candidates)).argmin()])


def test_half_of_the_starts_is_dropped_and_the_history_is_that_of_the_survivor() -> None:
    loss = distance_to(wavy(sampler(2, torch.Generator().manual_seed(3))))
    rows: list[int] = []

    def counted(z: Tensor) -> Tensor:
        rows.append(len(z))
        return wavy(z)

    result = quick(loss, counted, sampler, 40, batch=2, restarts=4, chunk=24)
    assert rows[2:] == [8] * 7 + [4] * 6 + [2] * 28
    assert torch.equal(result.history["loss"].amin(0), result.loss)
    assert result.history["loss"].shape == (41, 2)


@pytest.mark.parametrize("optimiser", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("interrupted_at", [5, 11, 33])
def test_an_interrupted_run_goes_on_to_the_same_result(tmp_path: Path, optimiser: str, interrupted_at: int) -> None:
    loss, file = distance_to(wavy(sampler(2, torch.Generator().manual_seed(3)))), tmp_path / "run.pt"
    options = {"batch": 2, "optimiser": optimiser, "checkpoint": file, "checkpoint_every": 4}

    def interrupt(step: int, images: Tensor, losses: Tensor) -> None:
        if step == interrupted_at:
            raise KeyboardInterrupt

    whole = quick(loss, wavy, sampler, 40, **options)
    assert not file.exists()
    with pytest.raises(KeyboardInterrupt):
        quick(loss, wavy, sampler, 40, callback=interrupt, **options)
    assert file.exists()
    resumed = quick(loss, wavy, sampler, 40, **options)
    assert torch.equal(whole.images, resumed.images) and torch.equal(whole.best_step, resumed.best_step)
    assert torch.equal(whole.history["loss"], resumed.history["loss"]) and not file.exists()


def test_the_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    loss, file = distance_to(torch.full((1, 3, 8, 8), 0.5)), tmp_path / "run.pt"

    def interrupt(step: int, images: Tensor, losses: Tensor) -> None:
        if step == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quick(loss, wavy, sampler, 40, checkpoint=file, checkpoint_every=4, callback=interrupt)
    with pytest.raises(ValueError, match="belongs to another run"):
        quick(loss, wavy, sampler, 41, checkpoint=file)
    for other in (
        {"loss": distance_to(torch.full((1, 3, 8, 8), 0.4))},
        {"seed": 1},
        {"through": lambda z: wavy(2 * z)},
    ):
        with pytest.raises(ValueError, match="another loss, generator or seed"):
            quick(**{"loss": loss, "through": wavy, "init": sampler, "steps": 40, "checkpoint": file, **other})


def test_a_search_is_not_repeated_when_a_run_goes_on(tmp_path: Path) -> None:
    loss, file = distance_to(torch.full((1, 3, 8, 8), 0.5)), tmp_path / "run.pt"
    rendered: list[int] = []

    def interrupted(z: Tensor) -> Tensor:
        rendered.append(len(z))
        if len(rendered) == 6:
            raise KeyboardInterrupt
        return wavy(z)

    with pytest.raises(KeyboardInterrupt):
        quick(loss, interrupted, sampler, 40, checkpoint=file)
    assert max(rendered) == 24
    quick(loss, interrupted, sampler, 40, checkpoint=file)
    assert max(rendered[6:]) == 4


class ReadsBack(TorchDispatchMode):
    """Counts the numbers that are read back from tensors, each of which waits for an accelerator."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += "_local_scalar_dense" in str(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("optimiser", ["adam", "lbfgs"])
def test_numbers_are_read_back_by_blocks_and_not_at_every_step(optimiser: str) -> None:
    counts = []
    for steps in (50, 150):
        with ReadsBack() as reads:
            quick(distance_to(torch.rand(1, 3, 8, 8)), wavy, torch.zeros(1, 4), steps, optimiser=optimiser)
        counts.append(reads.count)
    allowed = 100 if optimiser == "adam" else 0  # Adam's counter of steps is a tensor on the CPU
    assert counts[1] - counts[0] <= allowed + 4


def test_steps_are_in_units_of_the_prior() -> None:
    generator, _, _ = linear()
    loss = distance_to(torch.rand(1, 3, 6, 6))
    for scale in (0.01, 100.0):
        moved = (
            quick(loss, lambda z, s=scale: generator(z / s), torch.zeros(1, 24), 60, scale=scale).leaves["leaf"] / scale
        )
        plain = quick(loss, generator, torch.zeros(1, 24), 60).leaves["leaf"]
        assert torch.allclose(moved, plain, atol=1e-4)


def test_the_prior_alone_is_where_the_search_draws_from() -> None:
    centre = torch.tensor([5.0, 0.0, 0.0, 0.0])
    result = quick(distance_to(torch.rand(1, 3, 8, 8)), wavy, steps=0, centre=centre, scale=0.01)
    assert torch.allclose(result.leaves["leaf"], centre[None], atol=0.1)


def test_leaves_by_name_penalty_and_projection() -> None:
    def generator(colour: Tensor, detail: Tensor) -> Tensor:
        return (colour[:, :, None, None] + 0.1 * detail).sigmoid()

    def project_(leaves: dict[str, Tensor]) -> None:
        leaves["colour"].clamp_(-0.5, 0.5)

    init = {"colour": torch.zeros(2, 3), "detail": torch.zeros(2, 3, 4, 4)}
    loss = MSE(torch.full((1, 3, 4, 4), 0.9)) + 0.1 * TotalVariation()
    result = quick(
        loss, generator, init, 60, project_=project_, penalty=lambda colour, detail: detail.square().flatten(1).sum(1)
    )
    assert set(result.leaves) == {"colour", "detail"} and set(result.history) == {"mse", "tv", "penalty", "loss"}
    assert torch.allclose(result.leaves["colour"], torch.tensor(0.5)) and result.leaves["detail"].abs().max() < 0.1


def test_leaves_that_all_samples_share_are_those_of_the_best_mean() -> None:
    codes = torch.rand(3, 5)
    weights = torch.rand(5, 48)
    targets = (codes @ weights / 5).view(3, 3, 4, 4)
    result = quick(distance_to(targets), lambda w: (codes @ w).view(3, 3, 4, 4), {"w": weights / 4}, 200, lr=0.01)
    assert torch.allclose((codes @ result.leaves["w"]).view(3, 3, 4, 4), targets, atol=1e-2)
    with pytest.raises(ValueError, match="one row per image"):
        quick(distance_to(targets), lambda w: (codes @ w).view(3, 3, 4, 4), {"w": weights / 4}, optimiser="lbfgs")


def test_judges_take_no_part_and_judge_the_returned_images() -> None:
    photo = torch.rand(1, 3, 8, 8)
    result = quick(MSE(photo), wavy, sampler, 10, judges={"l1": L1(photo)})
    assert set(result.history) == {"mse", "loss"}
    assert torch.equal(result.judges["l1"], L1(photo)(result.images))


def test_steps_to_a_threshold_and_success() -> None:
    history = torch.tensor([[3.0, 3.0], [1.0, 2.5], [0.5, 2.0]])
    result = Inversion(torch.zeros(2, 3, 4, 4), {}, history[-1], torch.tensor([2, 2]), {"loss": history})
    assert result.steps_to(1.0).tolist() == [1, -1] and result.success(1.0).tolist() == [True, False]


def test_a_result_is_read_back_as_it_was_saved(tmp_path: Path) -> None:
    photo = torch.rand(1, 3, 8, 8)
    result = quick(MSE(photo) + 0.1 * TotalVariation(), wavy, sampler, 5, batch=3, judges={"l1": L1(photo)})
    result.save(tmp_path / "new" / "run")
    assert {file.name for file in (tmp_path / "new" / "run").iterdir()} == {
        "result.safetensors",
        "result.json",
        "images.png",
    }
    loaded = Inversion.load(tmp_path / "new" / "run")
    assert torch.equal(loaded.images, result.images) and torch.equal(loaded.leaves["leaf"], result.leaves["leaf"])
    assert {name: values.tolist() for name, values in loaded.history.items()} == {
        name: values.tolist() for name, values in result.history.items()
    }
    assert loaded.judges["l1"].tolist() == result.judges["l1"].tolist() and loaded.seconds == result.seconds
    assert torch.equal(loaded.best_step, result.best_step)

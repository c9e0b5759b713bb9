"""What is loaded has the precision of its files, and gives the same numbers, whatever PyTorch's default dtype is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import lively, tiny_branches
from official_format import small, write_official
from torch import Tensor

from dreamsim_guidance import VARIANTS, BranchConfig, DreamSim, Ensemble
from dreamsim_guidance.checkpoints.official import load_official

OTHERS = [torch.float64, torch.float16, torch.bfloat16]


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.fixture(params=OTHERS, ids=str)
def other(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


def results(metric: DreamSim) -> list[Tensor]:
    """Distances, embeddings, targets and gradients: everything that a metric gives."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(2, 3, 40, 36, generator=generator, dtype=torch.float32) for _ in range(2))
    mask = torch.zeros(1, 1, 20, 20, dtype=torch.float32)
    mask[..., 4:15, 3:12] = 1
    x.requires_grad_()
    targets = [
        metric.target(y),
        metric.target(y, mask=mask),
        metric.target(y, reduction="min"),
        metric.target(y, reduction="mean", weights=[1.0, 3.0]),
    ]
    outputs = [metric(x, y), metric(x, y, mask), metric.embed(x), *(target(x) for target in targets)]
    if metric.ensemble.has_patches:
        outputs += [metric.distance_map(x, y), metric.distance_map(x, y, mask)]
    gradients = [torch.autograd.grad(output.square().sum(), x, retain_graph=True)[0] for output in outputs]
    return [*outputs, *gradients]


def check(make: Callable[[], DreamSim], other: torch.dtype, expected: DreamSim | None = None) -> None:
    expected = make() if expected is None else expected
    wanted = results(expected)
    with default_dtype(other):
        metric = make()
        actual = results(metric)
    kinds = {tensor.dtype for tensor in (*metric.parameters(), *metric.buffers())}
    assert kinds == {tensor.dtype for tensor in (*expected.parameters(), *expected.buffers())}
    for a, b in zip(actual, wanted, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    with default_dtype(other):  # and one that was loaded before the default changed
        assert all(torch.equal(a, b) for a, b in zip(results(expected), wanted, strict=True))


def test_the_pocket_model(other: torch.dtype) -> None:
    check(lambda: DreamSim("pocket"), other)


def test_the_pocket_model_in_another_precision(other: torch.dtype) -> None:
    check(lambda: DreamSim("pocket", fold=False).double(), other)


def test_adapters_that_are_loaded_and_swapped(other: torch.dtype, tmp_path: Path) -> None:
    saved = DreamSim("pocket", fold=False)
    saved.save_adapter(tmp_path)

    def make() -> DreamSim:
        metric = DreamSim("pocket", baseline=True)
        metric.load_adapter(tmp_path, "one")
        metric.load_adapter(tmp_path, "two")
        metric.set_adapter("one")
        return metric

    check(make, other)


@pytest.mark.parametrize("name", VARIANTS)
def test_official_releases(name: str, other: torch.dtype, tmp_path: Path) -> None:
    write_official(tmp_path, name, depth=2, dim=32, projection=24)

    def make() -> DreamSim:
        checkpoint = load_official(small(name), weights=tmp_path, cache_dir=tmp_path, progress=False)
        metric = DreamSim(checkpoint.ensemble)
        assert checkpoint.adapter is not None
        metric.load_adapter(checkpoint.adapter)
        return metric

    check(make, other)


def tower(architecture: str, feature: str = "pooled", size: int = 32, **overrides: Any) -> BranchConfig:
    return BranchConfig(architecture, architecture, feature=feature, image_size=size, overrides=overrides)  # type: ignore[arg-type]


MODELS: dict[str, Callable[[], Ensemble]] = {
    "head": lambda: lively(Ensemble(tiny_branches(), hidden=8)),
    "constants of its own": lambda: Ensemble(
        [tower("vit_base_patch16_dinov3", "cls", embed_dim=32, depth=1, num_heads=2)]
    ),
    "windows": lambda: Ensemble(
        [tower("swin_tiny_patch4_window7_224", size=64, embed_dim=16, depths=(1, 1), num_heads=(1, 2))]
    ),
    "convolutions": lambda: Ensemble([tower("resnet18", size=64, layers=(1, 1, 1, 1))]),
}


@pytest.mark.parametrize(
    ("model", "stored"),
    [*((model, torch.float32) for model in MODELS), ("head", torch.float16), ("head", torch.float64)],
)
def test_model_files(model: str, stored: torch.dtype, other: torch.dtype, tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    DreamSim(MODELS[model]()).save(file, dtype=stored)
    assert DreamSim(file).dtype == (torch.float64 if stored == torch.float64 else torch.float32)
    check(lambda: DreamSim(file), other)


def test_what_is_attached_has_the_precision_of_the_weights(other: torch.dtype, tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    DreamSim(lively(Ensemble(tiny_branches()))).save(file)
    with default_dtype(other):
        metric = DreamSim(file)
        metric.attach_adapter(rank=2)
        metric.attach_head(4)
        x = torch.rand(2, 3, 40, 36, dtype=torch.float32)
        assert {parameter.dtype for parameter in metric.parameters()} == {torch.float32}
        metric.target(x[:1])(x).sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in metric.parameters() if p.requires_grad)

"""On the device "meta" a metric gives shapes, and says what it cannot do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import tiny_branches

from dreamsim_guidance import DreamSim


def in_a_context() -> DreamSim:
    with torch.device("meta"):
        return DreamSim("pocket")


MAKERS: dict[str, Callable[[], DreamSim]] = {
    "device": lambda: DreamSim("pocket", device="meta"),
    "device object": lambda: DreamSim("pocket", device=torch.device("meta"), dtype=torch.float64),
    "context": in_a_context,
    "unfolded": lambda: DreamSim("pocket", device="meta", fold=False),
    "moved": lambda: DreamSim("pocket").to("meta"),
    "moved target's": lambda: DreamSim("pocket").target(torch.rand(1, 3, 8, 8)).to("meta").metric,
    "variant": lambda: DreamSim("dino_vitb16_patch", pretrained=False, device="meta"),
    "branches": lambda: DreamSim(tiny_branches(), pretrained=False, device="meta"),
}


@pytest.mark.parametrize("make", MAKERS)
def test_every_way_of_making_a_metric_on_the_meta_device_gives_shapes(make: str) -> None:
    metric = MAKERS[make]()
    assert {tensor.device.type for tensor in (*metric.parameters(), *metric.buffers())} == {"meta"}
    assert metric(torch.rand(2, 3, 40, 30, device="meta"), torch.rand(1, 3, 8, 8, device="meta")).shape == (2,)


def test_shapes_are_given_and_values_are_refused(tmp_path: Path) -> None:
    metric = DreamSim(tiny_branches(), pretrained=False, device="meta")
    x, y = torch.rand(2, 3, 40, 30, device="meta"), torch.rand(1, 3, 8, 8, device="meta")
    mask = torch.ones(1, 1, 5, 5, device="meta")
    assert metric(x, y).shape == (2,) and metric(x, y, mask).shape == (2,)
    assert metric.embed(x).shape[0] == 2 and metric.embed(x).is_meta
    assert metric.target(y)(x).shape == metric.target(x, reduction="min")(x).shape == (2,)
    with pytest.raises(ValueError, match=r"got cpu and meta; .* no values and gives shapes only"):
        metric(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8))
    with pytest.raises(ValueError, match="has no values to be written"):
        metric.save(tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_without_values_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no values to be written"):
        DreamSim("pocket", device="meta", fold=False).save_adapter(tmp_path)


def test_the_full_ensemble_is_built_in_no_time_and_memory() -> None:
    metric = DreamSim("ensemble", pretrained=False, device="meta")
    assert sum(parameter.numel() for parameter in metric.parameters()) > 250e6
    assert metric.embed(torch.rand(1, 3, 224, 224, device="meta")).shape == (1, 1792)


def test_a_metric_on_the_cpu_does_not_depend_on_the_default_device() -> None:
    x = torch.rand(2, 3, 40, 30)
    expected = DreamSim("pocket")(x, x[:1])
    with torch.device("meta"):
        metric = DreamSim("pocket", device="cpu")
        assert torch.equal(metric(x, x[:1]), expected)
        metric.attach_head(4)
        other = DreamSim("pocket", device="cpu", baseline=True)
        other.attach_adapter(rank=2)
        assert {tensor.device.type for model in (metric, other) for tensor in model.parameters()} == {"cpu"}
        metric = DreamSim("pocket", device="cpu")
        weighted = metric.target(x, reduction="mean", weights=[1.0, 0.0])(x)
        torch.testing.assert_close(weighted, expected, atol=1e-6, rtol=0)
        assert DreamSim(tiny_branches(), pretrained=False, device="cpu")(x, x[:1]).shape == (2,)

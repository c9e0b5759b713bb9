"""Metrics and heads are saved, loaded, copied and pickled without a change."""

import copy
import pickle
from pathlib import Path

import torch
from conftest import TOLERANCE, lively, tiny_branches
from torch import Tensor

from dreamsim_guidance import DreamSim, Ensemble


def pair(batch: int = 2, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return torch.rand(batch, 3, 40, 52, dtype=dtype), torch.rand(batch, 3, 30, 30, dtype=dtype)


def test_the_metric_can_be_copied_and_pickled(metric: DreamSim) -> None:
    x, y = pair()
    for twin in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        assert torch.equal(twin(x, y), metric(x, y))
    target = metric.target(y)
    assert torch.equal(pickle.loads(pickle.dumps(target))(x), target(x))


def test_the_head_is_a_residual_mlp() -> None:
    ensemble = lively(Ensemble(tiny_branches(), hidden=8))
    x, _ = pair()
    head, ensemble.head = ensemble.head, None
    assert head is not None
    raw = ensemble(x)
    ensemble.head = head
    by_hand = torch.relu(raw @ head.fc1.weight.T + head.fc1.bias) @ head.fc2.weight.T + head.fc2.bias + raw
    assert torch.allclose(ensemble(x), by_hand, atol=TOLERANCE[torch.float32])


def test_a_head_is_attached_trained_and_saved(metric: DreamSim, tmp_path: Path) -> None:
    x, y = pair()
    metric.attach_head(hidden=8)
    trainable = [name for name, p in metric.named_parameters() if p.requires_grad]
    assert trainable == [f"ensemble.head.{name}" for name in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")]
    metric(x, y).sum().backward()
    assert metric.ensemble.head is not None and metric.ensemble.head.fc1.weight.grad is not None
    metric.save(tmp_path / "m.safetensors")
    torch.testing.assert_close(DreamSim(tmp_path / "m.safetensors")(x, y), metric(x, y))


def test_a_saved_metric_is_loaded_back(metric: DreamSim, tmp_path: Path) -> None:
    x, y = pair()
    metric.save(tmp_path / "a" / "tiny.safetensors", name="tiny", licence="MIT", source="a test")
    metric.save_pretrained(tmp_path / "folder", name="tiny")
    assert "tiny" in (tmp_path / "folder" / "README.md").read_text()
    for loaded in (
        DreamSim(tmp_path / "a" / "tiny.safetensors"),
        DreamSim(str(tmp_path / "a" / "tiny.safetensors")),
        DreamSim.from_pretrained(tmp_path / "folder"),
    ):
        assert torch.equal(loaded(x, y), metric(x, y))
        assert loaded.variant == "tiny"
        assert loaded.ensemble.configs == metric.ensemble.configs
    assert DreamSim(tmp_path / "a" / "tiny.safetensors").card["licence"] == "MIT"


def test_a_metric_saved_without_normalisation_stays_so(tiny_ensemble: Ensemble, tmp_path: Path) -> None:
    raw = DreamSim(tiny_ensemble, normalize_embeds=False)
    raw.save(tmp_path / "raw.safetensors")
    x, _ = pair()
    assert torch.equal(DreamSim(tmp_path / "raw.safetensors").embed(x), raw.embed(x))

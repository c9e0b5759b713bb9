import copy
import json
from pathlib import Path

import pytest
import torch
from conftest import lively, tiny_branches

from dreamsim_guidance import DreamSim, Ensemble
from dreamsim_guidance.metric.adapters import (
    adapter_names,
    attach_adapter,
    fold_adapters,
    load_adapter,
    save_adapter,
    set_adapter,
)


def tuned(ensemble: Ensemble, name: str = "default", scale: float = 0.2) -> Ensemble:
    attach_adapter(ensemble, rank=4, alpha=8.0, dropout=0.3, name=name)
    for parameter in ensemble.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=scale)
    return ensemble.eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, dtype=torch.float64)


def test_a_fresh_adapter_changes_nothing_and_is_all_that_trains(tiny_ensemble: Ensemble, images: torch.Tensor) -> None:
    tiny_ensemble.double().eval()
    before = tiny_ensemble(images)
    attach_adapter(tiny_ensemble, rank=4)
    assert torch.allclose(tiny_ensemble(images), before, atol=1e-12)
    trainable = [name for name, p in tiny_ensemble.named_parameters() if p.requires_grad]
    assert len(trainable) == 3 * 2 * 2 and all("qkv.lora_" in name for name in trainable)


def test_folding_the_adapter_changes_nothing(tiny_ensemble: Ensemble, images: torch.Tensor) -> None:
    tuned(tiny_ensemble.double())
    base = {k for k in tiny_ensemble.state_dict() if "lora_" in k}
    metric = DreamSim(tiny_ensemble, fold=False)
    before = metric.embed(images)
    fold_adapters(tiny_ensemble)
    assert (metric.embed(images) - before).abs().max() < 1e-6
    assert (metric.embed(images) - before).abs().max() < 1e-12
    assert base and not any("lora_" in key or "base_layer" in key for key in tiny_ensemble.state_dict())


def test_a_saved_adapter_is_loaded_back(tiny_ensemble: Ensemble, images: torch.Tensor, tmp_path: Path) -> None:
    tiny_ensemble.eval()
    plain = tiny_ensemble(images.float())
    tuned(tiny_ensemble)
    expected = tiny_ensemble(images.float())
    save_adapter(tiny_ensemble, tmp_path / "a")
    fresh = Ensemble(tiny_branches()).eval()
    fresh.load_state_dict(
        {k.replace("base_layer.", ""): v for k, v in tiny_ensemble.state_dict().items() if "lora" not in k}
    )
    assert torch.equal(fresh(images.float()), plain)
    load_adapter(fresh, tmp_path / "a")
    assert torch.equal(fresh(images.float()), expected)
    assert not any(p.requires_grad for p in fresh.parameters())
    assert not any(module.training for module in fresh.modules())
    settings = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["target_modules"]) == (4, 8.0, ["qkv"])
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_adapters_are_swapped_at_run_time(tiny_ensemble: Ensemble, images: torch.Tensor, tmp_path: Path) -> None:
    metric = DreamSim(tiny_ensemble, fold=False).double()
    plain = metric.embed(images)
    embeddings = {}
    for name in ("one", "two"):
        tuned(tiny_ensemble, name)
        embeddings[name] = metric.embed(images)
    assert not torch.allclose(embeddings["one"], embeddings["two"], atol=1e-4)
    for name in ("one", "two", "one"):
        metric.set_adapter(name)
        assert torch.allclose(metric.embed(images), embeddings[name], atol=1e-12)
    metric.set_adapter(None)
    assert torch.allclose(metric.embed(images), plain, atol=1e-12)
    assert adapter_names(tiny_ensemble) == ["one", "two"]
    set_adapter(tiny_ensemble, "two")
    assert torch.allclose(metric.fold().embed(images), embeddings["two"], atol=1e-12)
    with pytest.raises(ValueError, match="no adapter 'one' is attached; attached: none"):
        metric.set_adapter("one")


def test_rank_and_alpha_come_from_the_adapters_own_file(
    tiny_ensemble: Ensemble, images: torch.Tensor, tmp_path: Path
) -> None:
    tuned(tiny_ensemble.double())
    plain = tiny_ensemble(images)
    save_adapter(tiny_ensemble, tmp_path)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "lora_alpha": 0.0}))
    load_adapter(tiny_ensemble, tmp_path, "silent")
    set_adapter(tiny_ensemble, None)
    untuned = tiny_ensemble(images)
    set_adapter(tiny_ensemble, "silent")
    assert torch.allclose(tiny_ensemble(images), untuned, atol=1e-12)
    assert not torch.allclose(untuned, plain, atol=1e-4)


def test_training_an_adapter_moves_the_distance_it_is_trained_on(tiny_ensemble: Ensemble) -> None:
    metric = DreamSim(tiny_ensemble)
    metric.attach_adapter(rank=4, alpha=8.0, dropout=0.0)
    x, y = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)
    optimiser = torch.optim.Adam([p for p in metric.parameters() if p.requires_grad], lr=0.02)
    before = metric(x, y).item()
    for _ in range(10):
        optimiser.zero_grad()
        metric(x, y).sum().backward()
        optimiser.step()
    assert metric(x, y).item() < 0.5 * before


def test_adapters_that_do_not_fit_are_refused(tiny_ensemble: Ensemble, tmp_path: Path) -> None:
    save_adapter(tuned(tiny_ensemble), tmp_path / "three")
    with pytest.raises(ValueError, match="does not fit this ensemble of 1"):
        load_adapter(Ensemble(tiny_branches()[:1]), tmp_path / "three")
    wide = lively(Ensemble([*tiny_branches()[:2], tiny_branches()[0]]))
    for branch in wide.branches:
        branch.backbone.blocks[1].attn.qkv = torch.nn.Linear(32, 90)  # type: ignore[union-attr, index]
    with pytest.raises(ValueError, match=r"is \(96, 4\) instead of \(90, 4\)"):
        load_adapter(wide, tmp_path / "three")
    assert adapter_names(wide) == []
    with pytest.raises(FileNotFoundError, match=r"it has no adapter_config.json"):
        load_adapter(tiny_ensemble, tmp_path / "nowhere")
    (tmp_path / "three" / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="cannot be read"):
        load_adapter(tiny_ensemble, tmp_path / "three", "other")
    with pytest.raises(ValueError, match="choose another name"):
        attach_adapter(tiny_ensemble)
    with pytest.raises(ValueError, match="no layer of this ensemble is named"):
        attach_adapter(Ensemble(tiny_branches()), targets=["nothing"])
    with pytest.raises(ValueError, match="has no adapter"):
        save_adapter(Ensemble(tiny_branches()), tmp_path / "b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_modules": None}, "target_modules cannot be None"),
        ({"target_modules": ["proj"]}, "missing: .*proj.lora_A"),
        ({"r": "a"}, "r cannot be 'a'"),
        ({"r": -1}, "r cannot be -1"),
        ({"lora_alpha": None}, "lora_alpha cannot be None"),
        ({"lora_dropout": 2.0}, "lora_dropout cannot be 2.0"),
        ({"peft_type": "IA3"}, "type 'IA3' cannot be loaded"),
        ({"use_dora": True}, "use_dora = True is not supported"),
        ({"alpha_pattern": {"qkv": 3}}, "alpha_pattern = .* is not supported"),
        ({"layers_to_transform": [0]}, "layers_to_transform = .* is not supported"),
        ({"bias": "all"}, "bias = 'all' is not supported"),
    ],
)
def test_adapter_settings_that_would_be_misread_are_refused(
    tiny_ensemble: Ensemble, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    save_adapter(tuned(tiny_ensemble), tmp_path)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    fresh = Ensemble(tiny_branches())
    with pytest.raises(ValueError, match=message):
        load_adapter(fresh, tmp_path)
    assert adapter_names(fresh) == [] and not any("base_layer" in key for key in fresh.state_dict())


def test_rank_stabilised_adapters_have_their_own_scale(tiny_ensemble: Ensemble, tmp_path: Path) -> None:
    save_adapter(tuned(tiny_ensemble), tmp_path)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "use_rslora": True}))
    load_adapter(tiny_ensemble, tmp_path, "stabilised")
    scales = {
        name: tiny_ensemble.branches[0].backbone.blocks[0].attn.qkv.scaling[name]
        for name in adapter_names(tiny_ensemble)
    }  # type: ignore[union-attr, index]
    assert scales == {"default": 8 / 4, "stabilised": 8 / 4**0.5}


def test_incomplete_and_broken_adapters_are_refused(tiny_ensemble: Ensemble, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_adapter(tuned(tiny_ensemble), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    first = next(iter(tensors))
    save_file({key: value for key, value in tensors.items() if key != first}, file)
    with pytest.raises(ValueError, match="does not fit this ensemble: missing"):
        load_adapter(Ensemble(tiny_branches()), tmp_path)
    tensors[first] = tensors[first] * torch.nan
    save_file(tensors, file)
    with pytest.raises(ValueError, match="NaN or infinity"):
        load_adapter(Ensemble(tiny_branches()), tmp_path)


def test_a_folded_metric_takes_no_second_adapter(tiny_ensemble: Ensemble, tmp_path: Path) -> None:
    metric = DreamSim(tiny_ensemble)
    metric.attach_adapter(rank=2)
    metric.save_adapter(tmp_path)
    metric.fold()
    with pytest.raises(ValueError, match="cannot load an adapter: one is part of the weights"):
        metric.load_adapter(tmp_path)
    with pytest.raises(ValueError, match="cannot attach an adapter"):
        metric.attach_adapter()


def test_saving_the_metric_leaves_an_adapter_in_training_alone(tiny_ensemble: Ensemble, tmp_path: Path) -> None:
    metric = DreamSim(tuned(tiny_ensemble), fold=False)
    metric.set_adapter("default", trainable=True)
    before = [name for name, p in metric.named_parameters() if p.requires_grad]
    metric.save(tmp_path / "m.safetensors")
    assert before and [name for name, p in metric.named_parameters() if p.requires_grad] == before
    images = torch.rand(1, 3, 32, 32)
    assert torch.allclose(DreamSim(tmp_path / "m.safetensors").embed(images), metric.embed(images), atol=1e-5)


def test_an_adapter_that_comes_with_an_ensemble_is_folded_at_once(tiny_ensemble: Ensemble) -> None:
    used, fresh = (DreamSim(copy.deepcopy(tuned(tiny_ensemble, name))) for name in ("one", "two"))
    images = torch.rand(1, 3, 32, 32)
    expected = used.embed(images)
    assert not any("lora" in name for name in fresh.state_dict())
    fresh.load_state_dict(used.state_dict())
    assert torch.allclose(fresh.embed(images), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_adapter_is_folded_in_float32_before_the_weights_are_rounded(
    dtype: torch.dtype, tiny_ensemble: Ensemble
) -> None:
    tuned(tiny_ensemble, "it")
    exact = DreamSim(copy.deepcopy(tiny_ensemble)).to(dtype)
    half = DreamSim(copy.deepcopy(tiny_ensemble), dtype=dtype)
    assert all(torch.equal(a, b) for a, b in zip(exact.parameters(), half.parameters(), strict=True))
    assert half.folded_in == torch.float32 and half.dtype == dtype


def test_wider_weights_say_that_the_adapter_was_folded_in_narrower_ones(
    tiny_ensemble: Ensemble, photograph: torch.Tensor
) -> None:
    tuned(tiny_ensemble, "it")
    unfolded = DreamSim(copy.deepcopy(tiny_ensemble), fold=False).double()
    in_double = DreamSim(copy.deepcopy(tiny_ensemble), dtype=torch.float64)
    folded = DreamSim(tiny_ensemble)
    with pytest.warns(UserWarning, match=r"folded in torch\.float32.*DreamSim\(\.\.\., dtype=torch\.float64\)"):
        folded.double()
    x = photograph.double()
    assert (in_double.embed(x) - unfolded.embed(x)).abs().max() < 1e-12
    assert (folded.embed(x) - unfolded.embed(x)).abs().max() > 1e-9
    folded.float().half()  # narrower again, without a warning


def test_targets_are_linear_layers_named_by_their_last_parts(tiny_ensemble: Ensemble, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"match 'branches\.0\.backbone\.patch_embed\.proj', a Conv2d; .*'attn.proj'"):
        attach_adapter(tiny_ensemble, targets=("proj",))
    metric = DreamSim(tiny_ensemble, fold=False)
    attach_adapter(tiny_ensemble, rank=2, targets=("attn.proj", "fc1"))
    for parameter in tiny_ensemble.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    metric.save_adapter(tmp_path)
    images = torch.rand(2, 3, 32, 32)
    expected = metric.embed(images)
    metric.set_adapter(None)
    assert (metric.embed(images) - expected).abs().max() > 1e-3
    metric.load_adapter(tmp_path, name="again")
    torch.testing.assert_close(metric.embed(images), expected)

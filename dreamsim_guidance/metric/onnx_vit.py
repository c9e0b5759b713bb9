"""Read the weights of a Vision Transformer from an ONNX file under the names that timm gives them.

ONNX files hold the operations of a network, and its tensors under names that survive only in part: PyTorch's exporter keeps the
names of biases, norms and convolutions, and turns the matrix of each linear layer into a nameless, transposed constant. Each
matrix is found through the sum that adds its bias:

    x -> MatMul(x, W^T) -> Add(bias)

Read are exports of Hugging Face's `Dinov2Model` as the `backbone` of a larger network, whose other parts are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["read_onnx_vit"]

_EMBEDDINGS, _LAYERS = "backbone.embeddings.", "backbone.encoder.layer."
_LINEAR = {"attention.output.dense": "attn.proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}


def read_onnx_vit(path: Path) -> dict[str, Tensor]:
    """The tensors of the Vision Transformer in `path`, by the names of timm's `VisionTransformer`.

    Raises ModuleNotFoundError, with the pip command, where the package onnx is missing, and ValueError for a file that is
    damaged or holds another network.
    """
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the weights in '{path.name}' are read with the package onnx; pip install onnx."
        ) from error
    try:
        graph = onnx.load(str(path)).graph
        tensors = {t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()) for t in graph.initializer}
    except Exception as error:  # protobuf and numpy raise all kinds for damaged files
        raise ValueError(f"'{path}' is damaged or no ONNX file ({str(error)[:200]}); get it again.") from error
    try:
        return dict(_by_timm_names(tensors, _matrices(graph, tensors)))
    except KeyError as error:
        raise ValueError(
            f"'{path}' does not hold a Vision Transformer that Hugging Face's Dinov2Model exports: {error} is missing."
        ) from error


def _matrices(graph: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The matrix `(out, in)` of each linear layer, by the name of its bias."""
    products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    matrices = {}
    for node in graph.node:
        if node.op_type == "Add":
            for bias, product in (tuple(node.input), tuple(node.input)[::-1]):
                if bias in tensors and products.get(product) in tensors:
                    matrices[bias] = tensors[products[product]].mT.contiguous()
    return matrices


def _by_timm_names(tensors: dict[str, Tensor], matrices: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    token = tensors[f"{_EMBEDDINGS}cls_token"]
    yield "cls_token", token
    for part in ("weight", "bias"):
        yield f"patch_embed.proj.{part}", tensors[f"{_EMBEDDINGS}patch_embeddings.projection.{part}"]
        yield f"norm.{part}", tensors[f"backbone.layernorm.{part}"]
    # the exporter splits the position embeddings into those of the class token and of the patches, `(1, n, d)`
    width = token.shape[-1]
    constants = [t for name, t in tensors.items() if not name.startswith("backbone.") and t.ndim >= 3]
    of_token = [t for t in constants if t.shape == (1, 1, width)]
    of_patches = [t for t in constants if t.shape[0] == 1 and t.shape[-1] == width and t.numel() > width]
    if not (of_token and of_patches):
        raise KeyError("position_embeddings")
    yield "pos_embed", torch.cat([of_token[0], of_patches[0].reshape(1, -1, width)], 1)
    count = 0
    while f"{_LAYERS}{count}.norm1.weight" in tensors:
        yield from _block(f"{_LAYERS}{count}.", f"blocks.{count}.", tensors, matrices)
        count += 1


def _block(old: str, new: str, tensors: dict[str, Tensor], matrices: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for norm in ("norm1", "norm2"):
        for part in ("weight", "bias"):
            yield f"{new}{norm}.{part}", tensors[f"{old}{norm}.{part}"]
    biases = [f"{old}attention.attention.{name}.bias" for name in ("query", "key", "value")]
    yield f"{new}attn.qkv.weight", torch.cat([matrices[name] for name in biases])
    yield f"{new}attn.qkv.bias", torch.cat([tensors[name] for name in biases])
    for theirs, ours in _LINEAR.items():
        yield f"{new}{ours}.weight", matrices[f"{old}{theirs}.bias"]
        yield f"{new}{ours}.bias", tensors[f"{old}{theirs}.bias"]
    for number in (1, 2):
        yield f"{new}ls{number}.gamma", tensors[f"{old}layer_scale{number}.lambda1"]

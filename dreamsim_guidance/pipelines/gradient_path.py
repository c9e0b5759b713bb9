"""Find the part of a network that no gradient passes through: quantised layers and attention kernels without a backward.

Some kernels return a tensor without a graph, or one whose backward is missing. Residual connections around such a part still
carry a gradient, so that the result is not an error but a wrong gradient. Parts are therefore watched while they run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

__all__ = ["refusing_cut_gradients", "requires_grad"]

_LONGEST_WALK = 200
"""Nodes of a part's graph that are looked at; attention takes about twenty."""


@contextmanager
def refusing_cut_gradients(network: nn.Module) -> Iterator[None]:
    """Raise `ValueError` if a part of the network runs in the block and cuts the gradient of what it receives.

    A part cuts the gradient if what it returns depends on an input that requires a gradient, and either has no graph or has
    one that leads to an operation without a backward. Compiled networks, which hooks would compile again, are not watched.
    """
    parts = dict(network.named_modules())
    compiled = any(hasattr(part, "_orig_mod") or part._compiled_call_impl is not None for part in parts.values())
    handles = []
    try:
        for name, part in parts.items():
            if name and not compiled:
                hook = _Watch(network, name)
                handles.append(part.register_forward_hook(hook, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Watch:
    """A forward hook of the part with this name."""

    def __init__(self, network: nn.Module, name: str) -> None:
        self.network, self.name = network, name

    def __call__(self, part: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        inputs = [value for value in _tensors((args, kwargs)) if value.requires_grad]
        if not (inputs and torch.is_grad_enabled()):
            return
        outputs = [value for value in _tensors(output) if value.is_floating_point()]
        cut = any(not value.requires_grad for value in outputs) and _depends(part, args, kwargs, output)
        if cut or (_is_smallest(part) and any(_lacks_backward(value, inputs) for value in outputs)):
            backend = getattr(getattr(part, "processor", None), "_attention_backend", None)
            kernel = type(part).__name__ if backend is None else f"{type(part).__name__}, attention backend {backend}"
            raise ValueError(
                f"no gradient passes through '{self.name}' ({kernel}) of {type(self.network).__name__}, which has no backward. "
                'Choose another attention kernel, e.g. network.set_attention_backend("native"), or load the network without '
                "quantisation."
            )


def requires_grad(tree: Any) -> bool:
    """Whether any tensor in nested tuples, lists and dictionaries requires a gradient."""
    return any(value.requires_grad for value in _tensors(tree))


def _tensors(tree: Any) -> list[Tensor]:
    return [value for value in pytree.tree_leaves(tree) if isinstance(value, Tensor)]


def _is_smallest(part: nn.Module) -> bool:
    """Whether the part has no parts of its own, or is an attention of diffusers, whose processor calls the kernel."""
    return hasattr(part, "processor") or next(part.children(), None) is None


def _depends(part: nn.Module, args: Any, kwargs: Any, output: Any) -> bool:
    """Whether outputs without a graph depend on the values of inputs with one; positional embeddings only use their shape."""

    def changed(value: Any) -> Any:
        return 1 + 2 * value.detach() if isinstance(value, Tensor) and value.requires_grad else value

    with torch.no_grad():
        moved = part.forward(*pytree.tree_map(changed, args), **pytree.tree_map(changed, kwargs))
    pairs = zip(_tensors(output), _tensors(moved), strict=True)
    return any(not (before.requires_grad or torch.equal(before, after)) for before, after in pairs)


def _lacks_backward(output: Tensor, inputs: list[Tensor]) -> bool:
    """Whether the graph from the output to the inputs contains an operation without a backward."""
    seen = {value.grad_fn for value in inputs}
    nodes = [output.grad_fn]
    while nodes and len(seen) < _LONGEST_WALK:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        if node.name().endswith("NotImplemented"):  # torch::autograd::WarnNotImplemented and NotImplemented
            return True
        seen.add(node)
        nodes.extend(following for following, _ in node.next_functions)
    return False

"""Say where the graph ends, if a loss has no gradient with respect to what is optimised."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jaxtyping
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils import _pytree as pytree

__all__ = ["check_gradients"]

_OTHERS = (str(Path(__file__).parent), str(Path(torch.__file__).parent), str(Path(jaxtyping.__file__).parent), "<")
"""Where the files begin whose frames say nothing about a generator: this folder, torch, checks at run time, made code."""


def check_gradients(gradients: Sequence[Tensor | None], images: Tensor, render: Callable[[], object]) -> None:
    """Raise ValueError unless at least one leaf has a gradient.

    gradients: of each leaf, None where there is none.
    images: what was rendered, with its graph.
    render: renders once more, to find the operation that ends the graph.
    """
    if any(gradient is not None for gradient in gradients):
        return
    if images.requires_grad:
        raise ValueError(
            "the loss does not depend on the images, so there is no gradient to follow; it must be computed from its "
            "argument, without detach or no_grad inside."
        )
    watch = _LastCut()
    with torch.enable_grad(), watch:
        render()
    raise ValueError(
        f"the images do not depend on the parameters: {watch.message}. The generator must return them with their graph, "
        "without detach, no_grad, numpy or whole numbers between."
    )


class _LastCut(TorchFunctionMode):
    """Remembers the last operation that received a gradient and passed none on."""

    message = "no operation on them was found"

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [value for value in pytree.tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        passed = [value for value in pytree.tree_leaves(result) if isinstance(value, Tensor)]
        name = resolve_name(func) or getattr(func, "__name__", str(func))
        ends = (passed and not any(value.requires_grad for value in passed)) or name.endswith((".numpy", ".__array__"))
        if ends and any(value.requires_grad for value in given) and not name.endswith((".__get__", ".__set__")):
            frame = next((f for f in reversed(traceback.extract_stack()) if not f.filename.startswith(_OTHERS)), None)
            place = "" if frame is None else f' at {frame.filename}:{frame.lineno}, "{frame.line}"'
            self.message = f"the graph ends in {name}{place}"
        return result

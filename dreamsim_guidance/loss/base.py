"""Losses that can be added and scaled, and whose terms stay visible.

A `Loss` is a function from images in [0, 1] to one value per image; a `PairLoss` is a function from predicted and target
images to one value per pair. Both form sums with weights that may change over the steps:

    total(x) = sum_i w_i(step) loss_i(x),      e.g.  target + 0.1 * L1(image) + Cosine(1, 0, steps=200) * tv

A sum is a loss again. It holds no state: `loss.at(step)` is the same sum with the weights of that step, and a loss that
is called without `at` uses the weights of step 0.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor, nn

from dreamsim_guidance.loss.terms import Entry, check_values, describe, distinct, weight_at, weighted
from dreamsim_guidance.preprocess import check_images, check_range, resize
from dreamsim_guidance.schedule import Constant, as_schedule, is_number
from dreamsim_guidance.types import Distance, Image

__all__ = ["Loss", "PairLoss", "unbound_arguments"]

Kind = TypeVar("Kind", bound="_Term")


class _Term(nn.Module, Generic[Kind]):
    """The algebra that losses and pair losses share. Every combination is one flat, weighted sum of named terms."""

    name: str = ""
    """Key of this loss among the terms of a sum; by default the class's name in lower case."""

    capturable: ClassVar[bool] = False
    """Whether every call makes the same operations on tensors, whatever their values and, but for weights of sums, whatever the
    step, so that a CUDA graph can replay it; see `dreamsim_guidance.capture`."""

    _kind: ClassVar[type[Any]]
    _sum: ClassVar[type[Any]]
    _function: ClassVar[type[Any]]
    _hint: ClassVar[str]

    __array_ufunc__ = None  # lets `numpy_number * loss` reach `__rmul__` of the loss

    @classmethod
    def of(cls, function: Callable[..., Tensor], name: str = "") -> Kind:
        """A loss from a plain function or module that returns one value per image, `(b,)`.

        function: called as `f(images)` for `Loss.of(f)`, as `f(pred, target)` for `PairLoss.of(f)`. A module becomes a
            submodule. A loss from a lambda works, but cannot be pickled.
        name: key among the terms of a sum, by default the function's name.
        """
        if not callable(function):
            raise TypeError(f"{cls.__name__}.of needs a function from images to one value per image, got {function!r}.")
        return cls._function(function, name)

    def named(self, name: str) -> Kind:
        """The same loss as one term called `name`; a sum with a name is logged as a single term."""
        if not isinstance(name, str) or not name:
            raise TypeError(f"a loss is named by a non-empty string, got {name!r}.")
        return self._sum([Entry(name, Constant(1.0), self)])

    def at(self, step: int | float) -> Kind:
        """The same loss with every scheduled weight fixed at its value for `step`; itself if nothing is scheduled."""
        return self  # type: ignore[return-value]

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """Modules that this loss uses without owning them, so that `modules()` does not find them."""
        return ()

    @property
    def capture_key(self) -> Hashable:
        """What beside tensors and the step decides about the operations: for each value, a CUDA graph is recorded anew."""
        return ()

    @property
    def weights(self) -> dict[str, float]:
        """The weight of every term, at the fixed step or at step 0; `total = sum_i weights[i] * terms[i]`."""
        return {entry.name: entry.weight(0) for entry in self._entries()}

    def terms(self, *images: Tensor) -> dict[str, Distance]:
        """The value `(b,)` of every term before weighting, with its gradient; each term is evaluated once."""
        terms: dict[str, Tensor] = {}
        for entry in self._entries():
            value = entry.loss(*images)
            check_values(value, images[0], f"the term '{entry.name}'")
            terms[entry.name] = value
        return terms

    def value_and_terms(self, *images: Tensor) -> tuple[Distance, dict[str, Distance]]:
        """The total `(b,)`, and the value of every term before weighting, detached, for the log; each is evaluated once."""
        terms = self.terms(*images)
        total = weighted(self._entries(), terms)
        # a log would otherwise keep the graph of every step in memory
        return total, {name: value.detach() for name, value in terms.items()}

    def _get_name(self) -> str:
        return type(self).__name__.lstrip("_")

    def _entries(self) -> Sequence[Entry]:
        """The terms as a sum would hold them, each with its own name."""
        return (Entry(self.name or self._get_name().lower(), Constant(1.0), self),)

    def __add__(self, other: Any) -> Kind:
        if is_number(other) and other == 0:
            return self  # type: ignore[return-value]
        if not isinstance(other, self._kind):
            raise TypeError(f"{describe(other)} cannot be added to a {self._kind.__name__}; {self._advice(other)}.")
        return self._sum([*self._entries(), *other._entries()])

    def __radd__(self, other: Any) -> Kind:  # sum([a, b]) starts from 0
        return self + other

    def __sub__(self, other: Any) -> Kind:
        return self + (-other if isinstance(other, _Term) else other)

    def __rsub__(self, other: Any) -> Kind:
        return -self + other

    def __neg__(self) -> Kind:
        return -1.0 * self

    def __mul__(self, weight: Any) -> Kind:
        scale = as_schedule(weight, "a loss")
        return self._sum([entry._replace(weight=scale * entry.weight) for entry in self._entries()])

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> Kind:
        if not is_number(divisor):
            raise TypeError(f"a loss is divided by a number, got {describe(divisor)}.")
        return self * (1 / float(divisor))

    def _advice(self, other: Any) -> str:
        if is_number(other):
            return "a constant has no gradient: leave it out, or scale by it, number * loss"
        if isinstance(other, _Term):
            return self._hint
        if unbound_arguments(other) or callable(getattr(other, "target", None)):
            return "bind it to its reference first, metric.target(image)"
        if callable(other):
            return f"wrap it, {self._kind.__name__}.of(function, name='...')"
        return f"add another {self._kind.__name__}"


class Loss(_Term["Loss"]):
    """A function from images `(b, 3, h, w)` in [0, 1] to one value per image `(b,)`, smaller is better.

    Subclasses define `forward(images)`. `a + b`, `a - b`, `2 * a`, `a / 2`, `-a`, `sum([a, b])` and `schedule * a` are
    losses again.
    """

    _hint = "bind the pair loss to its target first, pair.against(reference)"

    def forward(self, images: Image) -> Distance:
        raise NotImplementedError(f"{type(self).__name__} must define forward(images) -> one value per image")

    def resized(self, size: tuple[int, int]) -> Loss:
        """The same loss with its reference images resized to (height, width); itself if they have this size already."""
        return self

    def of_pred(self) -> PairLoss:
        """This loss as a `PairLoss` that uses only the prediction, as a regulariser in training."""
        return _OfPred(self)


class PairLoss(_Term["PairLoss"]):
    """A function from predicted and target images `(b, 3, h, w)` in [0, 1] to one value per pair `(b,)`, smaller is better.

    Subclasses define `forward(pred, target)`; a target of batch 1 is compared with every prediction. Pair losses are
    added and scaled as `Loss` is.
    """

    _hint = "a Loss takes one image: use its pair form, loss.of_pred(), or bind this one, pair.against(reference)"

    def forward(self, pred: Image, target: Image) -> Distance:
        raise NotImplementedError(f"{type(self).__name__} must define forward(pred, target) -> one value per pair")

    def against(self, reference: Image) -> Loss:
        """This loss as a `Loss` towards a fixed reference of batch 1 or b, which is checked here, once."""
        check_images(reference, "reference")
        check_range(reference, "reference")
        return _Against(self, reference)


class _Against(Loss):
    capturable = True
    reference: Tensor

    def __init__(self, pair: PairLoss, reference: Tensor) -> None:
        super().__init__()
        self.pair = pair
        # not persistent: a picture does not belong in the checkpoint of a model that holds this loss
        self.register_buffer("reference", reference.detach().clone(), persistent=False)
        self.name = pair._entries()[0].name

    def forward(self, images: Image) -> Distance:
        return self.pair(images, self.reference)

    def at(self, step: int | float) -> Loss:
        fixed = self.pair.at(step)
        return self if fixed is self.pair else _Against(fixed, self.reference)

    def resized(self, size: tuple[int, int]) -> Loss:
        return self if self.reference.shape[-2:] == size else _Against(self.pair, resize(self.reference, size))


class _OfPred(PairLoss):
    capturable = True

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss
        self.name = loss._entries()[0].name

    def forward(self, pred: Image, target: Tensor) -> Distance:
        return self.loss(pred)

    def at(self, step: int | float) -> PairLoss:
        return _OfPred(self.loss.at(step))

    def against(self, reference: Image) -> Loss:
        return self.loss


class _Function(_Term[Any]):
    def __init__(self, function: Callable[..., Tensor], name: str) -> None:
        super().__init__()
        self.function = function
        self.name = name or getattr(function, "__name__", "").strip("<>") or type(function).__name__.lower()

    def forward(self, *images: Tensor) -> Tensor:
        value = self.function(*images)
        check_values(value, images[0], f"the term '{self.name}'")
        return value


class _FunctionLoss(_Function, Loss):
    pass


class _FunctionPairLoss(_Function, PairLoss):
    pass


class _Sum(_Term[Any]):
    capturable = True

    def __init__(self, entries: Sequence[Entry]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(entry.loss for entry in entries)
        self._names = distinct([entry.name for entry in entries])
        self._weights = tuple(entry.weight for entry in entries)

    def _entries(self) -> Sequence[Entry]:
        return [Entry(*entry) for entry in zip(self._names, self._weights, self.parts, strict=True)]

    def _total(self, *images: Tensor) -> Tensor:
        return weighted(self._entries(), self.terms(*images))

    def at(self, step: int | float) -> Any:
        fixed = [Entry(name, weight_at(weight, step), loss.at(step)) for name, weight, loss in self._entries()]
        return self if fixed == self._entries() else type(self)(fixed)

    def __repr__(self) -> str:
        text = ""
        for name, weight, _ in self._entries():
            factor = weight.value if isinstance(weight, Constant) else None
            sign = "-" if factor is not None and factor < 0 else "+"
            scale = f"{weight} * " if factor is None else "" if abs(factor) == 1 else f"{abs(factor):.6g} * "
            text += f" {sign} {scale}{name}" if text else f"{'-' if sign == '-' else ''}{scale}{name}"
        return text


class _LossSum(_Sum, Loss):
    def forward(self, images: Image) -> Distance:
        return self._total(images)

    def resized(self, size: tuple[int, int]) -> Loss:
        fitted = [entry._replace(loss=entry.loss.resized(size)) for entry in self._entries()]
        return self if fitted == self._entries() else _LossSum(fitted)

    def of_pred(self) -> PairLoss:
        return _PairSum([entry._replace(loss=entry.loss.of_pred()) for entry in self._entries()])


class _PairSum(_Sum, PairLoss):
    def forward(self, pred: Image, target: Tensor) -> Distance:
        return self._total(pred, target)

    def against(self, reference: Image) -> Loss:
        return _LossSum([entry._replace(loss=entry.loss.against(reference)) for entry in self._entries()])


Loss._kind, Loss._sum, Loss._function = Loss, _LossSum, _FunctionLoss
PairLoss._kind, PairLoss._sum, PairLoss._function = PairLoss, _PairSum, _FunctionPairLoss


def unbound_arguments(loss: Any) -> list[str]:
    """Names of what a callable needs beside the images, in its signature; empty for a loss on images alone.

    A metric or pair loss needs a second image: it is not a loss yet, but becomes one when it is bound to a reference.
    """
    if isinstance(loss, PairLoss):
        return ["target"]
    loss = getattr(loss, "_orig_mod", loss)  # inside torch.compile's wrapper
    is_plain_module = isinstance(loss, nn.Module) and type(loss).__call__ is nn.Module.__call__
    try:
        parameters = inspect.signature(loss.forward if is_plain_module else loss).parameters.values()
    except (TypeError, ValueError):  # not callable, or without a signature
        return []
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in parameters if p.kind in positional and p.default is p.empty][1:]

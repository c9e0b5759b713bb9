"""A StyleGAN, or any network from z to images, as a generator of `invert`.

The leaves are codes of one of three spaces, and the noise of the layers if it is asked for:

    "z"     z (b, z_dim)                 normal; the mapping network stays in the graph
    "w"     w (b, w_dim)                 the same style for all layers
    "w+"    ws (b, num_ws, w_dim)        a style for each layer, kept together by  delta * sum_i |w_i - w_0|
    noise   (b, 1, h, w) by buffer       kept white by  regularise * sum over buffers and sizes of the squared correlations
                                         with the neighbours to the right and below, and normalised after each step

Karras et al., Analyzing and improving the image quality of StyleGAN, CVPR 2020, appendix D (w and noise); Abdal, Qin, Wonka,
Image2StyleGAN, ICCV 2019 (W+); Tov et al., Designing an encoder for StyleGAN image manipulation, SIGGRAPH 2021 (the
distance of the styles). Unlike NVIDIA's projector, the optimised noise is part of the result, the scale of w is a standard
deviation for each dimension and not the norm over them, and each step is in units of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["StyleGAN"]

Label = int | Sequence[int] | Tensor


class StyleGAN(nn.Module):
    """A network with NVIDIA's interface, `G.mapping(z, c)` and `G.synthesis(ws)`, or with `G(z)` alone where `space` is "z".

    G: the network, which is called and never changed. Sizes are read from it: the number and width of styles from what its
        mapping returns (or `num_ws`), `z_dim`, `c_dim` where there are labels, and `w_avg`, or the mean of samples without it.
    space: "w", "w+" or "z".
    noise: whether the buffers `noise_const` of the synthesis network are leaves too, with a value for each sample; otherwise
        they stay as they are.
    c: the label of a conditional network: a class for all samples, one for each sample, or a vector or vectors of its
        `c_dim` numbers. With b of them, `invert` has b samples, in this order.
    z_dim: width of z, or the shape of one z such as (100, 1, 1); only for a network without the attribute `z_dim`.
    delta: weight of the styles' distances from the first one in W+; by default e4e's.
    regularise: weight of the correlations of the noise; by default NVIDIA's.
    value_range: what black and white are in the network's images.
    options: keyword arguments of the synthesis network, such as {"force_fp32": True}; `noise_mode="const"` is added where it
        takes one, since random noise would make each evaluation a different one.
    samples: how many w the centre and the scale are measured with.

    As a function it maps the leaves to images in `value_range`. `centre` and `scale` are mean and standard deviation of each
    dimension. The first sample that `init` draws is the mean itself in "w" and "w+", and all start with the network's own
    noise, so that candidates differ in their styles alone.

    Raises TypeError or ValueError for a network without what its space needs, labels that do not fit, and networks with batch
    norms or dropout in training mode, in which samples would interact or change.
    """

    def __init__(
        self,
        G: nn.Module,
        space: Literal["z", "w", "w+"] = "w",
        noise: bool = False,
        c: Label | None = None,
        *,
        z_dim: int | Sequence[int] | None = None,
        delta: float = 2e-4,
        regularise: float = 1e5,
        value_range: tuple[float, float] = (-1.0, 1.0),
        options: Mapping[str, Any] | None = None,
        samples: int = 10_000,
    ) -> None:
        super().__init__()
        if space not in ("z", "w", "w+"):
            raise ValueError(f"unknown space '{space}'; known: z, w, w+.")
        if samples < 2:
            raise ValueError(f"samples must be at least 2, got {samples}.")
        if not isinstance(G, nn.Module):
            raise TypeError(f"G must be a module, got {type(G).__name__}; invert takes other callables with init=...")
        self.styled = hasattr(G, "mapping") and hasattr(G, "synthesis")
        if not self.styled and space != "z":
            raise TypeError(
                f"{type(G).__name__} has no mapping and synthesis networks, so there is no space '{space}'; use space='z'."
            )
        _refuse_training(G)
        self.G, self.space, self.delta, self.regularise, self.value_range = G, space, delta, regularise, value_range
        self.options = {**_constant_noise(self.synthesis, self.styled), **(options or {})}
        tensor = next((t for t in (*G.parameters(), *G.buffers()) if t.is_floating_point()), torch.zeros(()))
        self.device, self.dtype = tensor.device, tensor.dtype
        self.z_shape = _z_shape(G, z_dim)
        self.labels = _labels(c, getattr(G, "c_dim", None), tensor)
        if self.labels is not None and len(self.labels) > 1:
            self.batch = len(self.labels)
        self.noises = _noises(self.synthesis) if noise else {}
        self.num_ws: int | None = getattr(G, "num_ws", getattr(self.synthesis, "num_ws", None))
        self.latent: str = {"z": "z", "w": "w", "w+": "ws"}[space]
        self.centre: dict[str, Tensor] = {}
        self.scale: dict[str, Tensor] = {}
        if space != "z":
            self._measure(samples)

    @property
    def synthesis(self) -> Any:
        """The part that draws the images, in which the noise is."""
        return self.G.synthesis if self.styled else self.G

    @torch.no_grad()
    def init(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """n samples of the prior; where each of b samples has its own label, `n * b`, with the labels in turn."""
        z = torch.randn(n, *self.z_shape, generator=generator, dtype=torch.float32).to(self.device, self.dtype)
        z = z.repeat_interleave(getattr(self, "batch", 1), 0)
        if self.space == "z":
            codes = z
        else:
            ws = self._mapped(z)
            codes = (ws[:, 0] if self.space == "w" and ws.ndim == 3 else ws).clone()
            codes[: len(self.centre[self.latent])] = self.centre[self.latent]
        noises = {name: noise.expand(len(codes), -1, -1, -1) for name, noise in self.noises.items()}
        return {self.latent: codes, **noises}

    def forward(self, **leaves: Tensor) -> Tensor:
        """The images of leaves, named as `init` names them. Raises ValueError for other names."""
        if leaves.keys() != {self.latent, *self.noises}:
            raise ValueError(
                f"in the space '{self.space}' the leaves are {', '.join([self.latent, *self.noises])}, got "
                f"{', '.join(leaves) or 'none'}."
            )
        code = leaves[self.latent].to(self.dtype)
        if not self.styled:
            arguments: tuple[Tensor, ...] = (code,) if self.labels is None else (code, self._labels_of(code))
        elif self.space == "z":
            arguments = (self._mapped(code),)
        elif self.space == "w" and self.num_ws is not None:
            arguments = (code[:, None].expand(-1, self.num_ws, -1),)
        else:
            arguments = (code,)
        if not self.noises:
            return self.synthesis(*arguments, **self.options)
        noises = {name: leaves[name].to(self.dtype) for name in self.noises}
        return functional_call(self.synthesis, noises, arguments, self.options)

    def penalty(self, **leaves: Tensor) -> Tensor:
        """The spread of the styles in W+ and the correlations of the noise, `(b,)`."""
        code = leaves[self.latent]
        total = code.new_zeros(len(code))
        if self.space == "w+":
            away = code[:, 1:] - code[:, :1]
            total = total + self.delta * (away.square().sum(2) + 1e-16).sqrt().sum(1)
        for name in self.noises:
            total = total + self.regularise * _correlations(leaves[name])
        return total

    def project_(self, leaves: dict[str, Tensor]) -> None:
        """Give each sample's noise mean 0 and root mean square 1, buffer by buffer."""
        for name in self.noises:
            centred = leaves[name] - leaves[name].mean((1, 2, 3), keepdim=True)
            leaves[name] = centred * (centred.square().mean((1, 2, 3), keepdim=True) + 1e-12).rsqrt()

    def _labels_of(self, rows: Tensor) -> Tensor:
        assert self.labels is not None
        return self.labels.repeat(len(rows) // len(self.labels), *(1,) * (self.labels.ndim - 1))

    def _mapped(self, z: Tensor) -> Tensor:
        """The styles of all layers for z; on copies of the mapping network's buffers, for in training it moves `w_avg`."""
        mapping = self.G.mapping
        count = len(inspect.signature(getattr(mapping, "forward", mapping)).parameters)  # type: ignore[arg-type]
        labels = None if self.labels is None else self._labels_of(z)
        arguments = (z,) if labels is None and count == 1 else (z, labels)
        if isinstance(mapping, nn.Module):
            w = functional_call(mapping, {name: b.clone() for name, b in mapping.named_buffers()}, arguments)
        else:
            w = mapping(*arguments)  # type: ignore[operator]
        if w.ndim not in (2, 3):
            raise ValueError(f"the mapping network must return (b, num_ws, w_dim) or (b, w_dim), got {(*w.shape,)}.")
        return w[:, None].expand(-1, self.num_ws, -1) if w.ndim == 2 and self.num_ws is not None else w

    @torch.no_grad()
    def _measure(self, samples: int) -> None:
        """Find mean and deviation of w, for each label."""
        z = torch.randn(samples, *self.z_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
        count = 1 if self.labels is None else len(self.labels)
        ws = self._mapped(z.to(self.device, self.dtype).repeat_interleave(count, 0))
        self.num_ws = ws.shape[1] if ws.ndim == 3 else None
        if self.space == "w+" and self.num_ws is None:
            raise ValueError(f"{type(self.G).__name__} has no num_ws, so there are no styles by layer; use space='w'.")
        w = (ws[:, 0] if ws.ndim == 3 else ws).reshape(samples, count, -1)
        deviation, mean = w.std(0), w.mean(0)
        average = getattr(self.G.mapping, "w_avg", getattr(self.G, "w_avg", None))
        if self.labels is None and isinstance(average, Tensor) and average.shape == mean.shape[1:]:
            mean = average[None].to(mean)
        # a dimension that never changes would have no unit
        deviation = deviation.clamp_min(1e-3 * float(deviation.mean()) or 1.0)
        spread = (slice(None), None) if self.space == "w+" else (slice(None),)
        self.centre, self.scale = {self.latent: mean[spread]}, {self.latent: deviation[spread]}


def _correlations(noise: Tensor) -> Tensor:
    """The squared correlations of noise `(b, 1, h, w)` with its neighbours, summed over halved sizes down to 8 pixels."""
    noise = noise.to(torch.promote_types(noise.dtype, torch.float32))  # means in half precision are too rough
    total = noise.new_zeros(len(noise))
    while True:
        for dimension in (2, 3):
            total = total + (noise * noise.roll(1, dimension)).mean((1, 2, 3)).square()
        if min(noise.shape[2:]) <= 8:
            return total
        noise = F.avg_pool2d(noise, 2)


def _noises(synthesis: Any) -> dict[str, Tensor]:
    """The noise buffers of a network by name, each (1, 1, h, w)."""
    buffers = dict(synthesis.named_buffers()) if isinstance(synthesis, nn.Module) else {}
    noises = {name: b for name, b in buffers.items() if name.rpartition(".")[2] == "noise_const" and b.ndim >= 2}
    if not noises:
        raise ValueError(f"{type(synthesis).__name__} has no buffers noise_const; use noise=False.")
    return {name: buffer.detach().clone().reshape(1, 1, *buffer.shape[-2:]) for name, buffer in noises.items()}


def _z_shape(G: nn.Module, z_dim: int | Sequence[int] | None) -> tuple[int, ...]:
    z_dim = getattr(G, "z_dim", None) if z_dim is None else z_dim
    if z_dim is None:
        raise ValueError(f"{type(G).__name__} has no attribute z_dim; give z_dim=..., the width of z or its shape.")
    return tuple(map(int, z_dim)) if isinstance(z_dim, Sequence) else (int(z_dim),)  # type: ignore[arg-type, call-overload]


def _labels(c: Label | None, c_dim: Any, like: Tensor) -> Tensor | None:
    """The labels as rows: vectors of `c_dim` numbers, or as they are for a network that does not say its `c_dim`."""
    if c is None:
        if c_dim:
            raise ValueError(
                f"the network is conditional, so it needs c: a class below {c_dim} or a vector of {c_dim} numbers."
            )
        return None
    if c_dim == 0:
        raise ValueError("the network takes no labels, its c_dim is 0; leave c out.")
    labels = torch.as_tensor(c, device=like.device)
    if labels.is_floating_point():
        labels = (labels[None] if labels.ndim == 1 else labels).to(like.dtype)
    elif labels.ndim < 2:
        labels = labels.long().reshape(-1)
        if c_dim and not bool(((labels >= 0) & (labels < c_dim)).all()):
            raise ValueError(f"c must be classes from 0 to {c_dim - 1}, got {labels.tolist()}.")
        labels = F.one_hot(labels, c_dim).to(like.dtype) if c_dim else labels
    else:
        labels = labels.to(like.dtype)
    if c_dim and labels.shape[1:] != (c_dim,):
        raise ValueError(f"c must be vectors of {c_dim} numbers, the network's c_dim, got shape {(*labels.shape,)}.")
    return labels


def _constant_noise(synthesis: Any, styled: bool) -> dict[str, str]:
    parameters = inspect.signature(getattr(synthesis, "forward", synthesis)).parameters
    takes_any = styled and any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    return {"noise_mode": "const"} if takes_any or "noise_mode" in parameters else {}


def _refuse_training(G: nn.Module) -> None:
    """Raise ValueError if samples would interact through batch norms, or change at each evaluation through dropout."""
    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    for name, module in G.named_modules():
        if isinstance(module, kinds) and module.training:
            raise ValueError(
                f"{type(G).__name__} has {type(module).__name__} ({name}) in training mode; call G.eval() first."
            )

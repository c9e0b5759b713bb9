"""Where a descent starts: the leaves that are given, or the best of many samples of the prior, ranked by the loss itself.

A loss has many basins, and a gradient only finds the bottom of the one that it starts in. Evaluating a few hundred samples
without a gradient costs less than restarting as many descents, and usually finds the right basin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dreamsim_guidance.inversion.problem import Leaves, Problem, Units, named

__all__ = ["Init", "Sampler", "best_starts", "check_leaves", "normal_sampler", "parameters_of", "start_of", "units_of"]

Sampler = Callable[[int, torch.Generator], Tensor | Mapping[str, Tensor]]
"""Draws n samples of the prior, `(n, generator)` -> a leaf or leaves `(n, ...)`; the generator is on the CPU."""

Init = Tensor | Mapping[str, Tensor] | Sampler


def start_of(
    through: Callable[..., Tensor], init: Init | None, centre: Any, scale: Any
) -> tuple[Callable[..., Tensor], Init]:
    """The generator, and where to start: `init`, else the generator's own, else samples of the prior, else its parameters."""
    if init is None:
        init = getattr(through, "init", None)
    if init is not None:
        if not isinstance(init, Tensor | Mapping) and not callable(init):
            raise TypeError(
                f"init must be a tensor (b, ...), a mapping of such tensors or a sampler (n, generator) -> them, got "
                f"{type(init).__name__}."
            )
        return through, init
    if centre is not None and scale is not None:
        if not isinstance(centre, Tensor | Mapping):
            raise ValueError(
                f"without init, centre must be a tensor in the shape of one sample, or a mapping of them, got {centre}."
            )
        return through, normal_sampler(centre, scale)
    if not isinstance(through, nn.Module):
        raise ValueError(
            "init is missing: give a tensor (b, ...), a mapping of such tensors, a sampler (n, generator) -> them, or both "
            "centre and scale of the prior."
        )
    return lambda **leaves: torch.func.functional_call(through, leaves, ()), parameters_of(through)


def parameters_of(module: nn.Module) -> Leaves:
    """The trainable parameters by name. Raises ValueError if there are none."""
    leaves: Leaves = {name: leaf for name, leaf in module.named_parameters() if leaf.requires_grad}
    if not leaves:
        raise ValueError(
            f"{type(module).__name__} has no parameter that requires a gradient, so there is nothing to optimise."
        )
    return leaves


def normal_sampler(centre: Tensor | Mapping[str, Tensor], scale: Any) -> Sampler:
    """Samples `centre + scale * randn`, where `centre` has the shape of one sample, or a first dimension of 1."""

    def sample(n: int, generator: torch.Generator) -> Leaves | Tensor:
        scales = units_of({}, centre, scale).scale
        drawn: Leaves = {}
        for name, mean in named(centre).items():
            shape = (n, *mean.shape[1:]) if len(mean) == 1 and mean.ndim > 1 else (n, *mean.shape)
            noise = torch.randn(shape, generator=generator, dtype=mean.dtype).to(mean.device)
            drawn[name] = mean + scales[name] * noise
        return drawn["leaf"] if isinstance(centre, Tensor) else drawn

    return sample


def units_of(leaves: Mapping[str, Tensor], centre: Any, scale: Any) -> Units:
    """Centre and scale by name; a number or tensor alone holds for every leaf. Raises ValueError for a scale of 0."""

    def by_name(value: Any) -> dict[str, Tensor]:
        names = leaves or named(centre)
        values = value if isinstance(value, Mapping) else dict.fromkeys(names, value)
        if unknown := sorted(values.keys() - names.keys()):
            raise ValueError(f"centre or scale has '{unknown[0]}', but the leaves are {', '.join(sorted(names))}.")
        return {
            name: torch.as_tensor(entry, dtype=names[name].dtype, device=names[name].device)
            for name, entry in values.items()
            if entry is not None
        }

    scales = by_name(scale)
    for name, value in scales.items():
        if not bool((value > 0).all()):
            raise ValueError(f"the scale of '{name}' must be positive everywhere, got {float(value.min()):g}.")
    centres = by_name(centre)
    for kind, priors in {"scale": scales, "centre": centres}.items():
        for name, prior in priors.items():
            if name in leaves and not _broadcasts(prior, leaves[name]):
                raise ValueError(
                    f"the {kind} of '{name}' must broadcast to one row of the leaf, {tuple(leaves[name].shape[1:])}, got "
                    f"shape {tuple(prior.shape)}."
                )
    return Units(centres, scales)


def _broadcasts(prior: Tensor, leaf: Tensor) -> bool:
    """Whether the prior fits every row, apart from the number of its own rows if it has as many dimensions as the leaf."""
    sizes, prior_sizes = leaf.shape[1:], prior.shape[1:] if prior.ndim == leaf.ndim > 0 else prior.shape
    return len(prior_sizes) <= len(sizes) and all(
        size in (1, leaf_size) for size, leaf_size in zip(reversed(prior_sizes), reversed(sizes), strict=False)
    )


def best_starts(candidates: Leaves, problem: Problem, restarts: int, chunk: int) -> Leaves:
    """The `restarts` best candidates of every sample, `(restarts * batch, ...)`, those of one restart beside each other."""
    scores = problem.scores(candidates, chunk).nan_to_num(nan=torch.inf)
    chosen = scores.topk(restarts, dim=0, largest=False).indices
    if problem.paired:
        chosen = chosen * problem.batch + torch.arange(problem.batch, device=chosen.device)
    chosen = chosen.flatten()
    return {name: leaf[chosen.to(leaf.device)] for name, leaf in candidates.items()}


def check_leaves(drawn: object, rows: int | None) -> None:
    """Raise ValueError or TypeError unless these are one or more floating-point tensors, of `rows` rows unless it is None."""
    if not isinstance(drawn, Tensor | Mapping):
        raise TypeError(f"the sampler must return a tensor or a mapping of tensors, got {type(drawn).__name__}.")
    leaves: Mapping[str, Any] = named(drawn)
    if not leaves:
        raise ValueError("init holds no leaf, so there is nothing to optimise.")
    for name, leaf in leaves.items():
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            got = leaf.dtype if isinstance(leaf, Tensor) else type(leaf).__name__
            raise TypeError(f"the leaf '{name}' must be a floating-point tensor, got {got}.")
        if rows is not None and (leaf.ndim == 0 or len(leaf) != rows):
            raise ValueError(f"the sampler must return {rows} rows of '{name}', got shape {tuple(leaf.shape)}.")

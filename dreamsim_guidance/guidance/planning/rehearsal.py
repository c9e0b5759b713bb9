"""A pipeline's own call up to its first step, without computing anything, to see which networks a step calls, and how.

The pipeline is copied, its networks replaced by twins, its scheduler by a copy; the copy is called as the user calls the
pipeline, and stopped where it first asks its scheduler for a step. The pipeline itself is not touched.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dreamsim_guidance.guidance.planning.cost import Cost, Meter
from dreamsim_guidance.guidance.planning.machine import Machine
from dreamsim_guidance.guidance.planning.twin import as_fake, mapped, twin_of, without_numbers
from dreamsim_guidance.pipelines.frozen import checkpointed, denoiser_of
from dreamsim_guidance.pipelines.interception import Interception
from dreamsim_guidance.pipelines.step_call import StepCall
from dreamsim_guidance.pipelines.visitor import Sampling, Visit, Visitor

__all__ = ["Rehearsal"]


class _Reached(BaseException):
    """The first step was reached. No pipeline catches a `BaseException`."""


@dataclass(frozen=True)
class _Call:
    """One call of a network within a step; arguments and result are the pipeline's tensors, by which results are followed."""

    network: nn.Module
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    result: Any


class Rehearsal(Visitor, Visit):
    """Runs when it is made, and keeps what is needed to count a step.

    pipe: a copy of the pipeline, made of twins. originals: the networks by their twins.
    sampling: the call as known at its first step. x0: a clean estimate, fake, in the type that guidance works in.
    Raises what the pipeline raises for a wrong call; `ValueError` for a pipeline without a denoiser to count;
    `RuntimeError` if a network cannot be run on shapes.
    """

    def __init__(self, pipe: Any, arguments: Mapping[str, Any]) -> None:
        if denoiser_of(pipe) is None:
            raise ValueError(
                f"{type(pipe).__name__} has no network in `unet`, `transformer` or `prior` whose cost could be counted."
            )
        self.mode = without_numbers()
        self.pipe = copy.copy(pipe)
        self.originals: dict[nn.Module, nn.Module] = {}
        self._calls: list[_Call] = []
        for name, value in vars(pipe).items():
            if isinstance(value, nn.Module):
                self.pipe.__dict__[name] = twin = twin_of(value, self.mode, self._listen)
                self.originals[twin] = value
        for name in ("scheduler", "_blocks"):
            if name in vars(pipe):
                self.pipe.__dict__[name] = copy.deepcopy(vars(pipe)[name])
        self.pipe.__dict__["_progress_bar_config"] = {"disable": True}
        interception = self._interception = Interception(self.pipe, self)
        interception.open()
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                self.pipe(**{key: _harmless(value) for key, value in arguments.items()})
        except _Reached:
            pass
        else:
            raise ValueError(f"{type(pipe).__name__} made no step in this call; at least one is needed.")
        finally:
            interception.close()
        if hasattr(self.pipe, "_unpack_latents_with_ids") and self.sampling.geometry.extras:
            self._fix_the_grid(self.sampling.geometry.extras[0])

    def _fix_the_grid(self, positions: Tensor) -> None:
        """FLUX.2 reads height and width of its latents from the tokens' positions, which shapes alone do not have."""
        grid = self.pipe._unpack_latents_with_ids(torch.zeros(self.x0.shape), positions)
        shape = (grid if isinstance(grid, Tensor) else torch.stack(grid)).shape

        def unpack(x: Tensor, _: Tensor) -> Tensor:
            places = torch.zeros(1, 1, x.shape[1], dtype=torch.int64).expand(len(x), shape[1], -1)
            flat = x.new_zeros(len(x), shape[1], shape[2] * shape[3])
            return flat.scatter(2, places, x.transpose(1, 2)).unflatten(2, shape[2:])

        self.pipe.__dict__["_unpack_latents_with_ids"] = unpack

    def begin(self, sampling: Sampling) -> Visit:
        """The first step has been reached."""
        self.sampling = sampling
        return self

    def step(self, call: StepCall, index: int) -> Tensor:
        """Stop the run: the calls of one step have been recorded."""
        self.x0: Tensor = as_fake(call.clean(), self.mode)
        raise _Reached

    def _listen(self, network: nn.Module, name: str, arguments: Any, keywords: Any, result: Any) -> None:
        if name == "__call__" and self._interception.bar is not None:  # the loop has begun
            self._calls.append(_Call(network, arguments, keywords, result))

    # What a step costs.

    @property
    def asked(self) -> list[nn.Module]:
        """The twins that a step calls."""
        return list(dict.fromkeys(call.network for call in self._calls))

    def denoise(self, machine: Machine, graph: bool = False, checkpointing: bool = False) -> tuple[Cost, Cost]:
        """Cost of the networks of one step, and of the backward pass through them to the state, if their `graph` is kept."""
        # results of networks, by the ids of the tensors that stand for them in the pipeline
        results: dict[int, Tensor] = {}
        states: list[Tensor] = []

        def shape(tensor: Tensor) -> Tensor:
            return results.pop(id(tensor)) if id(tensor) in results else as_fake(tensor, self.mode)

        def state(tensor: Tensor) -> Tensor:
            states.append(shape(tensor).detach().requires_grad_(graph))
            return states[-1]

        with ExitStack() as stack:
            stack.enter_context(self.mode)
            if checkpointing:
                stack.enter_context(checkpointed(self.pipe))
            meter = stack.enter_context(Meter(machine))
            stack.enter_context(torch.set_grad_enabled(graph))
            for call in self._calls:
                arguments, keywords = list(call.arguments), dict(call.keywords)
                first: Any = arguments if arguments else keywords  # a network's first argument is the state
                key: Any = 0 if arguments else next(iter(keywords))
                first[key] = mapped(first[key], state)
                arguments, keywords = mapped((arguments, keywords), shape)
                result = call.network(*arguments, **keywords)
                results.update(zip(_identities(call.result), _tensors(result), strict=True))
                del arguments, keywords, first, result
            forward = meter.lap()
            ends = [tensor for tensor in results.values() if tensor.requires_grad]
            if not ends:
                return forward, Cost()
            # a method may pull back several gradients, so the graph stays
            torch.autograd.grad(ends, states, [torch.ones_like(e) for e in ends], retain_graph=True, allow_unused=True)
            return forward, meter.cost


def _harmless(value: Any) -> Any:
    """An argument as the rehearsal may use it: on the CPU, and without the user's generators, which must not be drawn from."""
    if isinstance(value, torch.Generator):
        return torch.Generator()
    if isinstance(value, Tensor):
        return torch.zeros(value.shape, dtype=value.dtype) if value.is_meta else value.cpu()
    if isinstance(value, list | tuple):
        return type(value)(_harmless(item) for item in value)
    return value


def _tensors(value: Any) -> list[Tensor]:
    tensors: list[Tensor] = []

    def collect(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor

    mapped(value, collect)
    return tensors


def _identities(value: Any) -> list[int]:
    return [id(tensor) for tensor in _tensors(value)]

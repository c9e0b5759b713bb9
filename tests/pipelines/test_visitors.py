"""The interface below guidance: what a visitor learns about a call, and how often stack frames are read to find it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_pipelines import build
from torch import Tensor

from dreamsim_guidance.guidance import DPS, MPGD, guide
from dreamsim_guidance.pipelines import Interception, Sampling, StepCall, Visit, Visitor, caller


class Recorder(Visitor, Visit):
    """Leaves every step as it is and records everything that it receives."""

    def __init__(self) -> None:
        self.samplings: list[Sampling] = []
        self.indices: list[int] = []
        self.delivered: list[Tensor] = []

    def begin(self, sampling: Sampling) -> Visit:
        self.samplings.append(sampling)
        return self

    def step(self, call: StepCall, index: int) -> Tensor:
        assert call.clean().shape == call.x_t.shape
        self.indices.append(index)
        return call.advance()[0]

    def images(self, decoded: Tensor, images: Tensor, results: list[Tensor], offset: int) -> None:
        self.delivered.append(images)


def intercepted(pipe: Any, visitor: Visitor, call: Any) -> Tensor:
    interception = Interception(pipe, visitor)
    interception.open()
    try:
        return call()
    finally:
        interception.close()


@pytest.mark.parametrize("family", ["ddim", "sd-v", "sd-img2img", "flux-dev", "lcm", "modular-sd3"])
def test_a_visitor_that_does_nothing_gives_exactly_the_same_images(family: str) -> None:
    tiny = build(family)
    unguided = tiny.call()
    for visitor in (Visitor(), Recorder()):
        assert torch.equal(intercepted(tiny.pipe, visitor, tiny.call), unguided)


def test_a_visit_learns_steps_images_per_prompt_size_and_callback_of_the_call() -> None:
    tiny, recorder = build("sd-v"), Recorder()

    def unchanged(pipe: Any, index: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        return kwargs

    def call() -> Tensor:
        tiny.call(batch=2, num_images_per_prompt=3)
        return tiny.call(steps=3, callback_on_step_end=unchanged)

    images = intercepted(tiny.pipe, recorder, call)
    first, second = recorder.samplings
    assert (first.steps, first.images_per_prompt, first.own_callback) == (4, 3, False)
    assert (second.steps, second.images_per_prompt, second.own_callback) == (3, 1, True)
    assert (second.geometry.height, second.geometry.width) == (32, 32) and second.bar is not None
    assert recorder.indices == [0, 1, 2, 3, 0, 1, 2]
    torch.testing.assert_close(recorder.delivered[-1].clamp(0, 1), images)


def test_a_visit_must_advance() -> None:
    class Idle(Recorder):
        def step(self, call: StepCall, index: int) -> Tensor:
            return call.x_t

    tiny = build("sd-v")
    with pytest.raises(RuntimeError, match=r"Idle\.step must call `call\.advance\(\)` once"):
        intercepted(tiny.pipe, Idle(), tiny.call)


@pytest.mark.parametrize("method", [MPGD(1.0), DPS(1.0)], ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("family", ["ddim", "sd-v", "flux-dev"])
def test_stack_frames_are_read_at_most_five_times_for_any_number_of_steps(
    family: str, method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny, walks = build(family), []
    frames = caller._frames

    def counted() -> Any:
        walks.append(1)
        return frames()

    monkeypatch.setattr(caller, "_frames", counted)
    counts = []
    for steps in (3, 9):
        walks.clear()
        with guide(tiny.pipe, lambda images: images.flatten(1).mean(1), method):
            tiny.call(steps=steps)
        counts.append(len(walks))
    assert counts[0] == counts[1] <= 5


def test_messages_of_pipelines_do_not_mention_guidance() -> None:
    """`pipelines` also serves other packages, which must not receive messages about guidance."""
    import ast
    from pathlib import Path

    for file in Path(caller.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise):
                message = ast.unparse(node).lower()
                assert "mpgd" not in message and "guid" not in message, (file.name, message)

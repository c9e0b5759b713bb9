"""A pipeline and its prices, shared by all tests of planning so that each part of the pipeline is counted only once."""

from __future__ import annotations

import pytest
from planned import priced
from tiny_pipeline import TinyPipeline
from tiny_pipelines import build
from torch.utils.flop_counter import flop_registry

from dreamsim_guidance.guidance.planning.cost import SAME_SHAPES
from dreamsim_guidance.guidance.planning.prices import Prices


@pytest.fixture(scope="session")
def sd() -> TinyPipeline:
    return build("sd-v")


@pytest.fixture(scope="session")
def prices(sd: TinyPipeline) -> Prices:
    return priced(sd)


@pytest.fixture(autouse=True)
def count_attention_on_the_cpu_in_older_versions_of_pytorch_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for operation, counted_operation in SAME_SHAPES.items():
        if operation not in flop_registry:
            monkeypatch.setitem(flop_registry, operation, flop_registry[counted_operation])

"""What all tests share: runtime shape checks, one table of tolerances, a tiny ensemble."""

from __future__ import annotations

from collections.abc import Iterator

import jaxtyping
import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook("dreamsim_guidance", "beartype.beartype")

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""Absolute tolerance on embeddings and distances by dtype; a looser number at a call site carries its reason."""


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """The library as users run it: without the runtime shape checks, whose errors would come before its own."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)

"""What the tests on a GPU share: the device, the pocket metric on it, and pictures."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dreamsim_guidance import DreamSim


@pytest.fixture(scope="session")
def device() -> str:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return "cuda"


@pytest.fixture(scope="session")
def pocket(device: str) -> DreamSim:
    return DreamSim("pocket", device=device)


@pytest.fixture
def images(device: str) -> Tensor:
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1)).to(device)


@pytest.fixture
def reference(device: str) -> Tensor:
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2)).to(device)

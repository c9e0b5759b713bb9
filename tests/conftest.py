"""What all tests share: runtime shape checks, one table of tolerances, a tiny ensemble."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jaxtyping
import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook("dreamsim_guidance", "beartype.beartype")

from dreamsim_guidance.metric.backbones import CLIP_MEAN, CLIP_STD, BranchConfig  # noqa: E402  # after the hook
from dreamsim_guidance.metric.dreamsim import DreamSim  # noqa: E402
from dreamsim_guidance.metric.ensemble import Ensemble  # noqa: E402
from dreamsim_guidance.preprocess import to_image  # noqa: E402

torch.set_num_threads(1)  # tiny models gain nothing from more, and several test processes share the cores

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""Absolute tolerance on embeddings and distances by dtype; a looser number at a call site carries its reason."""


OTHERS_WARNINGS = (
    "ignore:__array_wrap__ must accept:DeprecationWarning",  # diffusers' schedulers hand tensors to numpy 2
    "ignore:__array__ implementation:DeprecationWarning",  # the same, torch 2.6
    "ignore:Should have ta>=t0:UserWarning",  # torchsde, at the last step
    # once a test has opened a table, at every later worker of a loader, which opens none
    "ignore:lance is not fork-safe:UserWarning",
    "ignore:lancedb fork support is experimental:RuntimeWarning",
)
"""Warnings of other packages, which cannot be fixed here."""


def pytest_configure(config: pytest.Config) -> None:
    for warning in OTHERS_WARNINGS:
        config.addinivalue_line("filterwarnings", warning)


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


TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}
CLIP_LIKE: dict[str, Any] = {"feature": "embedding", "projection": 16, "mean": CLIP_MEAN, "std": CLIP_STD}


def tiny_branches() -> list[BranchConfig]:
    """The ensemble's three kinds of branch at 32 pixels: DINO-like, CLIP-like, OpenCLIP-like."""
    shared: dict[str, Any] = {"image_size": 32, "overrides": TINY}
    return [
        BranchConfig("dino", "vit_base_patch16_224", **shared),
        BranchConfig("clip", "vit_base_patch16_clip_quickgelu_224", **CLIP_LIKE, **shared),
        BranchConfig("open_clip", "vit_base_patch16_clip_224", **CLIP_LIKE, **shared),
    ]


def lively(ensemble: Ensemble) -> Ensemble:
    """Random weights that make every part matter: timm's initial ones are so small that attention hardly does."""
    for parameter in ensemble.parameters():
        scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.2
        parameter.data = torch.randn_like(parameter) * scale + (parameter.data if parameter.ndim == 1 else 0)
    return ensemble


@pytest.fixture
def tiny_ensemble() -> Ensemble:
    return lively(Ensemble(tiny_branches()))


@pytest.fixture
def metric(tiny_ensemble: Ensemble) -> DreamSim:
    """A DreamSim over three tiny random branches, float32."""
    return DreamSim(tiny_ensemble)


@pytest.fixture
def patch_metric() -> DreamSim:
    """A tiny metric with patch tokens, 4 x 4 of them."""
    return DreamSim(lively(Ensemble([replace(tiny_branches()[0], feature="cls_patch")])))


@pytest.fixture
def photograph() -> torch.Tensor:
    """A real photograph that scikit-image installs, `(1, 3, 512, 512)`."""
    import skimage.data

    return to_image(skimage.data.astronaut())


@pytest.fixture
def narrow_original(monkeypatch: pytest.MonkeyPatch) -> None:
    """The original package with towers 32 wide, for the folders of `original_package.narrow_pair`."""
    from original_package import make_narrow

    make_narrow(monkeypatch)

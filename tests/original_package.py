"""The original package, PyPI `dreamsim` 0.2.1, on the narrow towers of `official_format`: an oracle in seconds."""

import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from official_format import small, write_official
from torch import nn

from dreamsim_guidance import DreamSim
from dreamsim_guidance.checkpoints.official import load_official

original = pytest.importorskip("dreamsim", reason="the original package is needed as the oracle")


def load_original(folder: Path, name: str, pretrained: bool = True, normalize_embeds: bool = True) -> nn.Module:
    hub_folder = torch.hub._hub_dir
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own
            model, _ = original.dreamsim(
                pretrained=pretrained,
                device="cpu",
                cache_dir=str(folder),
                normalize_embeds=normalize_embeds,
                dreamsim_type=name.removesuffix("_patch"),
                use_patch_model=name.endswith("_patch"),
            )
    finally:
        torch.hub._hub_dir = hub_folder  # the original sets it for the whole process
    return model


def make_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the original build its ViT-B 32 wide; conftest's fixture `narrow_original`."""
    from dreamsim.feature_extraction import (
        load_clip_as_dino,
        load_open_clip_as_dino,
        load_synclr_as_dino,
        vision_transformer,
    )

    narrow = partial(
        vision_transformer.VisionTransformer,
        embed_dim=32, depth=12, num_heads=2, mlp_ratio=4, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )  # fmt: skip
    for module in (vision_transformer, load_clip_as_dino, load_open_clip_as_dino, load_synclr_as_dino):
        monkeypatch.setattr(module, "vit_base", narrow)


def narrow_pair(folder: Path, name: str, seed: int) -> tuple[nn.Module, DreamSim]:
    narrow = small(name, depth=12, dim=32, heads=2, projection=24)
    write_official(folder, name, seed, depth=12, dim=32, projection=24)
    stub = folder / "facebookresearch_dinov2_main" / "hubconf.py"
    if stub.exists():
        stub.write_text(stub.read_text().replace("img_size=224", "img_size=224, embed_dim=32, num_heads=2"))
    checkpoint = load_official(narrow, weights=folder, progress=False)
    ours = DreamSim(checkpoint.ensemble, resize=False)
    assert checkpoint.adapter is not None
    ours.load_adapter(checkpoint.adapter)
    return load_original(folder, name), ours

"""Random weights in the original's layout on disk, so that the original and this library can read the same folder.

    write_official(folder, "ensemble", seed=0)
    dreamsim.dreamsim(cache_dir=folder, device="cpu")     # the original, offline
    load_official("ensemble", weights=folder)             # ours

The numbers depend on the seed, the file and the tensor's name only. Their scales are chosen so that porting mistakes
show in the distance: inputs small enough for the norms' epsilons to matter, a final norm that is not the identity, a
mean far from zero in the last token, adapters that move qkv visibly whatever their alpha is.

The original fetches DINO and DINOv2 through torch.hub, so the folder also gets two hub "repositories": stubs that build
the same networks from installed packages.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from dreamsim_guidance.metric.variants import VARIANTS, Variant

DINO = "checkpoints/dino_vitbase16_pretrain.pth"
"""The file with DINO's backbone, which is in no release."""

RANK = 16
ALPHA = {"ensemble": 1.0}
"""Those of the released ensemble and dino_vitb16 adapters; the other six are not known and use dino_vitb16's 32."""

DINO_STUB = '''
"""Stands in for facebookresearch/dino: the original's own copy of the network, with the weights in checkpoints/."""
from pathlib import Path
import torch
dependencies = ["torch"]

def dino_vitb16(pretrained=True):
    from dreamsim.feature_extraction.vision_transformer import vit_base
    network = vit_base(patch_size=16)
    network.load_state_dict(torch.load(Path(__file__).parents[1] / "checkpoints" / "dino_vitbase16_pretrain.pth"))
    return network
'''

DINOV2_STUB = '''
"""Stands in for facebookresearch/dinov2: timm's network at 224 pixels, its grid resampled as DINOv2 does."""
from pathlib import Path
import timm
import torch
dependencies = ["torch", "timm"]

def dinov2_vitb14(pretrained=True):
    network = timm.create_model("vit_base_patch14_dinov2", img_size=224, num_classes=0)
    weights = torch.load(Path(__file__).parents[1] / "checkpoints" / "dinov2_vitb14_pretrain.pth")
    del weights["mask_token"]
    stored = weights["pos_embed"]
    grid = stored[0, 1:].T.reshape(1, -1, 37, 37)
    grid = torch.nn.functional.interpolate(grid, scale_factor=(16.1 / 37, 16.1 / 37), mode="bicubic")
    weights["pos_embed"] = torch.cat([stored[:, :1], grid.flatten(2).mT], dim=1)
    network.load_state_dict(weights)
    return network
'''


def small(name: str, depth: int = 2, dim: int = 32, heads: int = 2, projection: int = 24) -> Variant:
    """A published variant with narrow, shallow towers: the same file names, keys and code paths in milliseconds."""
    size = {"depth": depth, "embed_dim": dim, "num_heads": heads}
    branches = tuple(
        replace(b, overrides={**b.overrides, **size}, projection=projection if b.projection else None)
        for b in VARIANTS[name].branches
    )
    return replace(VARIANTS[name], branches=branches)


def write_official(
    folder: str | Path,
    variant: str | Variant,
    seed: int = 0,
    *,
    depth: int = 12,
    dim: int = 768,
    projection: int = 512,
    student: bool = False,
) -> Path:
    """Write what `variant` needs into `folder`; files that are there already are kept. Full size by default.

    `student` puts DINO's student backbone, with other numbers, into the file of the zip where the real one is.
    """
    folder, chosen = Path(folder), VARIANTS[variant] if isinstance(variant, str) else variant
    for branch in chosen.branches:
        for path, content in _base_files(branch.name, seed, depth, dim, projection, student):
            if not (folder / path).exists():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                torch.save(_draw(content, f"{seed}/{path}"), folder / path)
    _write_stubs(folder)
    _write_adapter(folder / chosen.adapter, chosen, seed, depth, dim)
    return folder


def write_zip(archive: Path, folder: Path, variant: str, inside: str = "") -> Path:
    """The release's zip of `variant`, from a folder that `write_official` wrote: without the hub's files."""
    files = [path for b in VARIANTS[variant].branches for path, _ in _base_files(b.name, 0, 1, 1, 1, False)]
    names = [path for path in files if not path.startswith("checkpoints/")]
    names += [f"{VARIANTS[variant].adapter}/{file}" for file in ("adapter_config.json", "adapter_model.safetensors")]
    with zipfile.ZipFile(archive, "w") as z:
        for name in names:
            z.write(folder / name, inside + name)
    return archive


Spec = tuple[tuple[int, ...], float, float]
"""Shape, standard deviation, mean of a tensor to be drawn."""


def _base_files(
    name: str, seed: int, depth: int, dim: int, projection: int, student: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    if name == "dino_vitb16":
        yield "checkpoints/dino_vitbase16_pretrain.pth", dict(_vit(depth, dim, 16, 14))
        widths = [dim, 2048, 2048, 256]
        head: dict[str, Spec] = {"module.head.last_layer.weight": ((64, 256), 0.02, 0.0)}
        for i in range(3):
            head[f"module.head.mlp.{2 * i}.weight"] = ((widths[i + 1], widths[i]), 0.02, 0.0)
            head[f"module.head.mlp.{2 * i}.bias"] = ((widths[i + 1],), 0.02, 0.0)
        backbone = {f"module.backbone.{key}": spec for key, spec in _vit(depth, dim, 16, 14)} if student else {}
        yield "dino_vitb16_pretrain.pth", {"student": {**head, **backbone}}
    elif name == "dinov2_vitb14":
        content = {**dict(_vit(depth, dim, 14, 37, scaled=True)), "mask_token": ((1, dim), 0.0, 0.0)}
        yield "checkpoints/dinov2_vitb14_pretrain.pth", content
        yield "dinov2_vitb14_pretrain.pth", {"unused": ((1,), 0.0, 0.0)}  # the file is not read, but must exist
    elif name == "synclr_vitb16":
        yield "synclr_vit_b_16.pth", {"model": {f"module.visual.{key}": spec for key, spec in _vit(depth, dim, 16, 14)}}
    else:
        patch = int(name[-2:])
        content = dict(_vit(depth, dim, patch, 224 // patch, clip=True))
        content["proj"] = ((dim, projection), 0.16, 0.016)  # an embedding about as long as DINO's token
        yield f"{name}_pretrain.pth.tar", {"state_dict": content}


def _vit(
    depth: int, dim: int, patch: int, grid: int, clip: bool = False, scaled: bool = False
) -> Iterator[tuple[str, Spec]]:
    """Names and statistics of a DINO-style transformer's tensors; `clip` with ln_pre, `scaled` with LayerScale."""

    def norm(name: str, mean: float = 0.0) -> Iterator[tuple[str, Spec]]:
        yield f"{name}.weight", ((dim,), 0.1, 1.0)
        yield f"{name}.bias", ((dim,), 0.05, mean)

    def linear(name: str, inputs: int, outputs: int, bias: float, mean: float = 0.0) -> Iterator[tuple[str, Spec]]:
        yield f"{name}.weight", ((outputs, inputs), inputs**-0.5, 0.0)
        yield f"{name}.bias", ((outputs,), bias, mean)

    yield "cls_token", ((1, 1, dim), 0.02, 0.0)
    yield "pos_embed", ((1, grid * grid + 1, dim), 0.008, 0.0)
    yield "patch_embed.proj.weight", ((dim, 3, patch, patch), 0.04 / (3 * patch * patch) ** 0.5, 0.0)
    yield "patch_embed.proj.bias", ((dim,), 0.0 if clip else 0.002, 0.0)  # CLIP has none: the files hold zeros
    if clip:
        yield from norm("pos_drop")
    for i in range(depth):
        block = f"blocks.{i}"
        yield from norm(f"{block}.norm1")
        yield from linear(f"{block}.attn.qkv", dim, 3 * dim, 0.05)
        yield from linear(f"{block}.attn.proj", dim, dim, 0.02)
        yield from norm(f"{block}.norm2")
        yield from linear(f"{block}.mlp.fc1", dim, 4 * dim, 0.05)
        yield from linear(f"{block}.mlp.fc2", 4 * dim, dim, 0.02, 1.0 if i == depth - 1 and not clip else 0.0)
        if scaled:
            yield f"{block}.ls1.gamma", ((dim,), 0.1, 0.6)
            yield f"{block}.ls2.gamma", ((dim,), 0.1, 0.6)
    yield from norm("norm", 0.2)


def _draw(content: dict[str, Any], place: str) -> dict[str, Any]:
    drawn: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            drawn[key] = _draw(value, place)
        else:
            shape, std, mean = value
            random = np.random.default_rng(zlib.crc32(f"{place}/{key}".encode()))
            drawn[key] = torch.from_numpy(mean + np.float32(std) * random.standard_normal(shape, np.float32)).float()
    return drawn


def _write_stubs(folder: Path) -> None:
    for repository, text in (("dino", DINO_STUB), ("dinov2", DINOV2_STUB)):
        stub = folder / f"facebookresearch_{repository}_main" / "hubconf.py"
        stub.parent.mkdir(parents=True, exist_ok=True)
        stub.write_text(text.lstrip())


def _write_adapter(folder: Path, variant: Variant, seed: int, depth: int, dim: int) -> None:
    alpha = ALPHA.get(variant.name, 32.0)
    specs: dict[str, Any] = {}
    for j in range(len(variant.branches)):
        for i in range(depth):
            key = f"base_model.model.extractor_list.{j}.model.blocks.{i}.attn.qkv."
            specs[key + "lora_A.weight"] = ((RANK, dim), dim**-0.5, 0.0)
            specs[key + "lora_B.weight"] = ((3 * dim, RANK), 0.1 * RANK / alpha, 0.0)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_draw(specs, f"{seed}/{folder.name}"), folder / "adapter_model.safetensors", {"format": "pt"})
    config = {
        "auto_mapping": {"base_model_class": "PerceptualModel", "parent_library": "dreamsim.model"},
        "base_model_name_or_path": None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": alpha,
        "lora_dropout": 0.3 if variant.name == "ensemble" else 0.2,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": RANK,
        "target_modules": ["qkv"],
        "task_type": None,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))

"""The original package, PyPI `dreamsim` 0.2.1, as oracle: same files, same images, same numbers.

Narrow towers (32 wide, 12 blocks deep, the original's own classes) run in seconds; the full size is marked slow.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from official_format import small, write_official
from original_package import load_original, narrow_pair, original
from PIL import Image as PILImage
from torch import Tensor, nn

from dreamsim_guidance import VARIANTS, DreamSim, dreamsim
from dreamsim_guidance.checkpoints.official import load_official

SEEDS = [0, 1, 2]
EMBEDDING, DISTANCE, GRADIENT, FLOAT64 = 1e-5, 1e-6, 1e-4, 1e-12
NARROW = 10 * DISTANCE
"""Distances of towers 32 wide, whose rounding errors average over 24 times fewer numbers than at full size.

A distance of unit vectors is as exact as the vectors, which may differ by EMBEDDING. The largest difference of seed 0 was
1.8e-6 in distances, 2.7e-6 in embeddings and 9e-6 in gradients: without vector instructions, with AVX2, AVX-512, and with
MKL_CBWR=COMPATIBLE (AMD EPYC).
"""


def images(batch: int, height: int = 224, width: int = 224, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Smooth pairs, distances of the size that photographs have."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(2 * batch, 3, 7, 7, generator=random)
    fine = nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    x, y = fine.chunk(2)
    return x, y


def compare(theirs: nn.Module, ours: DreamSim, x: Tensor, y: Tensor) -> tuple[float, float, float]:
    """Largest difference of embeddings and of distances, relative Euclidean difference of the gradients to x."""
    outputs = []
    for model in (theirs, ours):
        image = x.clone().requires_grad_()
        distance = model(image, y)
        (gradient,) = torch.autograd.grad(distance.sum(), image)
        with torch.no_grad():
            outputs.append((model.embed(x), distance.detach(), gradient))
    (e, d, g), (e2, d2, g2) = outputs
    assert e.shape == e2.shape and d.shape == d2.shape
    return (e - e2).abs().max().item(), (d - d2).abs().max().item(), ((g - g2).norm() / g.norm()).item()


@pytest.mark.parametrize("seed", [pytest.param(0, marks=pytest.mark.exact), *SEEDS[1:]])
@pytest.mark.parametrize("name", VARIANTS)
def test_narrow_towers_agree_with_the_original(name: str, seed: int, tmp_path: Path, narrow_original: None) -> None:
    theirs, ours = narrow_pair(tmp_path, name, seed)
    # the original refuses other sizes for DINOv2 (here by its stub) and reshapes patches to a square grid
    square = "dinov2" in name or "patch" in name
    cases = [(batch, 224, 224) for batch in (1, 2, 5)]
    cases += [] if square else [(2, 256, 320), (1, 112, 448), (5, 100, 130)]
    for case in (
        cases if seed == 0 else cases[1::3]
    ):  # one of each kind: another seed is another network, not another path
        embedding, distance, gradient = compare(theirs, ours, *images(*case, seed))
        assert embedding <= EMBEDDING and distance <= NARROW and gradient <= GRADIENT
    if all("clip" not in config.name for config in ours.ensemble.configs):  # its CLIP branches fail in float64
        x, y = (image.double() for image in images(2, seed=seed))
        fresh = narrow_pair(tmp_path, name, seed)[1].double()
        embedding, distance, gradient = compare(theirs.double(), fresh, x, y)
        assert embedding <= FLOAT64 and distance <= FLOAT64 and gradient <= FLOAT64


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_full_size_agrees_with_the_original(seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each variant with one of the seeds: narrow towers, above, take the same path with all of them."""
    for name in list(VARIANTS)[seed :: len(SEEDS)]:
        write_official(tmp_path, name, seed)
        theirs = load_original(tmp_path, name)
        patch = name.endswith("_patch")
        capsys.readouterr()
        ours, _ = dreamsim(
            device="cpu", cache_dir=tmp_path, dreamsim_type=name.removesuffix("_patch"), use_patch_model=patch
        )
        assert capsys.readouterr().out == ""
        shapes = [(1, 224, 224), (3, 224, 224)]
        if "dinov2" not in name and not patch:
            shapes.append((2, 256, 320))
        for batch, height, width in shapes:
            embedding, distance, gradient = compare(theirs, ours, *images(batch, height, width, seed))
            with capsys.disabled():
                print(
                    f"\n{name} seed {seed} {batch}x{height}x{width}: {embedding:.1e} {distance:.1e} {gradient:.1e}",
                    end="",
                )
            assert embedding <= EMBEDDING and distance <= DISTANCE and gradient <= GRADIENT
        del theirs, ours
    shutil.rmtree(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dino_vitb16", "dinov2_vitb14_patch"])
def test_full_size_agrees_in_float64(name: str, tmp_path: Path) -> None:
    """One variant of each architecture without CLIP's branches; narrow towers, above, have all of them in float64."""
    write_official(tmp_path, name)
    ours = DreamSim(name, weights=tmp_path, resize=False, dtype=torch.float64)
    x, y = (image.double() for image in images(2))
    embedding, distance, gradient = compare(load_original(tmp_path, name).double(), ours, x, y)
    assert embedding <= FLOAT64 and distance <= FLOAT64 and gradient <= FLOAT64
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("name", ["ensemble", "dino_vitb16"])
def test_without_adapter_and_without_normalisation_too(name: str, tmp_path: Path, narrow_original: None) -> None:
    narrow_pair(tmp_path, name, seed=0)
    narrow = small(name, depth=12, dim=32, heads=2, projection=24)
    theirs = load_original(tmp_path, name, pretrained=False, normalize_embeds=False)
    checkpoint = load_official(narrow, weights=tmp_path, pretrained=False, progress=False)
    ours = DreamSim(checkpoint.ensemble, resize=False, normalize_embeds=False)
    x, y = images(2)
    embedding, distance, gradient = compare(theirs, ours, x, y)
    with torch.no_grad():
        length = ours.embed(x).abs().max().item()  # not normalised: the bound is on numbers of order one
    assert embedding <= EMBEDDING * max(1.0, length) and distance <= NARROW and gradient <= GRADIENT


def test_the_metric_on_a_tensor_is_the_original_on_the_file(
    tmp_path: Path, photograph: Tensor, narrow_original: None
) -> None:
    theirs, ours = narrow_pair(tmp_path, "ensemble", seed=0)
    ours.resize = True
    wide = photograph[..., 100:400, :]
    pictures = [
        PILImage.fromarray((image[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
        for image in (photograph, wide)
    ]
    size = PILImage.Resampling.BICUBIC
    a, b = (torch.from_numpy(np.array(p.resize((224, 224), size))).permute(2, 0, 1)[None] / 255 for p in pictures)
    # 8 bits against floats: the rounding of PIL's two passes is all that differs, and random towers are jumpy
    # (0.6 % here and up to 0.9 % for noise of half a grey level; a resize without antialias differs by 16 %)
    distance = theirs(a, b).item()
    assert abs(distance - ours(photograph, wide).item()) < 1e-2 * distance


def test_the_mlp_head_is_the_originals() -> None:
    from dreamsim.model import MLP

    from dreamsim_guidance.metric.ensemble import MLPHead

    theirs, ours = MLP(20, 8), MLPHead(20, 8)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 20)
    assert torch.allclose(theirs(x), ours(x), atol=1e-6)


def test_the_entry_point_has_the_originals_signature() -> None:
    import inspect

    theirs, ours = inspect.signature(original.dreamsim), inspect.signature(dreamsim)
    assert list(theirs.parameters) == list(ours.parameters)


def test_the_preprocessing_is_the_originals(photograph: Tensor) -> None:
    from torchvision import transforms

    from dreamsim_guidance.metric.compat import preprocess

    picture = PILImage.fromarray((photograph[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)).crop(
        (0, 0, 300, 200)
    )
    bicubic = transforms.InterpolationMode.BICUBIC
    theirs = transforms.Compose([transforms.Resize((224, 224), interpolation=bicubic), transforms.ToTensor()])
    assert torch.equal(preprocess(picture), theirs(picture).unsqueeze(0))

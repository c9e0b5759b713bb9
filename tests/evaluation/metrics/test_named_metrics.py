"""Metrics of picture files: their names, the pixels they see, and errors if weights are missing."""

from __future__ import annotations

import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from conftest import TOLERANCE, tiny_branches
from PIL import Image
from torch import Tensor

from dreamsim_guidance import DreamSim, save_image
from dreamsim_guidance.evaluation.metrics import baselines
from dreamsim_guidance.evaluation.metrics.named_metrics import (
    BASELINES,
    MetricUnavailableError,
    file_metric,
    load_metrics,
)
from dreamsim_guidance.files import network
from dreamsim_guidance.metric.compat import preprocess


@pytest.fixture
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, Path]]:
    """Pairs of four pictures of one size; the embedding cache is a folder of the test."""
    monkeypatch.setenv("DREAMSIM_GUIDANCE_CACHE", str(tmp_path / "cache"))
    files = [tmp_path / f"{i}.png" for i in range(4)]
    for file in files:
        save_image(torch.rand(1, 3, 40, 48), file)
    return [
        (files[0], files[1]),
        (files[2], files[3]),
        (files[0], files[1]),
        (files[1], files[0]),
        (files[3], files[3]),
    ]


def squashed(file: Path, size: int) -> Tensor:
    with Image.open(file) as picture:
        pixels = np.array(picture.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255


def test_an_embedding_metric_sees_pictures_as_the_original_does(
    metric: DreamSim, pairs: list[tuple[Path, Path]]
) -> None:
    distances = file_metric(metric, cache=False).distances(pairs, progress=False)
    expected = [float(metric(squashed(a, 32), squashed(b, 32))) for a, b in pairs]
    np.testing.assert_allclose(distances, expected, atol=TOLERANCE[torch.float32])
    assert distances[4] == 0


def test_at_224_pixels_that_is_the_originals_preprocess(pairs: list[tuple[Path, Path]]) -> None:
    (file, _), *_ = pairs
    with Image.open(file) as picture:
        assert torch.equal(preprocess(picture), squashed(file, 224))


def test_branches_of_several_sizes_squash_for_themselves(pairs: list[tuple[Path, Path]], tmp_path: Path) -> None:
    first, second, _ = tiny_branches()
    mixed = DreamSim([first, replace(second, image_size=16)], pretrained=False)
    save_image(torch.rand(1, 3, 20, 30), tmp_path / "other.png")
    all_pairs = [*pairs, (pairs[0][0], tmp_path / "other.png")]
    distances = file_metric(mixed, cache=False).distances(all_pairs, progress=False)
    whole = [
        [torch.from_numpy(np.array(Image.open(f))).permute(2, 0, 1)[None] / 255 for f in pair] for pair in all_pairs
    ]
    np.testing.assert_allclose(distances, [float(mixed(a, b)) for a, b in whole], atol=TOLERANCE[torch.float32])


def test_workers_change_nothing(metric: DreamSim, pairs: list[tuple[Path, Path]]) -> None:
    alone, helped = (file_metric(metric, cache=False, workers=n, batch=2).distances(pairs, False) for n in (0, 1))
    np.testing.assert_array_equal(alone, helped)


def test_names_model_files_and_run_folders(metric: DreamSim, pairs: list[tuple[Path, Path]], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    metric.save(tmp_path / "run" / "model.safetensors", source="test", licence="none")
    names = ["pocket", str(tmp_path / "run"), str(tmp_path / "run" / "model.safetensors"), "mse"]
    distances = {name: m.distances(pairs, False) for name, m in load_metrics(names, cache=False).items()}
    assert list(distances) == names
    np.testing.assert_array_equal(distances[names[1]], distances[names[2]])
    np.testing.assert_allclose(
        distances[names[1]], file_metric(metric, cache=False).distances(pairs, False), atol=TOLERANCE[torch.float32]
    )


def test_a_callable_is_a_metric(pairs: list[tuple[Path, Path]], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def red(x, y):\n    return (x[:, 0] - y[:, 0]).abs().mean((1, 2))\n")
    distances = load_metrics([f"{tmp_path}/mine.py:red"])[f"{tmp_path}/mine.py:red"].distances(pairs, False)
    batches: list[int] = []

    def red(x: Tensor, y: Tensor) -> Tensor:
        batches.append(len(x))
        return (x[:, 0] - y[:, 0]).abs().mean((1, 2))

    direct = file_metric(red)
    np.testing.assert_array_equal(direct.distances(pairs, False), distances)
    assert direct.name == "red" and sum(batches) == 4  # the pair that occurs twice is compared once
    assert distances[0] == pytest.approx(distances[3]) and distances[4] == 0


def test_a_class_is_made_without_arguments(pairs: list[tuple[Path, Path]], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\n\n"
        "class Dropped(torch.nn.Module):\n"
        "    def forward(self, x, y):\n"
        "        return torch.nn.functional.dropout(x - y, 0.9, self.training).abs().mean((1, 2, 3))\n\n"
        "class Sized(Dropped):\n"
        "    def __init__(self, size):\n"
        "        pass\n"
    )
    distances = load_metrics([name := f"{tmp_path}/mine.py:Dropped"])[name].distances(pairs, False)
    expected = file_metric(lambda x, y: (x - y).abs().mean((1, 2, 3))).distances(pairs, False)
    np.testing.assert_allclose(distances, expected)  # in evaluation mode
    with pytest.raises(ValueError, match=r"Sized' is a class and cannot be made without arguments \(.*'size'\); give"):
        load_metrics([f"{tmp_path}/mine.py:Sized"])


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "ensemble_v2",
            ValueError,
            "unknown metric 'ensemble_v2'; known: clip_vitb32, .*pocket, pocket_robust, mse, psnr",
        ),
        ("none.safetensors", FileNotFoundError, "there is no model file 'none.safetensors'"),
        (".", FileNotFoundError, "the folder '.' holds no model.safetensors"),
        ("none.py:f", FileNotFoundError, "names the file 'none.py', which is not there"),
        ("no.such.module:f", ValueError, "names the module 'no.such.module', which cannot be imported"),
        ("math:nothing", ValueError, "'math' has no function 'nothing'"),
    ],
)
def test_a_wrong_name_is_refused_at_once(
    name: str, error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        load_metrics(["mse", name])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x, y: (x - y).mean(), r"must return a tensor of one distance per image, \(\d,\), got \(\)"),
        (lambda x, y: 0.5, "got float"),
        (lambda x, y: (x - y).flatten(1).mean(1) / 0, "is not finite for '.*0.png' and '.*1.png'"),
    ],
)
def test_wrong_return_values_of_a_callable_are_refused(
    pairs: list[tuple[Path, Path]], answer: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        file_metric(answer, "mine").distances(pairs, False)


def test_a_broken_picture_is_named(metric: DreamSim, pairs: list[tuple[Path, Path]]) -> None:
    whole = pairs[1][1].read_bytes()
    pairs[1][1].write_bytes(whole[: len(whole) // 2])
    for cache in (False, True):
        with pytest.raises(ValueError, match=r"1 of 4 pictures cannot be read: '.*3.png'"):
            file_metric(metric, cache=cache).distances(pairs, False)
    with pytest.raises(ValueError, match=r"'.*3.png' cannot be read as an image"):
        load_metrics(["psnr"], workers=1)["psnr"].distances(pairs, False)


def test_small_pictures_are_refused_by_name(pairs: list[tuple[Path, Path]]) -> None:
    with pytest.raises(ValueError, match="ms-ssim needs pictures of at least 176 x 176 pixels, got 40 x 48"):
        load_metrics(["ms-ssim"])["ms-ssim"].distances(pairs, False)


@pytest.fixture
def random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the baselines' downloads by narrow networks with random weights; all other code is theirs."""
    import open_clip
    import timm
    from torchmetrics.functional.image import dists, lpips

    create = timm.create_model
    small = {"embed_dim": 32, "depth": 2, "num_heads": 2}

    def timm_model(name: str, pretrained: bool = False, **options: Any) -> Any:
        assert pretrained and "." in name
        narrow = small if name.startswith("vit") else {"layers": (1, 1, 1, 1)}
        return create(name.partition(".")[0], pretrained=False, **{**options, **narrow})

    def open_clip_model(name: str, pretrained: str | None = None, **options: Any) -> Any:
        assert pretrained == "laion400m_e31" and pretrained in open_clip.list_pretrained_tags_by_model(name)
        vision = {"image_size": 224, "layers": 2, "width": 64, "patch_size": 32}
        text = {"context_length": 8, "vocab_size": 16, "width": 32, "heads": 1, "layers": 1}
        return open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text)

    monkeypatch.setattr(network, "reachable", lambda url: True)
    monkeypatch.setattr(timm, "create_model", timm_model)
    monkeypatch.setattr(open_clip, "create_model", open_clip_model)
    monkeypatch.setattr(baselines, "torchvision_weights", lambda name, url: None)
    layers = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
    monkeypatch.setattr(dists, "vgg16", lambda weights: SimpleNamespace(features=layers))
    whole = lpips.Alexnet.__init__
    monkeypatch.setattr(
        lpips.Alexnet, "__init__", lambda self, requires_grad=False, pretrained=True: whole(self, requires_grad, False)
    )


@pytest.mark.usefixtures("random_weights")
@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_runs_with_its_own_code(name: str, tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.png" for i in range(3)]
    base = torch.rand(1, 3, 12, 12)
    for file, noise in zip(files, (0.0, 0.05, 0.6), strict=True):
        coarse = (base + noise * torch.rand_like(base)).clamp(0, 1)
        save_image(torch.nn.functional.interpolate(coarse, (180, 180), mode="bilinear"), file)
    metric = load_metrics([name], cache=False)[name]
    same, near, far = metric.distances([(files[0], files[i]) for i in range(3)], progress=False)
    assert same == pytest.approx(-100 if name == "psnr" else 0, abs=1e-5)
    assert same < near < far


def test_a_tower_is_the_cosine_of_its_feature(random_weights: None, tmp_path: Path) -> None:
    metric = baselines.build_tower("clip", "cpu")
    x, y = torch.rand(2, 1, 3, 224, 224)
    with torch.no_grad():
        a, b = metric.ensemble(x), metric.ensemble(y)
        torch.testing.assert_close(
            metric(x, y), 1 - torch.cosine_similarity(a, b), atol=TOLERANCE[torch.float32], rtol=0
        )


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No host can be reached, and all caches are empty."""
    from huggingface_hub import constants

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(network, "_answers", {})
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "lpips",
            r"lpips needs the weights https://.*alexnet.*\.pth .*cannot be reached.*put the file into .*checkpoints",
        ),
        ("dists", r"dists needs the weights https://.*vgg16.*\.pth"),
        (
            "resnet50",
            r"resnet50 needs the weights resnet50.tv_in1k, which are not in .*huggingface.co cannot be reached",
        ),
        ("open_clip", "open_clip needs the weights ViT-B-16.laion400m_e31"),
    ],
)
def test_without_a_network_a_baseline_says_so_at_once(
    name: str, message: str, pairs: list[tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm

    if name == "resnet50":  # not built twice over: only its weights are asked for
        create = timm.create_model
        monkeypatch.setattr(timm, "create_model", lambda n, **o: create(n, **{**o, "layers": (1, 1, 1, 1)}))
    start = time.monotonic()
    with pytest.raises(MetricUnavailableError, match=message):
        load_metrics([name])[name].distances(pairs, False)
    assert time.monotonic() - start < 20  # retrying takes a minute


def test_a_host_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "_answers", {})
    monkeypatch.setattr(network, "_PATIENCE", -0.9)
    monkeypatch.setattr(network, "_ask", lambda host: time.sleep(5) is None)
    start = time.monotonic()
    assert not network.reachable("https://example.org/file")
    assert time.monotonic() - start < 3


def test_a_missing_package_says_how_to_install_it(
    pairs: list[tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torchmetrics"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(MetricUnavailableError, match=r'pip install "dreamsim-guidance\[losses\]"'):
        load_metrics(["lpips"])["lpips"].distances(pairs, False)

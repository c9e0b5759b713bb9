"""An index as readers see it: its rows, its vectors, and the metrics that it accepts."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from dreamsim_guidance import DreamSim, load_image
from dreamsim_guidance.retrieval import Index, embed

pytest.importorskip("lancedb")


def photographs(folder: Path, count: int, seed: int = 0) -> Path:
    """A folder of pictures of different sizes, JPEG and PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for i in range(count):
        blocks = random.integers(0, 256, (7, 9, 3)).repeat(12 + i % 5, 0).repeat(14, 1)
        PILImage.fromarray(blocks.astype(np.uint8)).save(folder / f"{i:03d}.{'png' if i % 3 else 'jpg'}")
    return folder


def test_distances_of_an_index_are_the_metrics_own(tmp_path: Path) -> None:
    embed(photographs(tmp_path / "pictures", 8), tmp_path / "index", "pocket", progress=False)
    index = Index.open(tmp_path / "index")
    metric, vectors = DreamSim("pocket"), index.vectors()
    assert vectors.shape == (8, 384) and vectors.dtype == np.float32 and len(index) == 8
    for a, b in combinations(range(len(index)), 2):
        expected = float(metric(load_image(index.paths[a]), load_image(index.paths[b])))
        distance = 0.5 * float(np.square(vectors[a] - vectors[b]).sum())
        # float16 has 11 bits: each vector is off by 2^-12 of its length or so, in a random direction
        assert distance == pytest.approx(expected, abs=1e-6 + 2**-11 * expected**0.5)


def test_rows_are_read_in_any_order_and_repeatedly(tmp_path: Path) -> None:
    embed(photographs(tmp_path / "pictures", 6), tmp_path / "index", "pocket", progress=False)
    index = Index.open(tmp_path / "index")
    np.testing.assert_array_equal(index.vectors([4, 1, 4, 0]), index.vectors()[[4, 1, 4, 0]])
    assert index.vectors([]).shape == (0, 384)
    with pytest.raises(IndexError, match=r"rows must lie in 0 ... 5"):
        index.vectors([6])


def test_another_metric_is_refused(tmp_path: Path) -> None:
    source = photographs(tmp_path / "pictures", 2)
    embed(source, tmp_path / "index", "pocket", progress=False)
    with pytest.raises(ValueError, match="was made by 'pocket' with other weights"):
        embed(source, tmp_path / "index", "pocket_robust", progress=False)
    with pytest.raises(ValueError, match="was made by 'pocket' with other weights"):
        Index.open(tmp_path / "index", DreamSim("pocket", baseline=True))
    assert Index.open(tmp_path / "index", "pocket").metric is not None


def test_weights_that_differ_by_rounding_are_the_same_metric(tmp_path: Path) -> None:
    """As on another processor, where folding an adapter into the weights rounds otherwise."""
    source = photographs(tmp_path / "pictures", 2)
    embed(source, tmp_path / "index", "pocket", progress=False)
    metric = DreamSim("pocket")
    for parameter in metric.parameters():
        parameter.data *= 1 + 1e-7 * torch.randn_like(parameter)
    assert Index.open(tmp_path / "index", metric).metric is metric
    for parameter in metric.parameters():
        parameter.data *= 1 + 3e-3 * torch.randn_like(parameter)
    with pytest.raises(ValueError, match="with other weights"):
        Index.open(tmp_path / "index", metric)

"""Agreement between lists of nearest pictures, and the texture network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dreamsim_guidance.data.photographs import photograph
from dreamsim_guidance.preprocess import resize, save_image
from dreamsim_guidance.retrieval import texture
from dreamsim_guidance.retrieval.list_agreement import list_agreement, nearest


def test_nearest_pictures_come_in_order_and_the_query_last() -> None:
    distances = np.array([[0.3, 0.1, 0.2], [np.inf, 0.5, 0.5]])
    assert nearest(distances, 2).tolist() == [[1, 2], [1, 2]]
    assert nearest(distances, 3)[1].tolist() == [1, 2, 0]


def test_overlap_is_the_share_in_common() -> None:
    lists = {"a": np.array([[1, 2], [3, 4]]), "b": np.array([[2, 1], [4, 5]]), "c": np.array([[7, 8], [6, 9]])}
    results = {(pair.first, pair.second): pair for pair in list_agreement(lists, [10, 20])}
    assert results["a", "b"].overlap.value == 0.75
    assert results["a", "c"].overlap.value == results["b", "c"].overlap.value == 0
    assert results["a", "b"].chance == pytest.approx((2 / 10 + 2 / 20) / 2)
    assert results["a", "b"].overlap.low < 0.75 < results["a", "b"].overlap.high


def test_random_lists_agree_as_chance_says() -> None:
    random = np.random.default_rng(0)
    lists = {name: np.stack([random.permutation(30)[:6] for _ in range(2000)]) for name in "ab"}
    (pair,) = list_agreement(lists, [30] * 2000)
    assert pair.chance == pytest.approx(0.2)
    assert pair.overlap.value == pytest.approx(0.2, abs=0.015)  # four standard errors


def test_lists_of_other_shapes_are_an_error() -> None:
    with pytest.raises(ValueError, match="one shape"):
        list_agreement({"a": np.zeros((2, 3), np.int64), "b": np.zeros((2, 2), np.int64)}, [9, 9])


def half(image: torch.Tensor, right: bool) -> torch.Tensor:
    width = image.shape[-1] // 2
    return resize(image[..., width:] if right else image[..., :width], (96, 96))


@pytest.mark.parametrize("default", ["photographs", "pocket"])
def test_two_halves_of_a_texture_are_nearer_than_two_textures(
    default: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if default == "photographs" and texture.default_metric() != "photographs":
        pytest.skip("needs the extra photographs")
    monkeypatch.setattr(texture, "default_metric", lambda: default)
    network = texture.load_texture_network()
    assert ("EfficientNet" in network.name) == (default == "photographs")
    files = []
    for picture in ("brick", "grass", "gravel"):
        for right in (False, True):
            files.append(tmp_path / f"{picture}_{right}.png")
            save_image(half(photograph(picture), right), files[-1])
    vectors = network.vectors(files, batch=4)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    distances = 1 - vectors @ vectors.T + 9 * np.eye(6)
    assert distances.argmin(1).tolist() == [1, 0, 3, 2, 5, 4]


def test_gram_vectors_do_not_see_where_a_pattern_is() -> None:
    network = texture.load_texture_network()
    large = torch.rand(1, 3, 16, 16).repeat_interleave(14, 2).repeat_interleave(14, 3)
    small = torch.rand(1, 3, 56, 56).repeat_interleave(4, 2).repeat_interleave(4, 3)
    with torch.no_grad():
        a, turned, b = (network.directions(x) for x in (large, large.flip(-1).flip(-2), small))
    assert (a - turned).norm() < 0.5 * (a - b).norm()

"""Masks, depth and categories are found by name, and what is missing or does not fit is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from sensitivity import known_metrics as known

from dreamsim_guidance.sensitivity.companions import companion_files, read_categories, read_grey
from dreamsim_guidance.sensitivity.masking import fill_outside, kept_decisions
from dreamsim_guidance.sensitivity.saliency import border_contrast, foreground


def write(file: Path, size: tuple[int, int] = (8, 6), colour: str = "white") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    PILImage.new("L" if "mask" in str(file) else "RGB", size, colour).save(file)
    return file


@pytest.mark.parametrize("place", ["masks/img/a.png", "masks/a.png", "masks/a_mask.png", "masks/img/a_mask.png"])
def test_masks_are_found_by_path_or_name(tmp_path: Path, place: str) -> None:
    picture, mask = write(tmp_path / "set/img/a.jpg"), write(tmp_path / place)
    assert companion_files(tmp_path / "masks", [picture], tmp_path / "set", "mask") == {picture: mask}


def test_masks_may_lie_beside_the_pictures(tmp_path: Path) -> None:
    picture = write(tmp_path / "img/a.png")
    with pytest.raises(FileNotFoundError, match=r"1 of 1 pictures have no mask .*'a.png' or 'a_mask.png'"):
        companion_files(tmp_path, [picture], tmp_path, "mask")  # the picture is no mask of itself
    mask = write(tmp_path / "img/a_mask.png")
    assert companion_files(tmp_path, [picture], tmp_path, "mask") == {picture: mask}


def test_missing_masks_are_counted(tmp_path: Path) -> None:
    pictures = [write(tmp_path / f"set/{name}.png") for name in "abc"]
    write(tmp_path / "masks/b.png")
    with pytest.raises(FileNotFoundError, match=r"2 of 3 pictures have no mask in .*, the first: .*a.png"):
        companion_files(tmp_path / "masks", pictures, tmp_path / "set", "mask")
    with pytest.raises(FileNotFoundError, match="is not there"):
        companion_files(tmp_path / "nowhere", pictures, tmp_path / "set", "mask")


def test_one_mask_for_two_pictures_of_one_name_is_refused(tmp_path: Path) -> None:
    pictures = [write(tmp_path / f"set/{folder}/a.png") for folder in ("x", "y")]
    write(tmp_path / "masks/a.png")
    with pytest.raises(ValueError, match="would be the mask of"):
        companion_files(tmp_path / "masks", pictures, tmp_path / "set", "mask")


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    mask = write(tmp_path / "mask.png", (8, 7))
    with pytest.raises(ValueError, match=r"8 x 7 pixels large, and its picture '.*' 8 x 6"):
        read_grey(mask, tmp_path / "a.png", (6, 8))
    assert read_grey(mask, tmp_path / "a.png", (7, 8)).min() == 1


def test_depth_of_sixteen_bits_keeps_its_scale(tmp_path: Path) -> None:
    PILImage.fromarray(np.full((4, 4), 32768, np.uint16)).save(tmp_path / "d.png")
    assert read_grey(tmp_path / "d.png", tmp_path / "a.png", (4, 4)) == pytest.approx(0.5, abs=1e-4)


def test_categories_are_read_by_path_name_or_stem(tmp_path: Path) -> None:
    pictures = [tmp_path / "img" / name for name in ("a.png", "b.png", "c.png")]
    table = tmp_path / "categories.csv"
    table.write_text("category,path\ncat,img/a.png\ndog,b.png\ncat,c\n")
    assert list(read_categories(table, pictures, tmp_path).values()) == ["cat", "dog", "cat"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,kind\na.png,cat\n", "lacks the column category"),
        ("path,category\na.png,cat\n", "1 of 2 pictures have no category"),
        ("path,category\na.png,cat\na.png,dog\n", "has the categories 'cat' and 'dog'"),
        ("path,category\na.png,\n", "is empty"),
    ],
)
def test_faulty_categories_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_categories(tmp_path / "c.csv", [tmp_path / "a.png", tmp_path / "b.png"], tmp_path)


def test_default_saliency_finds_an_object_on_plain_ground() -> None:
    image = torch.full((1, 3, 60, 80), 0.9)
    image[:, 0, 20:40, 30:60] = 0.1
    found = border_contrast(image)
    true = np.zeros((60, 80), bool)
    true[20:40, 30:60] = True
    assert (found & true).sum() / (found | true).sum() > 0.85
    assert not border_contrast(torch.full((1, 3, 20, 20), 0.3)).any()


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (
            torch.rand(3, 4),
            r"returned an array \(3, 4\) for a picture \(1, 3, 8, 8\); it must take one picture, a tensor",
        ),
        (torch.rand(2, 8, 8), r"returned an array \(2, 8, 8\)"),
        (2 * torch.ones(8, 8), r"returned numbers in \[2.00, 2.00\]; .* and return .* in \[0, 1\]"),
        (torch.full((8, 8), torch.nan), "returned numbers in"),
        (None, "returned NoneType"),
        ("mask", "returned str"),
    ],
)
def test_a_faulty_saliency_function_is_refused(returned: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        foreground(lambda _: returned, torch.rand(1, 3, 8, 8))


def test_a_function_of_two_pictures_is_no_saliency_function() -> None:
    message = r"'mean_colour' failed with TypeError: .*; it must take one picture, a tensor \(1, 3, h, w\) in \[0, 1\]"
    with pytest.raises(ValueError, match=message):
        foreground(known.mean_colour, torch.rand(1, 3, 8, 8))  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (1, 1, 8, 8)])
def test_saliency_may_have_leading_dimensions(shape: tuple[int, ...]) -> None:
    assert foreground(lambda _: torch.ones(shape), torch.rand(1, 3, 8, 8)).all()


@pytest.mark.parametrize("fill", ["grey", "mean", "blur"])
def test_fillings_contain_nothing_of_what_was_removed(fill: Any) -> None:
    kept = np.zeros((20, 20), bool)
    kept[:10] = True
    x, y = torch.rand(1, 3, 20, 20), torch.rand(1, 3, 20, 20)
    y[:, :, :10] = x[:, :, :10]
    assert torch.equal(fill_outside(x, kept, fill), fill_outside(y, kept, fill))
    assert torch.equal(fill_outside(x, kept, fill)[:, :, :10], x[:, :, :10])
    assert (fill_outside(x, np.zeros_like(kept), fill) == 0.5).all()


def test_decisions_that_stay_turn_or_become_ties() -> None:
    before = np.array([0.1, 0.1, 0.1, 0.2, 0.5, 0.5, 0.5, 0.2])
    after = np.array([0.1, 0.4, 0.3, 0.1, 0.2, 0.2, 0.3, 0.9])
    np.testing.assert_array_equal(kept_decisions(before, after), [1, 0, 0.5, np.nan])


def test_rounding_is_no_decision() -> None:
    """Distances of a metric that sees nothing of what is kept are rounding errors: ties, whatever their own mean."""
    whole, rounding = np.array([1.0, 2.0, 2.0, 1.0]), np.array([1e-9, 3e-9, 2e-9, 8e-9])
    np.testing.assert_array_equal(kept_decisions(whole, rounding), [0.5, 0.5])
    np.testing.assert_array_equal(kept_decisions(whole, 1e-3 * whole), [1, 1])

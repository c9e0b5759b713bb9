"""Files that are damaged, too large, missing or without a known white point: the error names the file and the reason."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from dreamsim_guidance import load_image
from dreamsim_guidance.data.pictures import decode
from dreamsim_guidance.files.pictures import PictureError, read_rgb, readings_differ

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (24, 32), dtype=np.uint8)


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "gif", "webp", "bmp", "ppm"])
def test_a_file_cut_short_is_named(tmp_path: Path, ending: str) -> None:
    whole, torn = tmp_path / f"whole.{ending}", tmp_path / f"torn.{ending}"
    PILImage.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(whole)
    for share in (0.0, 0.02, 0.5, 0.8):
        content = whole.read_bytes()
        torn.write_bytes(content[: int(len(content) * share)])
        for read in (load_image, decode, readings_differ, lambda file: read_rgb(file, "original")):
            with pytest.raises(ValueError, match=rf"torn.{ending}' cannot be read as an image \(.+\); give"):
                read(torn)


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # PIL warns of tags and metadata that it skips
def test_a_damaged_file_is_a_picture_or_an_error_that_names_it(tmp_path: Path) -> None:
    """Reading a file in which some bytes were changed gives a picture, or an error that names the file."""
    rng = np.random.default_rng(1)
    for ending in ("png", "jpg", "tif", "gif", "webp", "bmp"):
        whole = tmp_path / f"whole.{ending}"
        PILImage.fromarray(COLOUR).save(whole)
        for _ in range(40):
            content = bytearray(whole.read_bytes())
            for place in rng.integers(0, min(len(content), 200), 6):
                content[place] = rng.integers(256)
            (tmp_path / f"damaged.{ending}").write_bytes(bytes(content))
            try:
                assert load_image(tmp_path / f"damaged.{ending}").shape[1] == 3
            except ValueError as error:
                assert f"damaged.{ending}'" in str(error)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_error_of_a_picture_that_is_too_large_states_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PILImage.new("L", (3000, 2000)).save(tmp_path / "large.png")
    monkeypatch.setattr(PILImage, "MAX_IMAGE_PIXELS", 2_000_000)
    expected = (
        "large.png' is too large: 6 million pixels, more than the limit of 4 million (twice PIL.Image.MAX_IMAGE_PIXELS); "
        "scale it down, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust the file."
    )
    for read in (load_image, decode, lambda file: decode(file, reading="original"), readings_differ):
        with pytest.raises(ValueError, match=re.escape(expected)):
            read(tmp_path / "large.png")
    monkeypatch.setattr(PILImage, "MAX_IMAGE_PIXELS", 4_000_000)
    assert load_image(tmp_path / "large.png").shape == (1, 3, 2000, 3000)


def test_the_error_says_why_a_path_is_not_a_picture(tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere.png")
    for path, message in (
        ("", "the path is empty"),
        (tmp_path, "is a folder; give the path of a picture in it"),
        (tmp_path / "none.png", "image not found: '.*none.png'; give the path of a picture"),
        (tmp_path / "link.png", "image not found: '.*link.png'"),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            load_image(path)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (GREY.astype(np.int32) - 9, "its integers run from -9 to"),
        (np.full((4, 4), 70000, np.int32), "its integers run from 70000 to 70000, so its white point is not known"),
        (GREY.astype(np.float32), r"\[0, 1\], got \[0.00, 255.00\]"),
        (np.full((4, 4), np.nan, np.float32), r"\[0, 1\], got (\[nan|NaN)"),
        (np.full((4, 4), np.inf, np.float32), r"\[0, 1\], got (\[inf|inf)"),
    ],
)
def test_values_without_a_known_white_point_are_refused(tmp_path: Path, pixels: np.ndarray, message: str) -> None:
    PILImage.fromarray(pixels).save(tmp_path / "a.tif")
    for read in (load_image, decode):
        with pytest.raises(ValueError, match=rf"a.tif'.*{message}"):
            read(tmp_path / "a.tif")


def test_a_damaged_exif_tag_does_not_hide_the_picture(tmp_path: Path) -> None:
    PILImage.fromarray(COLOUR).save(tmp_path / "a.png", exif=b"Exif\x00\x00no tags at all")
    assert load_image(tmp_path / "a.png").shape == (1, 3, 24, 32)


def test_picture_errors_survive_pickling() -> None:
    error = PictureError("'a.png' cannot be read", "because")
    restored = pickle.loads(pickle.dumps(error))
    assert str(restored) == str(error) and restored.reason == "because"


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_reading_is_refused(tmp_path: Path) -> None:
    PILImage.fromarray(COLOUR).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="reading must be 'upright' or 'original', got 'exif'"):
        read_rgb(tmp_path / "a.png", "exif")  # type: ignore[arg-type]

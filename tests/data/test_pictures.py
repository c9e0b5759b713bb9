from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from torchvision import transforms
from torchvision.transforms.functional import pil_to_tensor

from dreamsim_guidance.data.pictures import Pictures, check_pictures, load_pictures
from dreamsim_guidance.metric.compat import preprocess


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Pictures of many kinds: large, small, wide, grey, with alpha, with a palette, turned by an EXIF tag."""
    rng = np.random.default_rng(0)

    def noise(*shape: int) -> PILImage.Image:
        return PILImage.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))

    turned = PILImage.Exif()
    turned[0x0112] = 6
    noise(300, 260, 3).save(tmp_path / "large.png")
    noise(20, 30, 3).save(tmp_path / "small.bmp")
    noise(24, 400, 3).save(tmp_path / "wide.jpg", quality=95)
    noise(64, 64).save(tmp_path / "grey.png")
    noise(64, 64, 4).save(tmp_path / "alpha.png")
    noise(64, 64, 3).quantize(16).save(tmp_path / "palette.png")
    noise(40, 64, 3).save(tmp_path / "turned.jpg", exif=turned)
    noise(224, 224, 3).save(tmp_path / "exact.png")
    return sorted(tmp_path.iterdir())


def test_pictures_equal_those_of_the_original_bit_by_bit(files: list[Path]) -> None:
    # as the original's data set composes it, and as its preprocess does
    transform = transforms.Compose(
        [transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC), transforms.ToTensor()]
    )
    for file, pixels in zip(files, Pictures(files, reading="original"), strict=True):
        with PILImage.open(file) as picture:
            expected = transform(picture.convert("RGB"))
            assert torch.equal(preprocess(picture)[0], expected)
        assert pixels.dtype == torch.uint8 and pixels.is_contiguous()
        assert torch.equal(pixels.float() / 255, expected)


def test_pictures_may_have_any_size(files: list[Path]) -> None:
    with PILImage.open(files[0]) as picture:
        expected = picture.convert("RGB").resize((48, 48), PILImage.Resampling.BICUBIC)
    assert torch.equal(Pictures(files, 48)[0], pil_to_tensor(expected))
    with pytest.raises(ValueError, match="size must be at least 1 pixel, got 0"):
        Pictures(files, 0)


# Python 3.12 warns of every fork beside threads
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_loading_keeps_the_order_in_any_number_of_workers(files: list[Path], workers: int) -> None:
    batches = list(load_pictures(files, 16, workers, batch=3))
    assert [len(batch) for batch in batches] == [3, 3, 2]
    assert torch.equal(torch.cat(batches), torch.stack(list(Pictures(files, 16))))


def test_reading_names_the_file_that_fails(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    pictures = Pictures([tmp_path / "none.png", tmp_path / "text.png"])
    with pytest.raises(FileNotFoundError, match=r"image not found: '.*none.png'"):
        pictures[0]
    with pytest.raises(ValueError, match=r"text.png' cannot be read as an image"):
        pictures[1]


def test_only_pictures_whose_reading_differs_are_not_the_originals(files: list[Path]) -> None:
    for file, ours, originals in zip(files, Pictures(files), Pictures(files, reading="original"), strict=True):
        assert torch.equal(ours, originals) == (file.name != "turned.jpg")


def test_whole_pictures_pass_and_are_counted_once(files: list[Path]) -> None:
    whole = [file for file in files if file.name != "turned.jpg"]
    assert check_pictures(whole + whole, workers=2, progress=False) == len(whole)


def test_one_warning_names_all_pictures_whose_reading_differs(files: list[Path], tmp_path: Path) -> None:
    for i in range(21):
        PILImage.fromarray(np.full((4, 4), 257 * i, np.uint16)).save(tmp_path / f"deep{i}.png")
    deep = sorted(tmp_path.glob("deep*"))
    with pytest.warns(UserWarning) as caught:
        assert check_pictures([*files, *deep, *files], progress=False) == len(files) + 21
    (warning,) = caught
    message = str(warning.message)
    assert message.startswith("22 pictures are read otherwise than by the original package")
    assert "turned.jpg', " in message and "deep0.png'" in message and ", and 2 more; reading 'original'" in message
    assert "grey.png" not in message
    with pytest.warns(UserWarning, match=r"^1 picture is read as the original package does, not turned .*turned.jpg'"):
        check_pictures(files, progress=False, reading="original")


@pytest.mark.parametrize("name", ["large.png", "wide.jpg", "small.bmp"])
def test_a_picture_cut_short_is_found_before_the_run(files: list[Path], name: str) -> None:
    broken = next(file for file in files if file.name == name)
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size * 2 // 3])
    with pytest.raises(ValueError, match=rf"1 of {len(files)} pictures cannot be read: '.*{name}' \("):
        check_pictures(files, progress=False)


def test_broken_pictures_are_counted_and_the_first_are_named(files: list[Path], tmp_path: Path) -> None:
    for i in range(7):
        (tmp_path / f"broken{i}.png").write_bytes(b"x")
    broken = [*(tmp_path / f"broken{i}.png" for i in range(7)), tmp_path / "none.png"]
    with pytest.raises(ValueError) as caught:
        check_pictures([*files, *broken], workers=1, progress=False)
    message = str(caught.value)
    assert message.startswith(f"8 of {len(files) + 8} pictures cannot be read: '{broken[0]}' (not a picture), ")
    assert "broken4.png' (not a picture), and 3 more; get them again" in message and "broken5" not in message
    with pytest.raises(ValueError, match=r"none.png' \(missing\)"):
        check_pictures(broken[-1:], progress=False)


@pytest.mark.filterwarnings("ignore:1 picture is read otherwise")
def test_the_progress_bar_goes_to_stderr(files: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    check_pictures(files)
    out, err = capsys.readouterr()
    assert out == "" and f"{len(files)}/{len(files)}" in err

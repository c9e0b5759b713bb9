import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image as PILImage
from torch._subclasses.fake_tensor import FakeTensorMode

from dreamsim_guidance.preprocess import (
    _bicubic_table,
    bicubic_bands,
    check_candidate,
    check_images,
    check_range,
    load_image,
    resize,
    save_image,
    to_image,
)

PHOTOGRAPHS = ["astronaut", "coffee", "chelsea", "rocket"]


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize("size", [(224, 224), (64, 64), (518, 300)])
@pytest.mark.parametrize("upright", [False, True])
def test_resize_agrees_with_pil_to_one_grey_level(name: str, size: tuple[int, int], upright: bool) -> None:
    pixels = getattr(skimage.data, name)()
    if upright:  # PIL then does its two passes in the other order
        pixels = np.ascontiguousarray(np.rot90(pixels))
    pil = to_image(PILImage.fromarray(pixels).resize(size[::-1], PILImage.Resampling.BICUBIC))
    difference = (resize(to_image(pixels), size) - pil).abs() * 255
    # PIL rounds to 8 bits after each of its two passes, which costs half a level each; the second filters the first's error
    assert difference.max() < 1.15
    assert difference.mean() < 0.31


def test_resize_has_a_gradient_after_a_resize_in_inference_mode() -> None:
    with torch.inference_mode():
        resize(torch.rand(1, 3, 71, 53), (32, 32))
    image = torch.rand(1, 3, 71, 53, requires_grad=True)
    resize(image, (32, 32)).sum().backward()
    assert image.grad is not None and image.grad.isfinite().all()


def test_fake_tensors_pass_the_range_checks_and_leave_no_cached_weights() -> None:
    with FakeTensorMode():
        images = torch.rand(1, 3, 73, 57) + 5
        check_range(images)
        check_candidate(images, overshoot=True)
        assert resize(images, (32, 32)).shape == (1, 3, 32, 32)
    assert resize(torch.ones(1, 3, 73, 57), (32, 32)).mean() == pytest.approx(1)


def test_resize_of_the_right_size_returns_the_image() -> None:
    image = torch.rand(1, 3, 224, 224)
    assert resize(image, (224, 224)) is image


@pytest.mark.parametrize("size", [(5, 9), (12, 3)])
def test_resize_has_the_exact_gradient(size: tuple[int, int]) -> None:
    image = torch.rand(1, 3, 7, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: resize(x, size), image)
    assert torch.autograd.gradgradcheck(lambda x: resize(x, size), image)


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("shape", [(300, 200), (40, 50)])
def test_the_gradient_does_not_vanish_at_black_and_white_pixels(value: float, shape: tuple[int, int]) -> None:
    image = torch.full((1, 3, *shape), value, requires_grad=True)
    resize(image, (64, 64)).sum().backward()
    assert image.grad is not None
    assert (image.grad > 0).all()


def test_the_gradient_does_not_vanish_outside_the_range() -> None:
    image = torch.full((1, 3, 40, 40), 1.3, requires_grad=True)
    resize(image, (32, 32)).sum().backward()
    assert image.grad is not None
    assert (image.grad > 0).all()


def test_resize_stays_in_float32_under_autocast() -> None:
    image = torch.rand(1, 3, 50, 40)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = resize(image, (32, 32))
    assert torch.equal(inside, resize(image, (32, 32)))


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (np.zeros((1, 3, 8, 8)), TypeError, "must be a torch tensor"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), TypeError, r"use x.float\(\) / 255"),
        (torch.zeros(3, 8, 8), ValueError, r"use x.unsqueeze\(0\)"),
        (torch.zeros(1, 1, 8, 8), ValueError, r"use x.expand\(-1, 3, -1, -1\) for grey"),
        (torch.zeros(1, 4, 8, 8), ValueError, "alpha"),
        (torch.zeros(1, 8, 8, 3), ValueError, r"x.permute\(0, 3, 1, 2\)"),
        (torch.zeros(0, 3, 8, 8), ValueError, "at least one image"),
        (torch.zeros(1, 3, 0, 8), ValueError, "at least one pixel"),
    ],
)
def test_bad_shapes_are_refused(images: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_images(images)


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (-1.0, 1.0, r"images must lie in \[0, 1\], got \[-1.00, 1.00\]; use \(x \+ 1\) / 2 for images in \[-1, 1\]."),
        (0.0, 255.0, "use x / 255"),
        (-0.1, 1.1, r"use x.clamp\(0, 1\)"),
        (-2.1, 2.6, "undo the mean and standard deviation"),
    ],
)
def test_the_error_for_a_wrong_range_says_how_to_convert_it(low: float, high: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_range(torch.linspace(low, high, 192).view(1, 3, 8, 8))


def test_nan_is_refused() -> None:
    image = torch.rand(1, 3, 8, 8)
    image[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="got NaN"):
        check_range(image)


def test_an_optimised_image_may_overshoot_but_not_have_another_scale() -> None:
    image = torch.rand(1, 3, 16, 16)
    check_candidate((image * 1.4 - 0.2).requires_grad_(), "x")
    with pytest.raises(ValueError, match=r"use \(x \+ 1\) / 2"):
        check_candidate((image * 2 - 1).requires_grad_(), "x")
    with pytest.raises(ValueError, match="use x / 255"):
        check_candidate((image * 255).requires_grad_(), "x")


def test_a_saved_image_is_read_back(tmp_path) -> None:
    image = torch.rand(1, 3, 9, 7)
    save_image(image, tmp_path / "deep" / "a.png")
    assert (load_image(tmp_path / "deep" / "a.png") - image).abs().max() <= 0.5 / 255 + 1e-6
    assert [f.name for f in (tmp_path / "deep").iterdir()] == ["a.png"]


def test_files_that_are_not_pictures_are_refused(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="image not found"):
        load_image(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(ValueError, match="cannot be read as an image"):
        load_image(tmp_path / "text.png")
    whole = tmp_path / "whole.png"
    save_image(torch.rand(1, 3, 64, 64), whole)
    (tmp_path / "torn.png").write_bytes(whole.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"torn\.png"):
        load_image(tmp_path / "torn.png")


def test_grey_and_transparent_files_become_rgb(tmp_path) -> None:
    for mode in ("L", "RGBA", "P", "1", "CMYK"):
        PILImage.new(mode, (5, 4)).save(tmp_path / "a.tif")
        assert load_image(tmp_path / "a.tif").shape == (1, 3, 4, 5)


def test_deep_pictures_keep_their_values(tmp_path) -> None:
    grey = np.arange(20, dtype=np.uint8).reshape(4, 5) * 12
    PILImage.fromarray(grey).save(tmp_path / "8.png")
    PILImage.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.png")
    PILImage.fromarray(grey.astype(np.float32) / 255).save(tmp_path / "float.tif")
    expected = load_image(tmp_path / "8.png")
    for name in ("16.png", "float.tif"):
        assert (load_image(tmp_path / name) - expected).abs().max() < 1e-6
    with pytest.raises(ValueError, match=r"the picture must lie in \[0, 1\], got \[200.00, 200.00\]; use x / 255"):
        to_image(np.full((4, 4, 3), 200.0))
    assert to_image(np.zeros((4, 5, 1), np.uint8)).shape == (1, 3, 4, 5)


def test_photographs_are_turned_upright(tmp_path) -> None:
    picture = PILImage.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3))
    exif = PILImage.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    picture.save(tmp_path / "phone.png", exif=exif)
    upright = to_image(picture.transpose(PILImage.Transpose.ROTATE_270))
    assert torch.equal(load_image(tmp_path / "phone.png"), upright)


@pytest.mark.parametrize("kind", ["u1", "<u2", ">u2", "<f2", ">f2", "<f4", ">f4", "<f8", ">f8", "?"])
def test_arrays_of_every_type_and_byte_order_are_the_same_picture(kind: str) -> None:
    levels = np.random.default_rng(0).integers(0, 2, (4, 5, 3))
    scale = {"u1": 255, "u2": 65535}.get(kind[-2:], 1)
    image = to_image((levels * scale).astype(kind))
    assert image.dtype == torch.float32
    assert torch.equal(image, torch.from_numpy(levels).permute(2, 0, 1)[None].float())
    halves = {"u1": 128, "u2": 32768}.get(kind[-2:], 0.5)
    if kind != "?":
        assert float(to_image(np.full((2, 2), halves).astype(kind)).mean()) == pytest.approx(0.5, abs=0.002)


@pytest.mark.parametrize("kind", ["i1", "<i2", "<i4", ">i8", "<u4", ">u4", "<u8", "<c8", "O", "U3", "M8[s]"])
def test_arrays_without_a_known_white_are_refused(kind: str) -> None:
    with pytest.raises(TypeError, match="must be uint8, uint16, bool or floating point in "):
        to_image(np.zeros((4, 4, 3), kind))


@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "got NaN"), (np.inf, "got inf"), (-np.inf, "got -inf"), (1e300, "got inf")]
)
def test_arrays_with_values_that_are_not_finite_are_refused(value: float, message: str) -> None:
    pixels = np.zeros((4, 4, 3))
    pixels[1, 2, 0] = value
    with pytest.raises(ValueError, match=message):
        to_image(pixels)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("picture", "error", "message"),
    [
        (np.zeros((1, 4, 4, 3)), ValueError, r"got \(1, 4, 4, 3\); convert one picture at a time, x\[0\]"),
        (np.zeros((1, 1, 3, 4, 4)), ValueError, r"got \(1, 1, 3, 4, 4\); convert one picture at a time"),
        (np.zeros((3, 4, 4 + 1)), ValueError, r"got \(3, 4, 5\); use x.transpose\(1, 2, 0\)"),
        (np.zeros((4, 4, 2)), ValueError, r"got \(4, 4, 2\)"),
        (np.zeros(4), ValueError, r"got \(4,\)"),
        (np.zeros((0, 4, 3)), ValueError, r"got \(0, 4, 3\)"),
        (torch.zeros(3, 4, 4), TypeError, r"must be a PIL image or a numpy array, got Tensor"),
        ([[0.5]], TypeError, "got list; use np.asarray"),
    ],
)
def test_inputs_that_are_not_pictures_are_refused_with_advice(picture, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        to_image(picture)


@pytest.mark.usefixtures("unchecked")
def test_stacked_results_of_preprocess_are_recognised() -> None:
    from dreamsim_guidance.losses import L1, TotalVariation

    stacked = torch.zeros(2, 1, 3, 8, 8)
    for refused in (check_images, lambda x: L1()(x, x), TotalVariation(), lambda x: L1(x)):
        with pytest.raises(ValueError, match=r"got \(2, 1, 3, 8, 8\); preprocess already adds the batch dimension"):
            refused(stacked)


@pytest.mark.parametrize("overshoot", [None, True, False])
@pytest.mark.parametrize(("value", "name"), [(torch.nan, "NaN"), (torch.inf, "inf"), (-torch.inf, "-inf")])
def test_one_value_that_is_not_finite_is_refused(value: float, name: str, overshoot: bool | None) -> None:
    image = torch.rand(1, 3, 16, 16)
    image[0, 1, 2, 3] = value
    with pytest.raises(ValueError, match=f"got {name}; find where it arises"):
        check_candidate(image.requires_grad_(), "x", overshoot)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [1.3, 1e4, 1e30, torch.inf, -0.3, -1e30, -torch.inf])
@pytest.mark.parametrize("size", [(20, 24), (60, 50)])
def test_values_outside_the_range_count_as_clamped_however_large(
    value: float, dtype: torch.dtype, size: tuple[int, int]
) -> None:
    image = torch.rand(2, 3, 40, 30, dtype=dtype)
    image[0, 1, 20, 10] = value
    expected = resize(image.clamp(0, 1), size)
    leaf = image.requires_grad_()
    result = resize(leaf, size)
    assert torch.equal(result, expected)
    (gradient,) = torch.autograd.grad(result.square().sum(), leaf)
    clamped = image.detach().clamp(0, 1).requires_grad_()
    (plain,) = torch.autograd.grad(resize(clamped, size).square().sum(), clamped)
    if not np.isfinite(value):
        assert float(gradient[0, 1, 20, 10]) == 0
        plain[0, 1, 20, 10] = 0
    torch.testing.assert_close(gradient, plain)


def test_nan_stays_visible_in_its_image_and_out_of_the_others() -> None:
    image = torch.rand(2, 3, 40, 30)
    image[0, 1, 20, 10] = torch.nan
    leaf = image.requires_grad_()
    result = resize(leaf, (20, 24))
    assert result[0].isnan().any() and result[1].isfinite().all()
    (gradient,) = torch.autograd.grad(result.square().sum(), leaf)
    assert gradient[1].isfinite().all() and gradient[1].abs().sum() > 0


@pytest.mark.parametrize(
    ("length", "size"), [(1000, 224), (37, 224), (224, 224), (1, 64), (5, 3), (9000, 260), (65, 64)]
)
def test_bands_hold_every_weight_of_the_table(length: int, size: int) -> None:
    table = torch.zeros(length, size)
    start = 0
    for first, last, weights in bicubic_bands(length, size):
        table[first:last, start : start + weights.shape[1]] = weights
        start += weights.shape[1]
    assert start == size
    torch.testing.assert_close(table, _bicubic_table(length, size).float().T, atol=1e-7, rtol=0)

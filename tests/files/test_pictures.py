"""Picture files of every kind are read alike by all functions; a warning names those that the original reads otherwise."""

from __future__ import annotations

import contextlib
import json
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

import dreamsim_guidance
from dreamsim_guidance import DreamSim, load_image, save_image
from dreamsim_guidance.cli import main
from dreamsim_guidance.cli.compare import distances
from dreamsim_guidance.data.pictures import decode
from dreamsim_guidance.evaluation.metrics.named_metrics import file_metric
from dreamsim_guidance.files.pictures import read_pixels, readings_differ

PACKAGE = Path(dreamsim_guidance.__file__).parent
RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (24, 32), dtype=np.uint8)
DEEP = GREY.astype(np.uint16) * 257


def test_picture_files_are_opened_in_one_place() -> None:
    opening = re.compile(r"Image\.open\(|imread|decode_image|read_image\(|ImageOps\.exif_transpose")
    roots = (PACKAGE, *(PACKAGE.parent / name for name in ("losses", "recipes", "training")))
    files = {file.resolve() for root in roots for file in root.rglob("*.py")}
    assert len(files) > 200
    opened = {
        f"{file.parent.name}/{file.name}": len(opening.findall(file.read_text(encoding="utf-8"))) for file in files
    }
    assert {name: count for name, count in opened.items() if count} == {"files/pictures.py": 1}


def turned(orientation: int) -> PILImage.Exif:
    exif = PILImage.Exif()
    exif[0x0112] = orientation
    return exif


def palette(transparency: object) -> Callable[[Path], None]:
    return lambda file: PILImage.fromarray(COLOUR).quantize(16).save(file, transparency=transparency)


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The stored pixels turned as the EXIF standard defines the tag: it says where row 0 and column 0 belong."""
    flipped = pixels[:, ::-1] if orientation in (2, 4, 5, 7) else pixels
    return np.ascontiguousarray(np.rot90(flipped, {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}[orientation]))


WRITERS: dict[str, tuple[Callable[[Path], Any], np.ndarray]] = {
    "grey.png": (lambda file: PILImage.fromarray(GREY).save(file), GREY),
    "colour.bmp": (lambda file: PILImage.fromarray(COLOUR).save(file), COLOUR),
    "colour.ppm": (lambda file: PILImage.fromarray(COLOUR).save(file), COLOUR),
    "colour.webp": (lambda file: PILImage.fromarray(COLOUR).save(file, lossless=True), COLOUR),
    "alpha.png": (lambda file: PILImage.fromarray(np.dstack([COLOUR, GREY])).save(file), COLOUR),
    "grey_alpha.png": (lambda file: PILImage.merge("LA", [PILImage.fromarray(GREY)] * 2).save(file), GREY),
    "black_and_white.png": (lambda file: PILImage.fromarray(GREY > 99).save(file), (GREY > 99) * np.uint8(255)),
    "palette.png": (palette(None), np.array(PILImage.fromarray(COLOUR).quantize(16).convert("RGB"))),
    "palette_index.png": (palette(3), np.array(PILImage.fromarray(COLOUR).quantize(16).convert("RGB"))),
    "palette_bytes.png": (palette(bytes(range(16))), np.array(PILImage.fromarray(COLOUR).quantize(16).convert("RGB"))),
    "cmyk.tif": (
        lambda file: PILImage.fromarray(COLOUR).convert("CMYK").save(file),
        np.array(PILImage.fromarray(COLOUR).convert("CMYK").convert("RGB")),
    ),
    "16.png": (lambda file: PILImage.fromarray(DEEP).save(file), GREY),
    "16_little.tif": (lambda file: PILImage.fromarray(DEEP).save(file), GREY),
    "16_big.tif": (lambda file: PILImage.fromarray(DEEP.astype(">u2")).save(file), GREY),
    "16_packed.tif": (lambda file: PILImage.fromarray(DEEP).save(file, compression="tiff_lzw"), GREY),
    "16_colour.png": (lambda file: file.write_bytes(png_of_16_bits(COLOUR)), COLOUR),
    "16.pgm": (lambda file: file.write_bytes(b"P5 32 24 65535\n" + DEEP.astype(">u2").tobytes()), GREY),
    "32_holding_16.tif": (lambda file: PILImage.fromarray(DEEP.astype(np.int32)).save(file), GREY),
    "float.tif": (lambda file: PILImage.fromarray(GREY.astype(np.float32) / 255).save(file), GREY),
    "animated.gif": (
        lambda file: PILImage.fromarray(GREY).save(file, save_all=True, append_images=[PILImage.fromarray(255 - GREY)]),
        GREY,
    ),
    "animated.webp": (
        lambda file: PILImage.fromarray(COLOUR).save(
            file, lossless=True, save_all=True, append_images=[PILImage.fromarray(255 - COLOUR)]
        ),
        COLOUR,
    ),
    **{
        f"turned_{tag}.png": (
            lambda file, tag=tag: PILImage.fromarray(COLOUR).save(file, exif=turned(tag)),
            upright(COLOUR, tag),
        )
        for tag in range(1, 9)
    },
    **{
        f"turned_16_{tag}.{ending}": (
            lambda file, tag=tag, kind=kind: PILImage.fromarray(DEEP.astype(kind)).save(file, exif=turned(tag)),
            upright(GREY, tag),
        )
        for tag in (2, 6, 7)
        for ending, kind in (("png", "<u2"), ("tif", ">u2"), ("tiff", "<u2"))
    },
}


def png_of_16_bits(pixels: np.ndarray) -> bytes:
    """A colour PNG with 16 bits per channel, which PIL reads but does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = b"".join(b"\0" + row.tobytes() for row in (pixels.astype(np.uint16) * 257).astype(">u2"))
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_reads_back_as_it_was_written(name: str, tmp_path: Path) -> None:
    write, pixels = WRITERS[name]
    write(tmp_path / name)
    expected = torch.from_numpy(pixels if pixels.ndim == 3 else np.stack([pixels] * 3, -1)).permute(2, 0, 1)
    torch.testing.assert_close(load_image(tmp_path / name)[0], expected / 255, rtol=0, atol=1e-6)
    assert torch.equal(decode(tmp_path / name), expected)


@pytest.mark.parametrize("name", WRITERS)
def test_the_original_reading_is_pil_s_conversion_to_rgb(name: str, tmp_path: Path) -> None:
    WRITERS[name][0](tmp_path / name)
    with (tmp_path / name).open("rb") as stream, PILImage.open(stream) as picture:
        picture = picture.convert("RGBA") if picture.mode == "P" else picture  # otherwise PIL warns about transparency
        expected = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
    original = decode(tmp_path / name, reading="original")
    assert torch.equal(original, expected)
    ours = decode(tmp_path / name)
    assert (ours.shape == original.shape and torch.equal(ours, original)) or readings_differ(tmp_path / name)


def test_grey_pictures_keep_16_bits(tmp_path: Path) -> None:
    ramp = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    for name, kind in (("a.png", "<u2"), ("b.tif", "<u2"), ("c.tif", ">u2")):
        PILImage.fromarray(ramp.astype(kind)).save(tmp_path / name)
        assert np.array_equal(read_pixels(tmp_path / name), ramp)
        torch.testing.assert_close(load_image(tmp_path / name)[0, 0], torch.from_numpy(ramp / 65535).float())


@pytest.mark.parametrize("name", ["phone.jpg", "deep.png", "big.tif", "plain.png"])
def test_every_way_to_compare_files_gives_the_same_distance(metric: DreamSim, tmp_path: Path, name: str) -> None:
    """Compared on smooth pictures, since rounding to 8 bits changes little there."""
    wave = np.add.outer(np.sin(np.arange(48) / 9), np.cos(np.arange(64) / 7)) / 4 + 0.5
    deep = (wave * 65535).astype(np.uint16)
    shallow = PILImage.fromarray((wave * 255).round().astype(np.uint8))
    pictures: dict[str, tuple[PILImage.Image, dict[str, Any]]] = {
        "phone.jpg": (shallow, {"exif": turned(6), "quality": 95}),
        "deep.png": (PILImage.fromarray(deep), {}),
        "big.tif": (PILImage.fromarray(deep.astype(">u2")), {}),
        "plain.png": (shallow, {}),
    }
    file, other, model = tmp_path / name, tmp_path / "other.png", tmp_path / "tiny.safetensors"
    pictures[name][0].save(file, **pictures[name][1])
    save_image(torch.rand(1, 3, 8, 8).repeat_interleave(6, 2).repeat_interleave(6, 3), other)
    metric.save(model, source="random weights of a test", licence="none")
    expected = float(metric(load_image(file), load_image(other)))
    assert distances([(file, other)], str(model)) == [pytest.approx(expected, abs=1e-5)]
    read = file_metric(model, cache=False)
    warning = pytest.warns(UserWarning, match="1 picture is read otherwise")
    with warning if name != "plain.png" else contextlib.nullcontext():
        distance = float(read.distances([(file, other)], progress=False)[0])
    assert distance == pytest.approx(expected, abs=2e-3)


def test_cached_embeddings_are_kept_apart_by_reading(metric: DreamSim, tmp_path: Path) -> None:
    file, other = tmp_path / "turned.png", tmp_path / "other.png"
    PILImage.fromarray(COLOUR).save(file, exif=turned(6))
    save_image(torch.rand(1, 3, 30, 30), other)
    values = {}
    for reading in ("upright", "original", "upright"):
        for cache in (tmp_path / "cache", False):
            with pytest.warns(UserWarning, match="1 picture is read .*turned.png"):
                (distance,) = file_metric(metric, cache=cache, reading=reading).distances(
                    [(file, other)], progress=False
                )  # type: ignore[arg-type]
            assert values.setdefault(reading, distance) == pytest.approx(distance, abs=1e-6)
    assert abs(values["upright"] - values["original"]) > 1e-4


def test_evaluate_and_data_check_name_the_pictures_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DREAMSIM_GUIDANCE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    for i in range(4):
        PILImage.fromarray(RNG.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(
            tmp_path / "set" / f"{i}.png", exif=turned(6 if i < 2 else 1)
        )
    rows = [f"{i},{1 - i % 2},{i % 2},8,{i}.png,{(i + 1) % 4}.png,{(i + 2) % 4}.png,val,True" for i in range(4)]
    head = "id,left_vote,right_vote,votes,ref_path,left_path,right_path,split,is_imagenet"
    (tmp_path / "set" / "data.csv").write_text("\n".join([head, *rows]) + "\n")
    agreements = []
    for words in ((), ("--reading", "original"), ("--no-cache",), ("--no-cache", "--reading", "original")):
        with pytest.warns(UserWarning, match=r"^2 pictures are read .*'set/0.png', 'set/1.png'") as caught:
            assert main(["evaluate", "set", "--metric", "psnr", "--json", "--resamples", "100", *words]) == 0
        assert len(caught) == 1
        agreements.append(json.loads(capsys.readouterr().out)["agreement"])
    assert agreements[0] == agreements[2] and agreements[1] == agreements[3]
    with pytest.warns(UserWarning, match=r"^2 pictures are read otherwise"):
        assert main(["data", "check", "set"]) == 0

"""From bytes to vectors: an embedding is that of the metric for the picture that `load_image` reads."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from collections_of_pictures import content, picture_bytes
from PIL import Image as PILImage

from dreamsim_guidance import DreamSim, load_image
from dreamsim_guidance.files.pictures import PictureError, read_rgb
from dreamsim_guidance.metric.ensemble import Ensemble
from dreamsim_guidance.preprocess import resize, to_image
from dreamsim_guidance.retrieval import embed
from dreamsim_guidance.retrieval.embedder import Embedder, squashed
from dreamsim_guidance.retrieval.sources.piece import Picture


def saved(picture: PILImage.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def pixels(height: int = 41, width: int = 57, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels)).astype(np.uint8)


def turned(orientation: int) -> bytes:
    exif = PILImage.Exif()
    exif[0x0112] = orientation
    return saved(PILImage.fromarray(pixels()), "JPEG", exif=exif)


PICTURES = {
    "jpeg": lambda: saved(PILImage.fromarray(pixels()), "JPEG"),
    "progressive": lambda: saved(PILImage.fromarray(pixels()), "JPEG", progressive=True),
    "turned": lambda: turned(6),
    "mirrored": lambda: turned(2),
    "cmyk": lambda: saved(PILImage.fromarray(pixels(channels=4), "CMYK"), "JPEG"),
    "grey": lambda: saved(PILImage.fromarray(pixels()[..., 0]), "JPEG"),
    "palette": lambda: saved(PILImage.fromarray(pixels()).quantize(16), "PNG"),
    "transparent palette": lambda: saved(PILImage.fromarray(pixels()).quantize(16), "PNG", transparency=3),
    "alpha": lambda: saved(PILImage.fromarray(pixels(channels=4), "RGBA"), "PNG"),
    "one bit": lambda: saved(PILImage.fromarray(pixels()[..., 0]).convert("1"), "PNG"),
    "16 bits": lambda: saved(PILImage.fromarray(pixels().astype(np.uint16)[..., 0] * 257 + 3), "PNG"),
    "floating point": lambda: saved(PILImage.fromarray(pixels()[..., 0].astype(np.float32) / 255), "TIFF"),
    "one pixel": lambda: saved(PILImage.fromarray(pixels(1, 1)), "PNG"),
    "a line": lambda: saved(PILImage.fromarray(pixels(1, 300)), "PNG"),
    "a column": lambda: saved(PILImage.fromarray(pixels(700, 3)), "PNG"),
    "the square": lambda: saved(PILImage.fromarray(pixels(32, 32)), "PNG"),
    "black and white": lambda: saved(PILImage.fromarray((pixels(90, 120) > 127).astype(np.uint8) * 255), "PNG"),
    "animation": lambda: saved(
        PILImage.fromarray(pixels()), "GIF", save_all=True, append_images=[PILImage.fromarray(pixels(seed=1))]
    ),
}


@pytest.mark.parametrize("name", PICTURES)
def test_an_embedding_is_that_of_the_picture_that_load_image_reads(name: str, metric: DreamSim, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(PICTURES[name]())
    embedder = Embedder(metric)
    prepared = embedder.prepare((tmp_path / "file").read_bytes())
    image = load_image(tmp_path / "file")
    assert (prepared.height, prepared.width) == tuple(image.shape[-2:])
    torch.testing.assert_close(prepared.images[0], resize(image, (32, 32))[0], atol=2e-5, rtol=0)
    vector = embedder.embed([prepared])[0]
    expected = metric.directions(image)[0].detach().numpy()
    np.testing.assert_allclose(vector.astype(np.float32), expected, atol=5e-4 * np.abs(expected).max() + 2e-5)


@pytest.mark.parametrize("name", ["jpeg", "turned", "16 bits", "alpha"])
def test_the_original_reading_is_that_of_read_rgb(name: str, metric: DreamSim, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(PICTURES[name]())
    prepared = Embedder(metric, "original").prepare((tmp_path / "file").read_bytes())
    image = to_image(read_rgb(tmp_path / "file", "original"))
    assert (prepared.height, prepared.width) == tuple(image.shape[-2:])
    torch.testing.assert_close(prepared.images[0], resize(image, (32, 32))[0], atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    "shape", [(500, 333), (333, 500), (900, 40), (40, 900), (20, 17), (64, 900), (900, 64), (64, 64)]
)
def test_squashing_in_the_loader_is_that_of_the_metric(shape: tuple[int, int]) -> None:
    picture = pixels(*shape)
    for side, square in zip((64, 33), squashed(picture, (64, 33)), strict=True):
        torch.testing.assert_close(square, resize(to_image(picture), (side, side))[0], atol=2e-5, rtol=0)


def test_branches_of_several_sizes_see_the_whole_picture_each(tiny_ensemble: Ensemble, tmp_path: Path) -> None:
    from dataclasses import replace

    from conftest import lively, tiny_branches

    branches = [replace(config, image_size=size) for config, size in zip(tiny_branches(), (32, 40, 48), strict=True)]
    metric = DreamSim(lively(Ensemble(branches)))
    data = picture_bytes(3)
    (tmp_path / "file.png").write_bytes(data)
    embedder = Embedder(metric)
    prepared = embedder.prepare(data)
    assert [image.shape[-1] for image in prepared.images] == [32, 40, 48]
    expected = metric.directions(load_image(tmp_path / "file.png"))[0].detach().numpy()
    np.testing.assert_allclose(embedder.embed([prepared])[0].astype(np.float32), expected, atol=2e-4)


def test_a_metric_that_does_not_resize_embeds_pictures_of_all_sizes(tiny_ensemble: Ensemble, tmp_path: Path) -> None:
    metric = DreamSim(tiny_ensemble, resize=False)
    embedder = Embedder(metric, batch=2)
    sizes = [(32, 40), (48, 32), (32, 40), (32, 40), (48, 32)]
    files = [tmp_path / f"{i}.png" for i in range(len(sizes))]
    for i, (file, size) in enumerate(zip(files, sizes, strict=True)):
        PILImage.fromarray(pixels(*size, seed=i)).save(file)
    vectors = embedder.embed([embedder.prepare(file.read_bytes()) for file in files])
    for file, vector in zip(files, vectors, strict=True):
        expected = metric.directions(load_image(file))[0].detach().numpy()
        np.testing.assert_allclose(vector.astype(np.float32), expected, atol=2e-4)


def bomb() -> bytes:
    """A PNG of a few bytes that claims 50,000 x 50,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


BROKEN = {
    "a bomb": (bomb, "million pixels, more than the limit"),
    "no bytes": (lambda: b"", "not a picture"),
    "text": (lambda: b"hello, this is text", "not a picture"),
    "a picture cut short": (lambda: picture_bytes(1)[:-60], "cannot be read"),
    "a jpeg cut short": (lambda: saved(PILImage.fromarray(pixels(200, 200)), "JPEG")[:2000], "truncated"),
    "values beyond one": (
        lambda: saved(PILImage.fromarray(pixels()[..., 0].astype(np.float32)), "TIFF"),
        r"must lie in \[0, 1\]",
    ),
    "random bytes": (lambda: np.random.default_rng(0).bytes(5000), "not a picture"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_pictures_are_errors_with_a_reason(name: str, metric: DreamSim) -> None:
    make, reason = BROKEN[name]
    with pytest.raises(PictureError, match=reason) as caught:
        Embedder(metric).prepare(make())
    assert caught.value.reason and "\n" not in caught.value.reason


def test_decoders_that_fail_in_other_ways_are_errors_of_the_picture(
    metric: DreamSim, monkeypatch: pytest.MonkeyPatch
) -> None:
    for fault in (
        MemoryError("too much"),
        RecursionError("too deep"),
        AttributeError("no such"),
        ZeroDivisionError("zero"),
    ):

        def fail(*_: object, fault: Exception = fault) -> None:
            raise fault

        monkeypatch.setattr("dreamsim_guidance.retrieval.embedder.decode_pixels", fail)
        with pytest.raises(PictureError, match=type(fault).__name__):
            Embedder(metric).prepare(b"")


def test_one_batch_of_pictures_becomes_rows_and_broken_ones(metric: DreamSim, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture_bytes(1))
    pictures = [
        Picture("a", "s", file=str(tmp_path / "a.png")),
        Picture("b", "t", data=picture_bytes(1)),
        Picture("c", data=picture_bytes(2)),
        Picture("d", "u", data=b"text"),
        Picture("e", fault="a reason"),
        Picture("f", file=str(tmp_path / "missing.png")),
    ]
    rows, broken = Embedder(metric).rows(pictures)
    assert [(row.path, row.stamp) for row in rows] == [("a", "s"), ("b", "t"), ("c", "")]
    assert rows[0].digest == rows[1].digest and np.array_equal(rows[0].vector, rows[1].vector)
    assert rows[0].vector.dtype == np.float16 and rows[0].bytes == len(picture_bytes(1))
    assert {row.path: (row.reason, row.stamp) for row in broken} == {
        "d": ("not a picture", "u"),
        "e": ("a reason", ""),
        "f": ("No such file or directory", ""),
    }
    assert Embedder(metric).rows([]) == ([], [])


def test_a_job_lists_broken_pictures_and_embeds_the_others(metric: DreamSim, tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    for name, make in PICTURES.items():
        (tmp_path / f"good {name}.png").write_bytes(make())
    for name, (broken, _) in BROKEN.items():
        (tmp_path / f"{name}.png").write_bytes(broken())
        (tmp_path / f"{name} again.png").write_bytes(broken())
    summary = embed(tmp_path, tmp_path / "index", metric, progress=False)
    assert summary.embedded == len(PICTURES) and len(summary.broken) == 2 * len(BROKEN)
    assert content(tmp_path / "index").keys() == {f"good {name}.png" for name in PICTURES}
    again = embed(tmp_path, tmp_path / "index", metric, progress=False)
    assert again.embedded == 0 and again.broken == summary.broken

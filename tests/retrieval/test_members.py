from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from dreamsim_guidance import DreamSim, save_image
from dreamsim_guidance.retrieval import Index, embed
from dreamsim_guidance.retrieval.embedder import digest_of
from dreamsim_guidance.retrieval.members import files_of, readable_contents
from dreamsim_guidance.retrieval.queries import path_in_index
from dreamsim_guidance.retrieval.search import search
from dreamsim_guidance.retrieval.sources.stored import is_gone
from dreamsim_guidance.retrieval.sources.stored import picture_bytes as stored_bytes
from dreamsim_guidance.retrieval.thumbnails import placeholder, thumbnail, thumbnails


def png(seed: int, size: tuple[int, int] = (20, 12)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PILImage.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_shard(file: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(file, "w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def write_parquet(file: Path, contents: list[bytes | None]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": pa.array(contents, pa.binary())}), file)


@pytest.fixture
def index(tmp_path: Path, metric: DreamSim) -> Index:
    """An index of a file, a shard and a Parquet table."""
    metric.save(tmp_path / "tiny.safetensors", source="random weights of a test", licence="none")
    (tmp_path / "a.png").write_bytes(png(1))
    write_shard(tmp_path / "s.tar", {"x/b.png": png(2), "x/c.png": png(3), "x/notes.txt": b"text"})
    write_parquet(tmp_path / "t.parquet", [png(4), None, png(5)])
    sources = [tmp_path / name for name in ("a.png", "s.tar", "t.parquet")]
    embed(sources, tmp_path / "index", str(tmp_path / "tiny.safetensors"), progress=False)
    return Index.open(tmp_path / "index")


def test_every_path_of_an_index_leads_to_its_bytes(index: Index) -> None:
    contents = readable_contents(index.paths)
    assert {path: contents[path] for path in index.paths} == contents
    assert sorted(contents.values()) == sorted(map(png, (1, 2, 3, 4, 5)))


def test_pictures_in_shards_and_tables_become_files(index: Index, tmp_path: Path) -> None:
    assert [file is None for file in files_of(index.paths, index.digests, None)] == ["::" in p for p in index.paths]
    files = files_of(index.paths, index.digests, tmp_path / "files")
    contents = readable_contents(index.paths)
    assert [file.read_bytes() for file in files if file is not None] == [contents[path] for path in index.paths]
    assert {file.suffix for file in files if file is not None} == {".png"}


def test_a_relative_name_of_a_member_is_a_query_whatever_the_member_is_called(
    tmp_path: Path, metric: DreamSim, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shard(tmp_path / "s.tar", {"../../up.png": png(1), "a.png": png(2)})
    embed(tmp_path / "s.tar", tmp_path / "index", metric, progress=False)
    index = Index.open(tmp_path / "index", metric)
    monkeypatch.chdir(tmp_path)
    for name in ("../../up.png", "a.png"):
        assert path_in_index(index, f"s.tar::{name}") == f"{tmp_path}/s.tar::{name}"
        assert index.search(f"s.tar::{name}", k=1)[0].path == f"{tmp_path}/s.tar::{name}"
    assert path_in_index(index, "s.tar::b.png") is None


def test_a_url_is_a_query_and_what_an_index_has_of_it_is_not_read_again(tmp_path: Path, metric: DreamSim) -> None:
    import fsspec

    files = fsspec.filesystem("memory")
    for i in (1, 2, 3):
        files.pipe(f"/url_queries/{i}.png", png(i))
    embed("memory://url_queries/{1,2}.png", tmp_path / "index", metric, progress=False)
    index = Index.open(tmp_path / "index", metric)
    new = index.search("memory://url_queries/3.png", k=1)[0]
    (tmp_path / "3.png").write_bytes(png(3))
    assert new.distance == index.search(tmp_path / "3.png", k=1)[0].distance > 0
    assert readable_contents(index.paths) == {f"memory://url_queries/{i}.png": png(i) for i in (1, 2)}
    files.rm("/url_queries", recursive=True)
    assert index.search("memory://url_queries/2.png", k=1)[0].path == "memory://url_queries/2.png"
    assert readable_contents(index.paths) == {}
    with pytest.raises(FileNotFoundError, match=r"there is no file 'memory://url_queries/3\.png'"):
        index.search("memory://url_queries/3.png")


def test_a_picture_in_a_shard_can_be_a_query(index: Index, tmp_path: Path) -> None:
    path = f"{tmp_path}/s.tar::x/c.png"
    assert search(index, path, k=1)[0].path == path
    mask = torch.zeros(1, 1, 12, 20)
    mask[..., :10] = 1
    assert search(index, path, k=1, mask=mask)[0].distance > 0  # needs its pixels


def test_what_has_moved_is_left_out(index: Index, tmp_path: Path) -> None:
    paths = index.paths
    (tmp_path / "a.png").unlink()
    (tmp_path / "s.tar").rename(tmp_path / "moved.tar")
    (tmp_path / "t.parquet").write_bytes(b"no longer a table")
    assert readable_contents([*paths, "http://localhost:1/s.tar::a.png", "gone::", "::", ""]) == {}
    assert set(thumbnails(paths).values()) == {None}


def test_a_truncated_shard_gives_what_comes_before(index: Index, tmp_path: Path) -> None:
    shard = tmp_path / "s.tar"
    shard.write_bytes(shard.read_bytes()[:1600])
    assert list(readable_contents(index.paths[1:3])) == [f"{tmp_path}/s.tar::x/b.png"]


def test_pipes_do_not_block(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.png")
    assert readable_contents([str(tmp_path / "pipe.png")]) == {}


@pytest.mark.parametrize("size", [(300, 20), (20, 300), (40, 30), (1, 900)])
def test_thumbnails_fit_and_are_not_enlarged(size: tuple[int, int]) -> None:
    picture = thumbnail(png(0, size), 64)
    assert picture is not None
    assert max(picture.size) == min(64, max(size)) and min(picture.size) >= 1


def test_deep_pictures_have_thumbnails(tmp_path: Path) -> None:
    pixels = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    PILImage.fromarray(pixels).save(tmp_path / "deep.png")
    picture = thumbnail((tmp_path / "deep.png").read_bytes(), 32)
    assert picture is not None and picture.mode == "RGB"
    low, high = picture.getextrema()[0]
    assert low < 30 and high > 225
    assert thumbnail(b"no picture") is None and placeholder(50).size == (50, 50)


def test_plain_names_with_two_colons_are_files(tmp_path: Path) -> None:
    file = tmp_path / "a::b.png"
    save_image(torch.rand(1, 3, 8, 8), file)
    assert readable_contents([str(file)]) == {str(file): file.read_bytes()}


@pytest.mark.parametrize("kind", ["parquet", "lance"])
def test_columns_of_one_table_are_embedded_side_by_side(tmp_path: Path, metric: DreamSim, kind: str) -> None:
    import lancedb
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"image": [png(1), png(2)], "thumb #1/é": [png(3), png(4)], "name": ["a", "b"]}
    table = tmp_path / f"t.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table(columns), table)
    else:
        lancedb.connect(tmp_path).create_table("t", pa.table(columns))
    for column in ("thumb #1/é", None, "image", "thumb #1/é"):
        embed(table, tmp_path / "index", metric, column=column, progress=False)
    index = Index.open(tmp_path / "index", metric)
    contents = readable_contents(index.paths)
    assert {digest_of(contents[path]) for path in index.paths} == set(index.digests)
    assert sorted(contents.values()) == sorted(map(png, (1, 2, 3, 4)))
    assert [stored_bytes(path) for path in index.paths] == [contents[path] for path in index.paths]
    assert not any(is_gone(path) for path in index.paths)
    table.rename(tmp_path / "moved")
    assert all(is_gone(path) for path in index.paths)

"""Shards and tables as sources: their pictures, their names, and damage in them."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest
from collections_of_pictures import age, faults, names, picture_bytes, pictures, write_shard

from dreamsim_guidance.retrieval.sources.listing import list_pieces
from dreamsim_guidance.retrieval.sources.piece import Picture, PieceError
from dreamsim_guidance.retrieval.sources.stored import container_of, is_gone
from dreamsim_guidance.retrieval.sources.stored import picture_bytes as stored_bytes

pa = pytest.importorskip("pyarrow")
pytest.importorskip("lancedb")


# Shards.


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def test_a_shard_yields_its_pictures_whatever_their_names(tmp_path: Path) -> None:
    members: dict[str, bytes | tarfile.TarInfo] = {
        "a.jpg": picture_bytes(1, "JPEG"),
        "a.json": b"{}",
        "../../x.png": picture_bytes(2),
        "/etc/y.png": picture_bytes(3),
        "link.png": special("link.png", tarfile.SYMTYPE, "/etc/passwd"),
        "hard.png": special("hard.png", tarfile.LNKTYPE, "a.jpg"),
        "device.png": special("device.png", tarfile.CHRTYPE),
        "pipe.png": special("pipe.png", tarfile.FIFOTYPE),
        "folder.png": special("folder.png", tarfile.DIRTYPE),
        "._a.jpg": b"a resource fork",
        "empty.png": b"",
    }
    shard = write_shard(tmp_path / "shard.tar", members)
    before = sorted(tmp_path.rglob("*"))
    listed = pictures(shard)
    content = {picture.path: picture.data for picture in listed if picture.fault is None}
    assert content == {
        f"{shard}::a.jpg": picture_bytes(1, "JPEG"),
        f"{shard}::../../x.png": picture_bytes(2),
        f"{shard}::/etc/y.png": picture_bytes(3),
        f"{shard}::empty.png": b"",
    }
    assert faults(listed).keys() == {"link.png", "hard.png", "device.png", "pipe.png"}
    assert sorted(tmp_path.rglob("*")) == before  # nothing was unpacked
    assert stored_bytes(f"{shard}::/etc/y.png") == picture_bytes(3)
    assert container_of(f"{shard}::/etc/y.png") == str(shard) and not is_gone(f"{shard}::/etc/y.png")


def test_names_that_repeat_in_a_shard_are_numbered(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for seed in (1, 2, 3):
            (tmp_path / "x.png").write_bytes(picture_bytes(seed))
            archive.add(tmp_path / "x.png", "x.png")
    listed = pictures(tmp_path / "s.tar")
    assert names(listed) == ["x.png", "x.png#2", "x.png#3"]
    assert [picture.data for picture in listed] == [picture_bytes(seed) for seed in (1, 2, 3)]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("part", [0.4, 0.75])
def test_a_shard_that_is_cut_short_yields_what_is_whole(mode: str, part: float, tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "s.tar", {f"{i}.png": picture_bytes(i) for i in range(8)}, mode)
    os.truncate(shard, int(shard.stat().st_size * part))
    (piece,) = list_pieces([str(shard)])
    listed: list[Picture] = []
    with pytest.raises(PieceError, match="damaged or cut short"):
        listed.extend(piece.pictures())
    assert all(picture.data == picture_bytes(i) for i, picture in enumerate(listed)) and len(listed) < 8


def test_a_file_that_is_no_shard_is_damaged(tmp_path: Path) -> None:
    for content in (b"not a tar" * 200, b"", os.urandom(3000)):
        (tmp_path / "s.tar").write_bytes(content)
        (piece,) = list_pieces([str(tmp_path / "s.tar")])
        with pytest.raises(PieceError, match="damaged or cut short"):
            list(piece.pictures())


def test_a_sparse_member_cannot_claim_a_huge_size(tmp_path: Path) -> None:
    header = tarfile.TarInfo("bomb.png")
    header.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.name": "bomb.png"} | {
        "GNU.sparse.size": str(1 << 40), "GNU.sparse.numblocks": "1", "GNU.sparse.map": "0,0",
    }  # fmt: skip
    with tarfile.open(tmp_path / "s.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(header)
    assert "sparse" in faults(pictures(tmp_path / "s.tar"))["bomb.png"]


def test_shards_behind_a_url_are_read_like_files(tmp_path: Path) -> None:
    import fsspec

    system = fsspec.filesystem("memory")
    for i in (1, 2):
        shard = write_shard(tmp_path / "s.tar", {f"{i}.png": picture_bytes(i)})
        system.pipe(f"/bucket/{i:02d}.tar", shard.read_bytes())
    for source in ("memory://bucket/{01..02}.tar", "memory://bucket/*.tar"):
        listed = pictures(source)
        assert [picture.path for picture in listed] == [
            "memory://bucket/01.tar::1.png",
            "memory://bucket/02.tar::2.png",
        ]
        assert [picture.data for picture in listed] == [picture_bytes(1), picture_bytes(2)]
    assert stored_bytes(listed[1].path) == picture_bytes(2) and all(picture.stamp for picture in listed)
    with pytest.raises(FileNotFoundError):
        list_pieces(["memory://bucket/09.tar"])


# Tables.


def write_parquet(file: Path, **columns: list[object]) -> Path:
    import pyarrow.parquet

    pyarrow.parquet.write_table(pa.table(columns), file)
    age(file)
    return file


def test_parquet_with_bytes_or_structs_and_nulls(tmp_path: Path) -> None:
    first, second = picture_bytes(1), picture_bytes(2)
    plain = write_parquet(tmp_path / "a.parquet", label=["x", "y", "z"], raw=[first, None, second])
    listed = pictures(plain)
    assert [picture.data for picture in listed] == [first, None, second]
    assert faults(listed) == {"1": "no bytes (null)"} and listed[0].path == f"{plain}::0"
    assert stored_bytes(f"{plain}::2") == second
    structs: list[object] = [{"bytes": first, "path": "x"}, {"bytes": None, "path": "y"}, None]
    hugging_face = write_parquet(tmp_path / "b.parquet", image=structs)
    assert [picture.data for picture in pictures(hugging_face)] == [first, None, None]


def test_the_column_of_a_parquet_file_is_chosen_or_named(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", mask=[b"m"], image=[b"i"], label=["x"])
    assert [picture.data for picture in pictures(file)] == [b"i"]
    assert [picture.data for picture in pictures(file, column="mask")] == [b"m"]
    for column, message in (("nothing", "no column 'nothing'; it has mask, image, label"), ("label", "not bytes")):
        with pytest.raises(ValueError, match=message):
            pictures(file, column=column)
    with pytest.raises(ValueError, match=r"no column of bytes; name .* by --column"):
        pictures(write_parquet(tmp_path / "b.parquet", label=["x"]))
    with pytest.raises(ValueError, match=r"several columns of bytes \(left, right\)"):
        pictures(write_parquet(tmp_path / "c.parquet", left=[b"l"], right=[b"r"]))


def test_a_damaged_parquet_file_is_a_fault_and_does_not_stop_the_others(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", image=[picture_bytes(i) for i in range(20)])
    whole = file.read_bytes()
    for content in (b"", b"PAR1", whole[: len(whole) // 2], os.urandom(500)):
        file.write_bytes(content)
        (fault,) = pictures(file)
        assert fault.path == str(file) and fault.fault is not None and "not a Parquet file" in fault.fault
    whole_file = write_parquet(tmp_path / "b.parquet", image=[picture_bytes(3)])
    assert [picture.fault is None for picture in pictures(file, whole_file)] == [False, True]
    file.write_bytes(b"PAR1" + bytes(len(whole) // 2) + whole[len(whole) // 2 + 4 :])  # the pages, not the footer
    (piece,) = list_pieces([str(file)])
    with pytest.raises(PieceError, match="damaged"):
        list(piece.pictures())


def test_a_lance_table_of_bytes(tmp_path: Path) -> None:
    import lancedb

    data = pa.table({"image": pa.array([picture_bytes(1), None, picture_bytes(3)]), "name": ["a", "b", "c"]})
    lancedb.connect(tmp_path / "base").create_table("things", data)
    listed = pictures(tmp_path / "base" / "things.lance")
    assert [picture.data for picture in listed] == [picture_bytes(1), None, picture_bytes(3)]
    assert listed[2].path == f"{tmp_path}/base/things.lance::2" and stored_bytes(listed[2].path) == picture_bytes(3)
    (tmp_path / "empty.lance").mkdir()
    with pytest.raises(ValueError, match="is not a Lance table"):
        list_pieces([str(tmp_path / "empty.lance")])

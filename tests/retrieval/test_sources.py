"""Sources of pictures: what is listed, what is left out, and what hostile files do."""

from __future__ import annotations

import os
import pickle
import tarfile
from pathlib import Path

import pytest
from collections_of_pictures import age, as_nobody, open_to_all, picture_bytes, write_pictures, write_shard

from dreamsim_guidance.retrieval.sources.listing import expanded, list_pieces
from dreamsim_guidance.retrieval.sources.piece import Picture, PieceError, file_of, path_of, stamp_of
from dreamsim_guidance.retrieval.sources.stored import container_of, is_gone
from dreamsim_guidance.retrieval.sources.stored import picture_bytes as stored_bytes

pa = pytest.importorskip("pyarrow")
pytest.importorskip("lancedb")


def pictures(*sources: object, column: str | None = None, outside: bool = False) -> list[Picture]:
    pieces = list_pieces([str(source) for source in sources], column, outside)
    return [picture for piece in pickle.loads(pickle.dumps(pieces)) for picture in piece.pictures()]


def names(listed: list[Picture]) -> list[str]:
    return [picture.path.replace("::", "/").rpartition("/")[2] for picture in listed]


def faults(listed: list[Picture]) -> dict[str, str]:
    return {names([picture])[0]: picture.fault for picture in listed if picture.fault is not None}


# Folders and patterns.


def test_a_folder_is_read_with_its_folders_without_hidden_files_and_other_endings(tmp_path: Path) -> None:
    write_pictures(tmp_path / "b" / "c", [1])
    write_pictures(tmp_path, [2, 3])
    write_pictures(tmp_path / ".hidden", [4])
    for name in (".z.png", "notes.txt", "x.json"):
        (tmp_path / name).write_text("text")
    (tmp_path / "UPPER.JPG").write_bytes(picture_bytes(5, "JPEG"))
    listed = pictures(tmp_path)
    assert names(listed) == ["002.png", "003.png", "UPPER.JPG", "001.png"]
    assert all(Path(picture.path).is_absolute() and picture.fault is None for picture in listed)


def test_a_pattern_a_file_and_braces_stand_for_files(tmp_path: Path) -> None:
    write_pictures(tmp_path / "a", [1, 2])
    write_pictures(tmp_path / "b", [3])
    assert names(pictures(tmp_path / "*" / "*.png")) == ["001.png", "002.png", "003.png"]
    assert names(pictures(f"{tmp_path}/**/*.png")) == ["001.png", "002.png", "003.png"]
    assert names(pictures(f"{tmp_path}/a/{{001,002}}.png")) == ["001.png", "002.png"]
    assert names(pictures(f"{tmp_path}/a/{{001..002}}.png", tmp_path / "a", tmp_path / "b" / "003.png")) == [
        "001.png",
        "002.png",
        "003.png",
    ]


def test_a_file_whose_name_looks_like_a_pattern_is_itself(tmp_path: Path) -> None:
    for name in ("a[1].png", "x{1,2}.png", "what?.png", "a::b.png", "50%25.png"):
        (tmp_path / name).write_bytes(picture_bytes(1))
        assert [file_of(picture.path) for picture in pictures(tmp_path / name)] == [tmp_path / name]
        assert stored_bytes(path_of(tmp_path / name)) == picture_bytes(1)


def test_names_that_are_no_utf8_and_unicode_names_come_back(tmp_path: Path) -> None:
    strange = [os.fsdecode(b"\xff\xfe.png"), "héllo wörld 图.png", "line\nbreak.png", "%FF.png", 'it\'s "quoted".png']
    for name in strange:
        (tmp_path / name).write_bytes(picture_bytes(1))
    listed = pictures(tmp_path)
    assert {file_of(picture.path).name for picture in listed} == set(strange)
    for picture in listed:
        picture.path.encode()
        assert picture.file is not None and Path(picture.file).read_bytes() == picture_bytes(1)


def test_links_that_leave_a_folder_are_faults_unless_allowed(tmp_path: Path) -> None:
    outside = write_pictures(tmp_path / "outside", [1, 2])
    root = write_pictures(tmp_path / "root", [3])
    (root / "inside.png").symlink_to(root / "003.png")
    (root / "out.png").symlink_to(outside / "001.png")
    (root / "folder").symlink_to(outside)
    (root / "loop").symlink_to(root)
    (root / "self.png").symlink_to(root / "self.png")
    (root / "dangling.png").symlink_to(root / "nothing.png")
    listed = pictures(root)
    assert names([picture for picture in listed if picture.fault is None]) == ["003.png", "inside.png"]
    reasons = faults(listed)
    assert reasons.keys() == {"dangling.png", "folder", "out.png", "self.png"}
    assert "leaves the folder; --outside" in reasons["out.png"] and "leaves the folder" in reasons["folder"]
    assert reasons["dangling.png"] == "missing"
    everything = pictures(root, outside=True)
    assert names([p for p in everything if p.fault is None]) == [
        "003.png",
        "001.png",
        "002.png",
        "inside.png",
        "out.png",
    ]


def test_a_folder_behind_a_link_is_read(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(write_pictures(tmp_path / "real", [1]))
    assert [picture.path for picture in pictures(tmp_path / "link")] == [f"{tmp_path}/link/001.png"]


def test_pipes_and_folders_with_the_name_of_a_picture_do_not_stop_the_listing(tmp_path: Path) -> None:
    write_pictures(tmp_path, [1])
    os.mkfifo(tmp_path / "pipe.png")
    write_pictures(tmp_path / "folder.png", [2])
    listed = pictures(tmp_path)
    assert names(listed) == ["001.png", "002.png", "pipe.png"] and "pipe" in faults(listed)["pipe.png"]
    assert faults(pictures(tmp_path / "pipe.png")) == faults(listed)


def test_a_folder_that_cannot_be_read_is_an_error_and_below_another_a_fault(tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures", [1])
    write_pictures(tmp_path / "pictures" / "closed", [2])
    with open_to_all(tmp_path), as_nobody_with(tmp_path / "pictures" / "closed"):
        listed = pictures(tmp_path / "pictures")
        assert names(listed) == ["001.png", "closed"] and "cannot be read" in faults(listed)["closed"]
        with pytest.raises(PermissionError):
            pictures(tmp_path / "pictures" / "closed")


def as_nobody_with(closed: Path):  # type: ignore[no-untyped-def]
    closed.chmod(0o000)
    return as_nobody()


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("missing", FileNotFoundError, "there is no file or folder"),
        ("missing.tar", FileNotFoundError, "there is no file or folder"),
        ("none/*.png", FileNotFoundError, "matches no file"),
        ("empty", ValueError, "holds no picture"),
        ("notes.pdf", ValueError, "neither a folder nor a file of a known kind"),
        ("https://example.org/cat.png", ValueError, "URL of unknown kind"),
        ("{0..99999999}.tar", ValueError, "more than 200000 names"),
        ("{0..999}{0..999}{0..999}.tar", ValueError, "more than 200000 names"),
    ],
)
def test_sources_that_are_none_are_errors(
    source: str, error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.pdf").write_text("text")
    with pytest.raises(error, match=message):
        list_pieces([source])


def test_braces_expand_as_in_a_shell() -> None:
    assert expanded("s3://x/{train,val}-{0008..0010}.tar") == [
        f"s3://x/{split}-{i:04d}.tar" for split in ("train", "val") for i in (8, 9, 10)
    ]
    assert expanded("plain.tar") == ["plain.tar"]


def test_a_young_file_has_no_stamp() -> None:
    assert stamp_of(10, 1_000_000_000_000, now=1001.0) == ""
    assert (
        stamp_of(10, 1_000_000_000_000, now=1010.0) == "10 1000000000000" != stamp_of(10, 999_000_000_000, now=1010.0)
    )


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


def test_a_damaged_parquet_file_is_an_error(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", image=[picture_bytes(i) for i in range(20)])
    whole = file.read_bytes()
    for content in (b"", b"PAR1", whole[: len(whole) // 2], os.urandom(500)):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="is not a Parquet file"):
            list_pieces([str(file)])
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


# Lists.


def test_paths_of_a_list_are_relative_to_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path / "set" / "images", [1, 2])
    for name, text in (
        ("a.csv", "label,path\nx,images/001.png\ny,images/002.png\nz,images/001.png\n"),
        ("b.csv", "\ufefffile_name\r\nimages/001.png\r\n\r\nimages/002.png\r\n"),
        ("c.csv", "images/001.png\nimages/002.png\n"),
        ("d.tsv", "label\tImage\nx\timages/001.png\ny\timages/002.png\n"),
        ("e.txt", "images/001.png\nimages/002.png\n\nimages/001.png\n"),
        ("f.csv", 'where,what\n"images/001.png",1\n./images/002.png,2\n'),
    ):
        (tmp_path / "set" / name).write_text(text, encoding="utf-8")
        listed = pictures(tmp_path / "set" / name, column="where" if name == "f.csv" else None)
        assert [picture.path for picture in listed] == [f"{tmp_path}/set/images/00{i}.png" for i in (1, 2)], name


def test_paths_that_leave_the_folder_of_a_list_are_faults_unless_allowed(tmp_path: Path) -> None:
    outside = write_pictures(tmp_path / "outside", [1, 2, 3])
    root = write_pictures(tmp_path / "set", [4])
    (root / "link.png").symlink_to(outside / "003.png")
    rows = [
        "../outside/001.png",
        str(outside / "002.png"),
        "link.png",
        "004.png",
        "../set/004.png",
        "../../../../../../../../../etc/passwd",
    ]
    rows += ["nothing.png", "nul\0l.png", "x" * 5000 + ".png", "."]
    (root / "list.csv").write_text("path\n" + "\n".join(rows) + "\n")
    reasons = faults(pictures(root / "list.csv"))
    leaving = {name for name, reason in reasons.items() if "leaves the folder of the list; --outside" in reason}
    assert leaving == {"001.png", "002.png", "link.png", "passwd"}
    assert reasons["nothing.png"] == "missing" and len(reasons) == 8
    good = [picture.path for picture in pictures(root / "list.csv", outside=True) if picture.fault is None]
    assert {Path(path).name for path in good} == {"001.png", "002.png", "link.png", "004.png", "passwd"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no picture"),
        ("path\n", "holds no picture"),
        ("a,b\n1,2\n", "no column of paths among a, b"),
        ("label,path\nx\n", "line 2 of .* has 1 columns"),
        ('path\n"' + "x" * 200_000 + '"\n', "is not a CSV file"),
    ],
)
def test_lists_without_paths_are_errors(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        list_pieces([str(tmp_path / "list.csv")])


def test_a_file_that_is_too_large_is_a_fault(tmp_path: Path) -> None:
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(1 << 33)  # sparse: it takes no space
    assert "more than the limit" in faults(pictures(tmp_path))["large.png"]

"""Sources of pictures: what is listed, what is left out, and what hostile files do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from collections_of_pictures import as_nobody, faults, names, open_to_all, picture_bytes, pictures, write_pictures

from dreamsim_guidance.retrieval.embedder import read_bytes
from dreamsim_guidance.retrieval.sources.listing import expanded, list_pieces
from dreamsim_guidance.retrieval.sources.piece import file_of, path_of, stamp_of
from dreamsim_guidance.retrieval.sources.stored import picture_bytes as stored_bytes

pa = pytest.importorskip("pyarrow")
pytest.importorskip("lancedb")


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
        ("https://example.org/cats/", ValueError, "URL of unknown kind"),
        ("nothing://here/cat.png", ValueError, r"'nothing://here/cat.png' cannot be opened \(Protocol not known"),
        ("memory://nowhere/cat.png", FileNotFoundError, "there is no file 'memory://nowhere/cat.png'"),
        ("memory://nowhere/cats.tar", FileNotFoundError, "there is no file 'memory://nowhere/cats.tar'"),
        ("", ValueError, "a source is empty"),
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


def test_pictures_behind_urls_are_read_when_their_turn_comes() -> None:
    import fsspec

    files = fsspec.filesystem("memory")
    for i in (1, 2):
        files.pipe(f"/pictures_behind_urls/{i}.png", picture_bytes(i))
    listed = pictures("memory://pictures_behind_urls/*.png")
    assert [picture.path for picture in listed] == [f"memory://pictures_behind_urls/{i}.png" for i in (1, 2)]
    assert all(picture.stamp and picture.data is None and picture.fault is None for picture in listed)
    for i, picture in enumerate(listed, 1):
        assert read_bytes(picture) == stored_bytes(picture.path) == picture_bytes(i)
    files.rm("/pictures_behind_urls/1.png")
    with pytest.raises(OSError, match=r"there is no file 'memory://pictures_behind_urls/1\.png'"):
        read_bytes(listed[0])


def test_a_url_whose_package_is_missing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    def refuse(*_: object, **__: object) -> None:
        raise ImportError('HTTPFileSystem requires "requests" and "aiohttp" to be installed')

    monkeypatch.setattr(fsspec.core, "url_to_fs", refuse)
    with pytest.raises(ModuleNotFoundError, match=r'needs another package \(.*"aiohttp".*\); install it by pip'):
        list_pieces(["https://example.org/cat.png"])


def test_a_web_address_with_a_question_mark_is_no_pattern() -> None:
    assert expanded("https://example.org/cat.png?width=10") == ["https://example.org/cat.png?width=10"]


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


def test_a_folder_with_the_name_of_another_kind_is_a_folder(tmp_path: Path) -> None:
    for kind in ("tar", "tar.gz", "csv", "txt", "png"):
        write_pictures(tmp_path / f"unpacked.{kind}", range(2))
        assert names(pictures(tmp_path / f"unpacked.{kind}")) == ["000.png", "001.png"]

"""Files and folders appear whole or not at all, with the permissions that the umask leaves them."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dreamsim_guidance import DreamSim, save_image
from dreamsim_guidance.files.atomic import new_folder, write_json, write_tensors, writing
from dreamsim_guidance.files.checksums import record

UMASKS = [0o000, 0o002, 0o022, 0o027, 0o077, 0o222, 0o277]


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def write_text(path: Path) -> None:
    with writing(path) as temporary:
        temporary.write_text("new")


def write_private(path: Path) -> None:
    with writing(path) as temporary:
        save_file({"x": torch.zeros(2)}, temporary)  # makes files that only their owner may read


def write_record(path: Path) -> None:
    beside = path.with_name("downloaded")
    beside.write_text("something")
    record(beside, "https://example.org")
    os.replace(path.with_name("downloaded.checksum.json"), path)


def write_model(path: Path) -> None:
    DreamSim("pocket").save(path.with_suffix(".safetensors"))
    os.replace(path.with_suffix(".safetensors"), path)


def write_adapter(path: Path) -> None:
    DreamSim("pocket", fold=False).save_adapter(path.parent / "adapter")
    assert mode(path.parent / "adapter" / "adapter_config.json") == mode(
        path.parent / "adapter" / "adapter_model.safetensors"
    )
    os.replace(path.parent / "adapter" / "adapter_config.json", path)


WRITERS: dict[str, Callable[[Path], None]] = {
    "text": write_text,
    "private": write_private,
    "json": lambda path: write_json(path, {"a": 1}),
    "record": write_record,
    "picture": lambda path: save_image(torch.rand(1, 3, 4, 4), path),
    "model": write_model,
    "adapter": write_adapter,
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("value", [0o002, 0o077], ids=oct)
def test_every_writer_leaves_the_permissions_to_the_umask(name: str, value: int, tmp_path: Path) -> None:
    with umask(value):
        WRITERS[name](tmp_path / "file.png")
    assert mode(tmp_path / "file.png") == 0o666 & ~value


@pytest.mark.parametrize("value", UMASKS, ids=oct)
def test_files_have_the_permissions_of_the_umask_and_can_be_replaced(value: int, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    with umask(value):
        for _ in range(3):
            write_text(file)
        write_private(tmp_path / "b")
    assert mode(file) == mode(tmp_path / "b") == 0o666 & ~value
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", "b"}


@pytest.mark.parametrize("value", UMASKS, ids=oct)
def test_folders_have_the_permissions_of_the_umask(value: int, tmp_path: Path) -> None:
    with umask(value), new_folder(tmp_path / "new") as folder:
        folder.joinpath("a.txt").write_text("a")
        (folder / "a.txt").chmod(0o600)  # as safetensors leaves its files
    assert mode(tmp_path / "new") == 0o777 & ~value
    (tmp_path / "new").chmod(0o700)
    assert mode(tmp_path / "new" / "a.txt") == 0o666 & ~value
    (tmp_path / "new" / "a.txt").chmod(0o600)


def test_the_umask_itself_is_never_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(value: int) -> int:
        raise AssertionError("the umask belongs to all threads of the process")

    monkeypatch.setattr(os, "umask", refuse)
    write_text(tmp_path / "a")
    with new_folder(tmp_path / "b"):
        pass


def test_a_failure_keeps_the_old_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")
    with pytest.raises(KeyError), writing(file) as temporary:
        temporary.write_text("half")
        raise KeyError("something")
    with pytest.raises(KeyError), new_folder(tmp_path / "folder") as folder:
        (folder / "a").write_text("half")
        raise KeyError("something")
    assert file.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_that_holds_something_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").touch()
    with pytest.raises(OSError), new_folder(tmp_path / "a"):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "b"]


def test_nan_tensors_paths_and_tuples_are_written_as_standard_json(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": float("nan"), "b": torch.ones(2), "c": tmp_path, 1: (1, -math.inf)})
    assert json.loads((tmp_path / "a.json").read_text()) == {
        "a": None,
        "b": [1, 1],
        "c": str(tmp_path),
        "1": [1, "-inf"],
    }


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file can grow beyond 10 kB."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def pocket() -> DreamSim:
    return DreamSim("pocket", fold=False)


def write_bytes(_: DreamSim, folder: Path) -> None:
    with writing(folder / "x") as temporary:
        temporary.write_bytes(bytes(400_000))


def write_tensor(_: DreamSim, folder: Path) -> None:
    with writing(folder / "x") as temporary:
        write_tensors({"x": torch.zeros(100_000)}, temporary)


@pytest.mark.parametrize(
    "write",
    [
        lambda metric, folder: metric.save(folder / "m.safetensors"),
        lambda metric, folder: metric.save_pretrained(folder),
        lambda metric, folder: metric.save_adapter(folder),
        lambda metric, folder: write_json(folder / "a.json", list(range(100_000))),
        write_tensor,
        write_bytes,
    ],
    ids=["save", "save_pretrained", "save_adapter", "json", "tensors", "bytes"],
)
def test_a_full_disk_raises_an_oserror_and_leaves_no_file(
    write: Callable[[DreamSim, Path], None], pocket: DreamSim, full_disk: None, tmp_path: Path
) -> None:
    with pytest.raises(OSError) as raised:
        write(pocket, tmp_path)
    assert raised.value.errno is not None and not os.listdir(tmp_path)


def test_other_errors_of_safetensors_while_writing_are_oserrors_too(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"Is a directory|cannot be written"):
        write_tensors({"x": torch.zeros(1)}, tmp_path)
    write_tensors({"x": torch.ones(1)}, tmp_path / "x")
    assert load_file(tmp_path / "x")["x"].item() == 1

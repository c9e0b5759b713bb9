"""Nearest pictures by three networks: numbers, page, sheet; the page in a real browser where there is one."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as PILImage

from dreamsim_guidance.cli import main
from dreamsim_guidance.preprocess import save_image
from dreamsim_guidance.retrieval import embed

FAST = ["texture=mse", "semantic=pocket_robust", "cache=False"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    generator = torch.Generator().manual_seed(0)
    for i in range(7):
        colour = torch.rand(3, 1, 1, generator=generator)
        save_image(0.7 * colour + 0.3 * torch.rand(3, 24, 32, generator=generator), folder / f"{i} <b>.png")
    return folder


@pytest.fixture(scope="module")
def run_folder(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    words = [f"pictures={pictures}", "metric=pocket", "texture=gram", "semantic=mse", "cache=False", "count=3", "k=4"]
    assert main(["run", "compare-retrieval", *words, "--folder", str(folder)]) == 0
    return folder


def test_lists_agreement_and_sheet_are_written(run_folder: Path, pictures: Path) -> None:
    comparison = json.loads((run_folder / "comparison.json").read_text())
    names = comparison["networks"]
    assert [name.partition(":")[0] for name in names] == ["texture", "semantic", "this metric"]
    assert (comparison["queries"], comparison["pictures"], len(comparison["agreement"])) == (3, 7, 3)
    for name in names:
        for row in comparison["lists"][name]:
            assert len(set(row["files"])) == 4 and row["query"] not in row["files"]
            assert row["distances"] == sorted(row["distances"])
    assert all(pair["chance"] == pytest.approx(4 / 6) for pair in comparison["agreement"])
    with PILImage.open(run_folder / "sheet.png") as sheet:
        assert sheet.height > 9 * 96


def test_the_page_needs_nothing_else(run_folder: Path) -> None:
    page = (run_folder / "page.html").read_text()
    assert page.count("<h3>") == 9 and "<b>.png" not in page  # names of files are escaped
    assert not re.findall(r'src="(?!data:)', page) and "<script" not in page
    assert page.count('src="data:image/jpeg') == 3 * (1 + 3 * 4)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # selenium's own sockets
@pytest.mark.timeout(120)
def test_the_page_shows_every_picture_in_a_browser(run_folder: Path, tmp_path: Path) -> None:
    from study.browser import Session

    moved = shutil.copy(run_folder / "page.html", tmp_path / "page.html")
    session = Session(tmp_path / "browser")
    try:
        session.driver.get(Path(moved).as_uri())
        loaded = "[...document.images].map(x => (x.loading = 'eager', x.complete && x.naturalWidth > 0))"
        session.until(lambda: all(session.run(loaded)), "every picture is shown")
        assert len(session.run(loaded)) == 39
        assert session.run("document.querySelectorAll('h2').length") == 4
        assert session.run("document.documentElement.scrollWidth <= window.innerWidth")
    finally:
        session.close()


def test_queries_of_their_own_and_an_index(pictures: Path, tmp_path: Path, capsys: Any) -> None:
    embed(pictures, tmp_path / "index", "pocket", device="cpu")
    queries = tmp_path / "queries"
    queries.mkdir()
    save_image(torch.rand(3, 24, 32), queries / "new.png")
    shutil.copy(pictures / "3 <b>.png", queries / "copy.png")
    words = [f"index={tmp_path / 'index'}", f"queries={queries}", "k=3", *FAST]
    assert main(["run", "compare-retrieval", *words, "--folder", str(tmp_path / "a")]) == 0
    words[0] = f"pictures={pictures}"
    assert main(["run", "compare-retrieval", *words, "metric=pocket", "--folder", str(tmp_path / "b")]) == 0
    capsys.readouterr()
    by_index, by_folder = (json.loads((tmp_path / name / "comparison.json").read_text()) for name in "ab")
    assert by_index["lists"]["this metric: pocket"][0]["files"][0].endswith("3 <b>.png")  # the copy's original
    for network, rows in by_folder["lists"].items():
        assert [row["files"] for row in by_index["lists"][network]] == [row["files"] for row in rows]
    assert by_index["queries"] == 2 and by_index["agreement"][0]["chance"] == pytest.approx(3 / 7)


def test_an_index_of_a_shard_is_compared_like_its_files(pictures: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for file in sorted(pictures.iterdir()):
            archive.add(file, file.name)
    lists = []
    for source in (pictures, tmp_path / "s.tar"):
        index, folder = tmp_path / f"{source.name}.index", tmp_path / f"run of {source.name}"
        embed(source, index, "pocket", device="cpu", progress=False)
        words = [f"index={index}", "k=3", "count=2", *FAST, "--folder", str(folder)]
        assert main(["run", "compare-retrieval", *words]) == 0
        found = json.loads((folder / "comparison.json").read_text())["lists"]
        lists.append(
            {
                name: [[re.split("/|::", file)[-1] for file in row["files"]] for row in rows]
                for name, rows in found.items()
            }
        )
        assert ">missing<" not in (folder / "page.html").read_text()
    assert lists[0] == lists[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pictures=a", "index=b"], "pictures and index both say"),
        (["index=b", "metric=pocket"], "an index has a metric of its own"),
        (["k=0"], "k must be at least 1"),
        (["pictures=absent"], "folder not found"),
        (["index=absent"], "absent"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "compare-retrieval", *words, *FAST, "--folder", "run"]) == 2
    assert message in capsys.readouterr().err


def test_a_single_picture_cannot_be_searched(tmp_path: Path, capsys: Any) -> None:
    save_image(torch.rand(3, 24, 32), tmp_path / "one" / "a.png")
    words = [f"pictures={tmp_path / 'one'}", "metric=pocket", *FAST]
    assert main(["run", "compare-retrieval", *words, "--folder", str(tmp_path / "run")]) == 2
    assert "needs at least two pictures" in capsys.readouterr().err

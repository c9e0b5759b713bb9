"""The pages of search and duplicates, also in a real Chromium; see `study.browser` for when that is skipped."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from retrieval.synthetic_index import random_rows, synthetic_index

from dreamsim_guidance import DreamSim, save_image
from dreamsim_guidance.cli import main
from dreamsim_guidance.retrieval import Index, embed
from dreamsim_guidance.retrieval.duplicate_groups import duplicates_page, find_duplicates
from dreamsim_guidance.retrieval.search import search
from dreamsim_guidance.retrieval.search_page import Result, search_page, search_sheet

HOSTILE = (
    "<script>document.title='run'<&>.png",
    '" onerror="document.title=\'run\'" x=".png',
    "'><img src=x onerror=alert(1)>.png",
    "#?%41 ü.png",
    "line\nbreak.png",
    "&lt;b&gt;.png",
)


@pytest.fixture
def folder(tmp_path: Path, metric: DreamSim) -> Path:
    """Pictures with hostile names, one of them twice, one missing since, and their index."""
    metric.save(tmp_path / "tiny.safetensors", source="random weights of a test", licence="none")
    (tmp_path / "pictures").mkdir()
    for i, name in enumerate((*HOSTILE, "missing.png")):
        save_image(torch.rand(1, 3, 24, 30 + i), tmp_path / "pictures" / name)
    shutil.copy(tmp_path / "pictures" / HOSTILE[0], tmp_path / "pictures" / "copy.png")
    embed(tmp_path / "pictures", tmp_path / "index", str(tmp_path / "tiny.safetensors"), progress=False)
    (tmp_path / "pictures" / "missing.png").unlink()
    return tmp_path


def test_names_cannot_become_part_of_the_page(folder: Path) -> None:
    index = Index.open(folder / "index")
    result = Result(search(index, index.paths[0]), {path: None for path in index.paths}, {}, {"index": HOSTILE[0]})
    for page in (search_page(result), duplicates_page(find_duplicates(index, 2.0))):
        assert "<script" not in page and "<img src=x" not in page
        assert not re.search(r'<[^>"]*"[^"]*"[^>"]* onerror=', page)
        assert "script-src" not in page and "default-src 'none'" in page
        assert not re.search(r'(src|href)="(?!data:image/jpeg|file:///)', page)


def test_a_missing_picture_is_a_placeholder(folder: Path) -> None:
    index = Index.open(folder / "index")
    result = Result(search(index, index.paths[0]))
    assert search_page(result).count("class=missing") == 1
    assert search_sheet(result).width > 200


def test_a_sheet_has_queries_and_matches(folder: Path) -> None:
    index = Index.open(folder / "index")
    matches = search(index, index.paths[0])
    alone = search_sheet(Result(matches[:2]))
    more = search_sheet(Result(matches[:2], {"query": None}, {"unlike": None}))
    assert more.height > 2 * alone.height


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # selenium's own sockets
def test_the_pages_in_a_browser(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from study.browser import Session

    monkeypatch.chdir(folder)
    query = f"pictures/{HOSTILE[0]}"
    assert main(["search", "index", query, "--unlike", "pictures/copy.png", "--html", "search.html"]) == 0
    assert main(["duplicates", "index", "--threshold", "2", "--html", "duplicates.html"]) == 0
    session = Session(folder / "browser")
    try:
        for page, pictures in (("search.html", 8), ("duplicates.html", 7)):
            session.driver.get((folder / page).as_uri())
            assert session.run("document.title") in ("Search", "Near-duplicates")  # no script has run
            session.run("document.querySelectorAll('img').forEach(image => image.loading = 'eager')")
            loaded = "[...document.images].filter(image => image.complete && image.naturalWidth > 0).length"
            session.until(
                lambda pictures=pictures, loaded=loaded: session.run(loaded) == pictures, f"{pictures} pictures"
            )
            assert session.run("document.images.length") == pictures
            assert session.run("document.querySelectorAll('.missing').length") == 1
            assert session.run("document.documentElement.scrollWidth <= window.innerWidth")
            texts = session.run("[...document.querySelectorAll('figcaption .name')].map(name => name.textContent)")
            assert HOSTILE[0] in texts and HOSTILE[1] in texts
            # links lead to the files themselves
            links = session.run("[...document.querySelectorAll('figure a:has(img)')].map(link => link.href)")
            assert {Path(folder, "pictures", name).as_uri() for name in HOSTILE[3:4]} <= set(links)
    finally:
        session.close()


def test_a_page_of_many_groups_says_that_it_shows_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreamsim_guidance.retrieval.duplicate_groups._SHOWN", 2)
    vectors = random_rows(4, 8).repeat(2, axis=0)
    result = find_duplicates(synthetic_index(tmp_path / "index", vectors), 0.0)
    page = duplicates_page(result)
    assert len(result.groups) == 4 and page.count("<h2>") == 2 and "The 2 largest groups follow" in page

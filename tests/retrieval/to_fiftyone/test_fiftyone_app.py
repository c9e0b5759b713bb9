"""FiftyOne's App in a real Chromium: its pictures, and its search by our similarity, as a person would use it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from study.browser import ActionChains, Session

from dreamsim_guidance.retrieval import Index
from dreamsim_guidance.retrieval.fiftyone_dataset import fiftyone_export

pytestmark = pytest.mark.filterwarnings("ignore")  # FiftyOne and its dependencies give warnings of their own

TILES = "[...document.querySelectorAll('[data-cy=looker]')].filter(tile => tile.checkVisibility())"
SORT = "[data-cy=action-sort-by-similarity]"
LEAF = "[...document.querySelectorAll('*')].find(e => e.childElementCount == 0 && e.textContent == '{}')"
SHOW = LEAF.format("Show similar samples")
CARD = "(e => {{ while (e && !e.querySelector('button')) e = e.parentElement; return e; }})({})"


@pytest.fixture
def app(package: Any, index: Index) -> Iterator[Any]:
    fiftyone_export(index, "in the App")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = package.launch_app(package.load_dataset("in the App"), remote=True, address="127.0.0.1", port=port)
    yield app
    app.close()


def select_first(session: Session) -> bool:
    """Select the first picture by the box in its corner, which appears with the pointer on the picture."""
    if session.run("document.querySelector('[data-cy=action-manage-selected]')"):
        return True
    tile = session.run(f"{TILES}.sort((a, b) => a.getBoundingClientRect().x - b.getBoundingClientRect().x)[0]")
    left, top = (int(14 - tile.rect[side] / 2) for side in ("width", "height"))
    chain = ActionChains(session.driver).move_to_element(tile).pause(1)
    chain.move_to_element_with_offset(tile, left, top).pause(1).click().pause(1).perform()
    return False


def test_the_app_shows_the_pictures_and_searches_by_the_key(app: Any, index: Index, tmp_path: Path) -> None:
    session = Session(tmp_path / "browser")
    try:
        session.driver.get(app.url)
        session.until(lambda: session.run(f"{TILES}.length") == len(index), "all pictures")
        session.until(lambda: select_first(session), "a selection")
        session.click(SORT)
        session.until(lambda: session.run(SHOW), "the button for similar samples")
        session.run(f"{SHOW}.click()")
        results = LEAF.format(f"{len(index)} results")
        session.until(lambda: session.run(results), "a search")
        if app.view is None:  # the first search opens the panel, and may leave its results to the button there
            session.run(CARD.format(results) + ".querySelector('button').click()")
        session.until(lambda: app.view is not None, "the results in the grid")
    finally:
        session.driver.quit()  # close() would object to fonts that the page asks of another host
    paths = app.view.values("filepath")
    vectors = index.vectors()
    distances = 1 - vectors @ vectors[index.paths.index(paths[0])]
    assert sorted(paths) == sorted(index.paths)
    assert np.allclose([distances[index.paths.index(path)] for path in paths], np.sort(distances), atol=1e-6)

"""The page as people use it: whole sessions in a real Chromium, their downloads read back.

Skipped where chromium and chromedriver are not installed (Debian: apt-get install chromium chromium-driver), unless
DREAMSIM_GUIDANCE_NEEDS_BROWSER=1 says that they must be. All tests of the page share one set of fixtures and scripts, so they
are in one long file.
"""

from __future__ import annotations

import csv
import functools
import http.server
import itertools
import json
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from study.browser import By, Keys, Session
from study.reconstructions import METHODS, write_folders
from study.triplet_folders import write_triplets

from dreamsim_guidance.data.readers.nights import read_nights
from dreamsim_guidance.study import Page, Round, Study, make_round, make_study, read_study
from dreamsim_guidance.study.design import TARGET

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # selenium's own sockets
KEYS = {0: (Keys.ARROW_LEFT, "a", "1"), 1: (Keys.ARROW_RIGHT, "b", "2")}


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_folders(tmp_path, 2, size=(48, 64))
    return tmp_path


@pytest.fixture
def sessions(folders: Path) -> Iterator[Callable[..., Session]]:
    opened: list[Session] = []

    def open_session(**options: Any) -> Session:
        opened.append(Session(folders / f"browser {len(opened)}", **options))
        return opened[-1]

    yield open_session
    for session in opened:
        session.close()


@pytest.fixture
def served(folders: Path) -> Iterator[str]:
    """The address of the current folder on a local server."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folders))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def expected(study: Study, *answers: dict[str, str]) -> dict[tuple[str, str, str], tuple[float, float]]:
    """Votes by reference and methods for the clicked answers, computed from the record alone."""
    result: dict[tuple[str, str, str], list[float]] = {}
    for trial in study.trials.values():
        for answered in answers:
            if trial.kind == "pair" and trial.id in answered:
                first, other = sorted((trial.left, trial.right), key=study.methods.index)
                votes = result.setdefault((trial.reference, first, other), [0.0, 0.0])
                preferred = trial.left if answered[trial.id] == "left" else trial.right
                votes[(first, other).index(preferred)] += 1
    return {key: (a, b) for key, (a, b) in result.items()}


def written(folder: Path) -> dict[tuple[str, str, str], tuple[float, float]]:
    result = read_nights(folder)
    with (folder / "data.csv").open(newline="") as opened:
        names = [
            (Path(row["ref_path"]).stem, row["left_method"], row["right_method"]) for row in csv.DictReader(opened)
        ]
    return dict(zip(names, zip(result.votes_a.tolist(), result.votes_b.tolist(), strict=True), strict=True))


def sides(study: Study, participant: int) -> list[int]:
    """A random answer to each trial, and the correct one to catch trials."""
    choose = random.Random(participant)
    return [
        study.choices.index(trial.answer) if trial.answer else choose.randrange(2)
        for trial in study.blocks[participant - 1]
    ]


def test_sessions_with_mouse_keys_and_finger_become_the_judgments_that_were_clicked(
    folders: Path, sessions: Callable[..., Session], served: str
) -> None:
    study = make_study("targets", METHODS, "study", participants=2, catch=1, repeats=1, seed=1, progress=False).study
    count = len(study.blocks[0])

    # a desktop with the page opened as a file: mouse and keys alternate, one answer is undone, and the page is reloaded once
    desk, block, chosen = sessions(), study.blocks[0], sides(study, 1)
    desk.begin((folders / "study" / "index.html").as_uri() + "?p=1")
    for i, (trial, side) in enumerate(zip(block, chosen, strict=True)):
        if i == 2:
            desk.answer(trial.id, 1 - side, study.choices)  # a wrong answer,
            desk.asked(block[3].id)
            desk.press(Keys.BACKSPACE)  # which is undone
        if i == 5:
            desk.answer(trial.id, 1 - side, study.choices)
            desk.asked(block[6].id)
            desk.click("#undo")
        if i == 4:
            desk.asked(trial.id)
            early = desk.download("csv", "details[open]") if not desk.click("summary") else None
            desk.driver.refresh()
            desk.asked(trial.id)  # the same trial again, without the start
            assert desk.driver.find_element(By.ID, "count").text == f"5 of {count}"
        desk.answer(trial.id, side, study.choices, KEYS[side][i % 3] if i % 2 else None)
    desk.state("over")
    desk.press(Keys.ARROW_LEFT)
    desk_csv, desk_json = desk.download("csv"), desk.download("json")
    desk.driver.refresh()
    desk.state("over")  # still there

    content = json.loads(desk_json.read_text())
    assert content["finished"] and content["chosen_by"] == "address" and content["participant"] == 1
    assert {vote["trial"]: vote["choice"] for vote in content["votes"]} == desk.given
    assert [vote["undone"] for vote in content["votes"]] == [0, 0, 1, 0, 0, 1] + [0] * (count - 6)
    assert [vote["input"] for vote in content["votes"]] == ["key" if i % 2 else "mouse" for i in range(count)]
    assert all(200 <= vote["milliseconds"] < 20_000 and vote["width"] == 320 for vote in content["votes"])

    # a phone, from a server: by touch
    phone, block, chosen = sessions(phone=True), study.blocks[1], sides(study, 2)
    phone.begin(f"{served}/study/index.html?p=2")
    for i, (trial, side) in enumerate(zip(block, chosen, strict=True)):
        if i == 3:
            phone.driver.refresh()
        phone.answer(trial.id, side, study.choices)
    phone.state("over")
    phone_csv, phone_json = phone.download("csv"), phone.download("json")
    votes = json.loads(phone_json.read_text())["votes"]
    assert {vote["input"] for vote in votes} == {"touch"} and {vote["width"] for vote in votes} == {177}

    assert early is not None
    for name, files in {"csv": [early, desk_csv, phone_csv], "json": [desk_json, phone_json, desk_csv]}.items():
        outcome = read_study("study", files, name)
        assert [(p.participant, p.kept, p.catch_right, p.finished) for p in outcome.people] == [
            (1, True, 1, True), (2, True, 1, True)
        ]  # fmt: skip
        assert written(folders / name) == expected(study, desk.given, phone.given)
    assert outcome.votes == 12 and outcome.people[0].repeats == 1


def test_a_session_of_same_or_different(folders: Path, sessions: Callable[..., Session]) -> None:
    quick = Page(exposure=30, gap=20)
    study = make_study(
        "targets", METHODS[:2], "study", mode="jnd", participants=2, catch=2, repeats=1, page=quick, progress=False
    ).study
    desk, block, chosen = sessions(), study.blocks[1], sides(study, 2)
    desk.begin((folders / "study" / "index.html").as_uri() + "?p=2")
    keys = {0: (Keys.ARROW_LEFT, "s", "1"), 1: (Keys.ARROW_RIGHT, "d", "2")}
    for i, (trial, side) in enumerate(zip(block, chosen, strict=True)):
        if i == 3:
            desk.driver.refresh()
        desk.answer(trial.id, side, study.choices, keys[side][i % 3] if i % 2 else None)
        if i == 2:  # while pictures are shown, an answer is not taken
            desk.asked(block[3].id)
            assert desk.run(TOO_EARLY) == 0
    desk.state("over")
    read_study("study", [desk.download("csv"), desk.download("json")], "out")
    with (folders / "out" / "jnd_votes.csv").open(newline="") as opened:
        result = {(Path(row["ref_path"]).stem, row["method"]): float(row["same"]) for row in csv.DictReader(opened)}
    of = {(t.reference, t.left if t.right == TARGET else t.right): t.id for t in block if t.kind == "pair"}
    assert result == {key: float(desk.given[id] == "same") for key, id in of.items()} and len(result) == 4


WATCH = """(() => {
  window.seen = [];
  const look = (time) => {
    const stage = document.getElementById('stage');
    const picture = stage.querySelector('.window img');
    const noise = stage.querySelector('.window canvas');
    const visible = (element) => getComputedStyle(element).visibility === 'visible';
    const what = picture?.src && visible(picture) ? picture.src.split('/').pop() : visible(noise) ? 'noise' : '';
    if (what !== window.seen.at(-1)?.what) {
      const pixels = what === 'noise' ? [...noise.getContext('2d').getImageData(0, 0, 256, 16).data] : [];
      window.seen.push({ what, time, pixels });
    }
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
})()"""
"""Notes in each frame what the window shows, without the help of the page's own program."""


def test_each_picture_is_shown_for_the_time_that_is_recorded_and_covered_by_new_noise(
    folders: Path, sessions: Callable[..., Session]
) -> None:
    write_triplets(Path("triplets"), 2, size=48)
    page = Page(exposure=150, mask=100, gap=80)
    rule = Round(votes=1, catch=2, repeats=0)
    study = make_round("triplets", "study", mode="jnd", participants=1, rule=rule, page=page, progress=False).study
    person, block = sessions(), study.blocks[0]
    person.driver.get((folders / "study" / "index.html").as_uri() + "?p=1")
    person.state("start")
    assert "each followed by a random pattern" in person.driver.find_element(By.ID, "instructions").text
    person.run(WATCH)
    person.click("#begin button")
    for trial in block:
        person.answer(trial.id, study.choices.index(trial.answer or "different"), study.choices)
    person.state("over")
    seen = person.run("window.seen.map(({ what, time }) => [what, time])")
    noise = np.array(
        person.run("window.seen.filter(({ what }) => what === 'noise').slice(0, 4).map(({ pixels }) => pixels)")
    )
    noise = noise.reshape(4, 16, 256, 4)[..., :3] / 255
    assert (noise.std((1, 2, 3)) > 0.05).all() and len(np.unique(noise.reshape(4, -1), axis=0)) == 4
    of = {Path(picture.file).name: picture.shows for picture in (*study.pictures, *study.extra)}
    begins = [(of.get(what, what), time) for what, time in seen]
    orders = [what for what, _ in begins if what]
    assert orders == [name for trial in block for name in (trial.left, "noise", trial.right, "noise")]
    votes = json.loads(person.download("json").read_text())["votes"]
    lasted = [later - time for (what, time), (_, later) in itertools.pairwise(begins) if what]
    names = ("first_shown", "first_masked", "second_shown", "second_masked")
    recorded = [vote[name] for vote in votes for name in names]
    assert np.abs(np.array(recorded) - lasted).max() < 25  # in the same frame or the next one
    shown, masked = (
        np.array([vote[name] for vote in votes for name in names if kind in name]) for kind in ("shown", "mask")
    )
    assert shown.min() > 150 - 17 and masked.min() > 100 - 17  # never shorter by more than a frame
    assert np.median(shown) < 150 + 50 and np.median(masked) < 100 + 50  # the machine may be busy
    outcome = read_study("study", [person.download("csv")], "out")
    assert outcome.people[0].catch_right == 2 and outcome.votes == 4
    assert outcome.exposure is not None and outcome.exposure.wanted == 150
    assert (outcome.exposure.least, outcome.exposure.most) == (shown.min(), shown.max())


PRESS = "document.body.dispatchEvent(new KeyboardEvent('keydown', { key: '1', bubbles: true }));"
TOO_EARLY = f"""(() => {{
  const before = session.votes.length;
  next();
  {PRESS}
  return session.votes.length - before;
}})()"""
TWICE = f"""
const before = session.votes.length;
const done = arguments[0];
new MutationObserver(() => {{
  if (document.body.dataset.state !== 'asking') return;
  {PRESS}
  done(session.votes.length - before);
}}).observe(document.body, {{ attributes: true }});
{PRESS}"""
# What Chromium does now and then under load: until its main process has registered the page, which it has done once it
# answers a question, it gives the page a localStorage that is empty and forgets, and the page does not get another one.
# Listening for storage events opens localStorage, too.
LATE = """{
  const own = Object.getOwnPropertyDescriptor(window, 'localStorage').get;
  const query = navigator.permissions.query.bind(navigator.permissions);
  const listen = window.addEventListener.bind(window);
  const forgetful = { getItem: () => null, setItem: () => {}, removeItem: () => {} };
  let registered = false;
  let area = null;
  const open = () => area ??= registered ? own.call(window) : forgetful;
  navigator.permissions.query = async (description) => {
    await new Promise((done) => setTimeout(done, 300));
    const status = await query(description);
    registered = true;
    return status;
  };
  window.addEventListener = (type, ...rest) => {
    if (type === 'storage') open();
    listen(type, ...rest);
  };
  Object.defineProperty(window, 'localStorage', { get: open });
}"""
LAYOUT = """(() => {
  const box = (element) => {
    const r = element.getBoundingClientRect();
    return [r.left, r.top, r.right, r.bottom, r.width, r.height];
  };
  return {
    pictures: [...document.querySelectorAll('#stage img')].map(box),
    buttons: [...document.querySelectorAll('#trial button')].filter((e) => e.checkVisibility()).map(box),
    alts: [...document.querySelectorAll('#stage img')].map((image) => image.alt),
    window: [innerWidth, innerHeight],
    page: [document.documentElement.scrollWidth, document.documentElement.scrollHeight],
    text: document.documentElement.outerHTML,
    asked: performance.getEntriesByType('resource').map((entry) => entry.name),
  };
})()"""


@pytest.mark.parametrize("phone", [False, True])
def test_pictures_and_buttons_are_visible_large_and_preloaded_and_reveal_no_method(
    folders: Path, sessions: Callable[..., Session], served: str, phone: bool
) -> None:
    study = make_study("targets", METHODS, "study", participants=2, progress=False).study
    person = sessions(phone=phone)
    person.begin(f"{served}/study/index.html?p=1")
    for i, trial in enumerate(study.blocks[0][:3]):
        person.asked(trial.id)
        seen = person.run(LAYOUT)
        width, height = seen["window"]
        assert seen["page"] == [width, height]
        for left, top, right, bottom, *size in seen["pictures"]:
            assert left >= 0 and top >= 0 and right <= width and bottom <= height
            assert size == ([177, 177] if phone else [320, 320])
        assert len(seen["buttons"]) == 3 and all(min(box[-2:]) >= 44 for box in seen["buttons"])
        assert sorted(seen["alts"]) == ["Candidate A", "Candidate B", "Reference"]
        assert not any(word in seen["text"] for word in (*METHODS, "scene"))
        assert all(address.startswith(f"{served}/study/images/") for address in seen["asked"])
        # the pictures of the next two trials are there, by number
        following = person.run(f"study.blocks[0].slice({i}, {i} + 3).flatMap((trial) => trial.slice(1))")
        person.until(lambda want=set(following): set(person.run("[...ready.keys()]")) >= want, "loading ahead")
        person.answer(trial.id, 0, study.choices)


def test_a_participant_number_is_proposed_and_an_unknown_one_is_refused(
    folders: Path, sessions: Callable[..., Session]
) -> None:
    study = make_study("targets", METHODS, "study", participants=4, progress=False).study
    desk = sessions()
    page = (folders / "study" / "index.html").as_uri()
    desk.driver.get(page + "?p=5")
    desk.state("start")
    assert "Participant numbers go from 1 to 4" in desk.driver.find_element(By.ID, "start-problem").text
    desk.driver.get(page)
    desk.state("start")
    field = desk.driver.find_element(By.ID, "participant")
    drawn = int(field.get_attribute("value"))
    assert 1 <= drawn <= 4
    typed = drawn % 4 + 1
    field.clear()
    field.send_keys(str(typed), Keys.ENTER)
    first, second = study.blocks[typed - 1][:2]
    desk.asked(first.id)
    assert desk.driver.execute_async_script(TWICE) == 1  # the second comes sooner than anybody can judge
    desk.asked(second.id)
    desk.driver.get(page)  # later, without a number in the address
    desk.asked(second.id)
    desk.click("summary")
    content = json.loads(desk.download("json", "details").read_text())
    assert (content["chosen_by"], content["participant"], content["finished"]) == ("typed", typed, False)
    assert [vote["trial"] for vote in content["votes"]] == [first.id]


def test_answers_survive_a_reload_when_the_browser_registers_the_page_late(
    folders: Path, sessions: Callable[..., Session]
) -> None:
    study = make_study("targets", METHODS, "study", participants=1, progress=False).study
    desk, (first, second, third) = sessions(), study.blocks[0][:3]
    desk.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": LATE})
    desk.begin((folders / "study" / "index.html").as_uri() + "?p=1")
    desk.answer(first.id, 0, study.choices)
    desk.asked(second.id)
    desk.driver.refresh()
    desk.answer(second.id, 1, study.choices)  # an answer after a reload is stored, too
    desk.asked(third.id)
    desk.driver.refresh()
    desk.asked(third.id)
    votes = desk.run("session.votes.map((vote) => [vote.trial, vote.choice])")
    assert votes == [list(pair) for pair in desk.given.items()] and len(votes) == 2


def test_a_picture_that_does_not_load_can_be_asked_for_again(
    folders: Path, sessions: Callable[..., Session], served: str
) -> None:
    study = make_study("targets", METHODS, "study", participants=1, progress=False).study
    person = sessions()
    images, away = folders / "study" / "images", folders / "away"
    images.rename(away)
    person.begin(f"{served}/study/index.html?p=1")
    person.state("problem")
    person.press(Keys.ARROW_LEFT)
    assert "could not be loaded" in person.driver.find_element(By.ID, "trial-problem").text
    away.rename(images)
    person.click("#trial-problem button")
    person.asked(study.blocks[0][0].id)
    assert person.run("session.votes.length") == 0
    person.driver.get_log("browser")  # the four hundred and fours


def test_a_participant_without_trials_in_a_round_is_told_so(folders: Path, sessions: Callable[..., Session]) -> None:
    write_triplets(Path("triplets"), 1, size=48)
    rule = Round(rounds=1, votes=1, least_votes=1, catch=0, repeats=0)
    (idle,) = make_round("triplets", "study", participants=2, rule=rule, progress=False).idle
    person = sessions()
    page = (folders / "study" / "index.html").as_uri()
    person.driver.get(f"{page}?p={idle}")
    person.state("start")
    problem = person.driver.find_element(By.ID, "start-problem")
    assert problem.text == f"Participant {idle} has nothing to judge in this round."
    person.driver.get(page)
    person.state("start")
    assert person.driver.find_element(By.ID, "participant").get_attribute("value") == str(3 - idle)

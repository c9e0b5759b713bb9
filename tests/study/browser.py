"""Drives a real Chromium with an empty profile, as a participant who remembers their answers.

Tests that use it are skipped where selenium, chromium or chromedriver is missing, unless DREAMSIM_GUIDANCE_NEEDS_BROWSER=1.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NEEDED = os.environ.get("DREAMSIM_GUIDANCE_NEEDS_BROWSER") == "1"
if not NEEDED:
    pytest.importorskip("selenium")
from selenium import webdriver  # noqa: E402
from selenium.webdriver import ActionChains  # noqa: E402
from selenium.webdriver.common.actions.action_builder import ActionBuilder  # noqa: E402
from selenium.webdriver.common.actions.pointer_input import PointerInput  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

__all__ = ["ActionChains", "By", "Keys", "Session"]

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
MISSING = not (BROWSER and DRIVER)
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
)  # fmt: skip
PHONE = {"width": 390, "height": 780, "pixelRatio": 2.0, "touch": True}


class Session:
    """One browser window; `given` holds the answers by trial."""

    def __init__(self, folder: Path, phone: bool = False) -> None:
        if MISSING:
            assert not NEEDED, "DREAMSIM_GUIDANCE_NEEDS_BROWSER=1, but chromium or chromedriver is not installed"
            pytest.skip("needs chromium: apt-get install chromium chromium-driver")
        os.environ.update(SE_OFFLINE="true", SE_AVOID_STATS="true")  # selenium's manager must not look for drivers
        self.downloads = folder / "downloads"
        self.downloads.mkdir(parents=True)
        options = webdriver.ChromeOptions()
        options.binary_location = BROWSER
        for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}", "--window-size=1280,900"):
            options.add_argument(flag)
        options.add_experimental_option("prefs", {"download.default_directory": str(self.downloads)})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        if phone:
            options.add_experimental_option("mobileEmulation", {"deviceMetrics": PHONE})
        self.phone = phone
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        self.given: dict[str, str] = {}

    def run(self, script: str) -> Any:
        return self.driver.execute_script(f"return {script}")

    def until(self, holds: Callable[[], Any], what: str) -> Any:
        end = time.monotonic() + 20
        while not (value := holds()):
            assert time.monotonic() < end, (
                f"{what} did not happen; the page is at {self.run('{...document.body.dataset}')}; "
                f"the browser says: {self.driver.get_log('browser')}"
            )
            time.sleep(0.02)
        return value

    def state(self, state: str) -> None:
        self.until(lambda: self.run("document.body.dataset.state") == state, f"the state '{state}'")

    def click(self, where: str) -> None:
        element = self.driver.find_element(By.CSS_SELECTOR, where)
        if not self.phone:
            element.click()
            return
        builder = ActionBuilder(self.driver, mouse=PointerInput("touch", "finger"))
        builder.pointer_action.move_to(element).pointer_down().pointer_up()
        builder.perform()

    def press(self, *keys: str) -> None:
        self.driver.find_element(By.TAG_NAME, "body").send_keys(*keys)

    def begin(self, address: str) -> None:
        self.driver.get(address)
        self.state("start")
        self.click("#begin button")

    def asked(self, trial: str) -> None:
        """Wait until the page asks this trial, and then for the shortest time in which a person could answer."""
        self.until(
            lambda: self.run("[document.body.dataset.state, document.body.dataset.trial].join()") == f"asking,{trial}",
            f"trial {trial}",
        )
        if self.run("two"):
            time.sleep(0.22)

    def answer(self, trial: str, side: int, choices: tuple[str, str], key: str | None = None) -> None:
        self.asked(trial)
        if key is None:
            self.click(f"[data-choice='{side}']")
        else:
            self.press(key)
        self.given[trial] = choices[side]

    def download(self, kind: str, among: str = "#end") -> Path:
        before = set(self.downloads.iterdir())
        self.click(f"{among} [data-download={kind}]")

        def complete() -> list[Path]:  # Chromium reserves the name with an empty file, which the complete one replaces
            new = set(self.downloads.iterdir()) - before
            return [file for file in new if file.suffix == f".{kind}" and file.stat().st_size > 0]

        return self.until(complete, f"a download of {kind}")[0]

    def close(self) -> None:
        problems = [entry for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        self.driver.quit()
        assert problems == []

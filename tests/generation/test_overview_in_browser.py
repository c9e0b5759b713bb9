"""The overview of generated triplets in a real Chromium, wide and narrow."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image as PILImage
from study.browser import Session

from dreamsim_guidance.generation.overview import write_overview
from dreamsim_guidance.generation.plan import Plan, PlannedModel, Screen
from dreamsim_guidance.generation.screening import Measured, Screening

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # selenium's own sockets


def test_the_overview_fits_wide_and_narrow_windows(tmp_path: Path) -> None:
    plan = Plan((PlannedModel("/a/long/path/" + "of_a_folder_of_models" * 5),), ("cat", "a" * 300))
    triplets = tuple(Measured(triplet, "seed", (0.1, 0.2, 0.3), None) for triplet in plan.triplets())
    for file in (file for measured in triplets for file in measured.triplet.files):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        PILImage.new("RGB", (64, 64), "teal").save(tmp_path / file)
    write_overview(tmp_path, plan, Screening("pocket", Screen(), triplets, ()))
    session = Session(tmp_path / "browser")
    try:
        for width in (1280, 360, 320):
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
            session.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            session.driver.get((tmp_path / "index.html").as_uri())
            assert session.run("document.documentElement.scrollWidth") <= width
            assert session.run("document.images.length") == 6
    finally:
        session.close()

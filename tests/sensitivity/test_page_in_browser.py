"""The page in a real Chromium, wide and narrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sensitivity import known_metrics as known
from study.browser import Session

from dreamsim_guidance.metric.backbones import BranchConfig
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.sensitivity import Analysis, sensitivity

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # selenium's own sockets


def test_the_page_fits_wide_and_narrow_windows(tmp_path: Path) -> None:
    torch.manual_seed(0)
    overrides = {"depth": 2, "embed_dim": 48, "num_heads": 3, "patch_size": 8}
    tiny = DreamSim(
        [BranchConfig("tiny", "vit_base_patch16_224", image_size=32, feature="cls", overrides=overrides)],
        pretrained=False,
    )
    metrics: dict[str, Any] = {"tiny": tiny, "a/rather/long/path/to/the/folder/of/a/run": known.mean_colour}
    analysis = Analysis(scenes=4, triplets=10, pictures=4, size=64, resamples=100)
    result = sensitivity(metrics, analysis, tmp_path / "out", progress=False)
    session = Session(tmp_path / "browser")
    try:
        for width in (1280, 400):
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
            session.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            session.driver.get((tmp_path / "out/sensitivity.html").as_uri())
            assert session.run("document.documentElement.scrollWidth") <= width
            pictures = session.run("[...document.images].map(i => i.complete && i.naturalWidth > 0)")
            assert all(pictures) and len(pictures) == 5 + len(result.overlays())
            text = session.run("document.body.innerText")
            assert "Foreground against background" in text and "not available" in text and "NaN" not in text
        assert not [entry for entry in session.driver.get_log("browser") if entry["level"] == "SEVERE"]
    finally:
        session.close()

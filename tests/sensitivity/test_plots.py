"""Plots stay readable with many metrics."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from dreamsim_guidance.sensitivity.plots import _legend, _legend_height, _style


@pytest.mark.parametrize("width", [4.3, 7.2, 9.3])
@pytest.mark.parametrize("name", ["ssim", "a/rather/long/path/to/the/folder/of/a/run"])
def test_the_legend_fits_into_the_plot(width: float, name: str) -> None:
    names = [f"{name}{i}" for i in range(10)]
    height = 1 + _legend_height(names, width)
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.subplots()
    _legend(figure, names, width)
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert np.all(box.min >= 0) and box.x1 <= width * figure.dpi and box.height <= (height - 0.5) * figure.dpi


def test_sixteen_metrics_look_different() -> None:
    assert len({_style(place) for place in range(16)}) == 16

"""Draw distance_map.png: a photograph, the same with a part of another one, and where the maps of real towers see it.

python docs/pictures/draw_distance_map.py             # some seconds; needs the extra photographs
"""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dreamsim_guidance import DreamSim
from dreamsim_guidance.data.photographs import photograph
from dreamsim_guidance.preprocess import resize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=Path(__file__).parent / "distance_map.png")
    arguments = parser.parse_args()
    metric = DreamSim("photographs_spatial")
    first, other = (resize(photograph(name), (224, 224)).clamp(0, 1) for name in ("chelsea", "coffee"))
    second = first.clone()
    second[..., 120:184, 140:204] = other[..., 60:124, 80:144]
    places = metric.distance_map(first, second)[0]

    figure = Figure(figsize=(6.6, 2.3), dpi=80, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3, width_ratios=[1, 1, 1.2])
    for axis, picture, title in zip(axes, (first, second), ("one image", "another"), strict=False):
        axis.imshow(picture[0].permute(1, 2, 0).numpy(), interpolation="nearest")
        axis.set_title(title, fontsize=9)
    shown = axes[2].imshow(places.numpy(), cmap="magma", vmin=0, interpolation="nearest")
    axes[2].set_title("distance map", fontsize=9)
    figure.colorbar(shown, ax=axes[2])
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
    canvas.print_png(arguments.to)
    print(f"{arguments.to}: {tuple(places.shape)}, from {float(places.min()):.3f} to {float(places.max()):.3f}")


if __name__ == "__main__":
    main()

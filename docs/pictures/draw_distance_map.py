"""Draw distance_map.png: two scenes that differ in one thing, and where the pocket ensemble's DINO-like tower sees it.

    python docs/pictures/draw_distance_map.py             # a second

The published patch variants have 16 x 16 places; this tower of 64 pixels has 8 x 8.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dreamsim_guidance import Branch, DreamSim
from dreamsim_guidance.data import draw, pocket_scene


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene", type=int, default=0)
    parser.add_argument("--to", type=Path, default=Path(__file__).parent / "distance_map.png")
    arguments = parser.parse_args()
    tower = DreamSim("pocket", baseline=True).ensemble.branches[0]
    with_tokens = Branch(replace(tower.config, feature="cls_patch"))  # the same weights, read at every place
    with_tokens.load_state_dict(tower.state_dict())
    metric = DreamSim([with_tokens])

    first = draw(pocket_scene(arguments.scene, "test"), 64)
    second = first.clone()
    second[..., 36:60, 36:60] = draw(pocket_scene(arguments.scene + 1, "test"), 64)[..., 36:60, 36:60]
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

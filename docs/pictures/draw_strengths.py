"""Draw strengths.png: samples of the pocket pixel model from the same noise, at rising strengths of MPGD.

python docs/pictures/draw_strengths.py             # about a minute on one core
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from dreamsim_guidance import MPGD, DreamSim, guide
from dreamsim_guidance.data import draw, pocket_scene
from dreamsim_guidance.pocket import load_pocket


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.0, 0.005, 0.01, 0.03, 0.1])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--scene", type=int, default=2)
    parser.add_argument("--to", type=Path, default=Path(__file__).parent / "strengths.png")
    arguments = parser.parse_args()
    pipe, metric = load_pocket("pixels"), DreamSim("pocket")
    reference = draw(pocket_scene(arguments.scene, "test"), 32)

    rows: list[tuple[str, Tensor]] = []
    for strength in arguments.strengths:
        noise = [torch.Generator().manual_seed(seed) for seed in range(arguments.n)]
        with guide(pipe, metric.target(reference), MPGD(strength)) as log:
            images = pipe(arguments.n, noise, num_inference_steps=arguments.steps, output_type="np").images
        mean = sum(log.distance) / len(log.distance)
        rows.append((f"strength {strength:g}\ndistance {mean:.3f}", torch.from_numpy(images).permute(0, 3, 1, 2)))

    figure = Figure(figsize=(1.0 * arguments.n + 2.6, 1.0 * len(rows)), dpi=80, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), arguments.n + 1, squeeze=False)
    for line, (label, images) in zip(axes, rows, strict=True):
        for axis, picture in zip(line, [reference[0], *images], strict=True):
            axis.imshow(picture.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    axes[0][0].set_title("reference", fontsize=9)
    canvas.print_png(arguments.to)
    print(arguments.to, "; ".join(label.replace("\n", ", ") for label, _ in rows))


if __name__ == "__main__":
    main()

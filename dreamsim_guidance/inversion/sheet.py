"""Pictures of an inversion beside each other, with curves of the way there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from dreamsim_guidance.files.atomic import writing
from dreamsim_guidance.preprocess import resize
from dreamsim_guidance.types import AnyImage

__all__ = ["draw", "with_shorter_side"]


def with_shorter_side(image: AnyImage, size: int, multiple: int = 1) -> AnyImage:
    """The image resized to `size` on its shorter side, in its aspect ratio up to sides that are multiples of a number."""
    height, width = image.shape[-2:]
    scale = size / min(height, width) / multiple
    return resize(image, (multiple * max(1, round(height * scale)), multiple * max(1, round(width * scale))))


def draw(
    file: Path,
    pictures: Mapping[str, AnyImage],
    curves: Mapping[str, Float[Tensor, " points"]],
    title: str,
    x_label: str = "step",
    caption: str = "",
) -> None:
    """Write the first image of every batch under its title, and the curves, on a logarithmic scale, to the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * len(pictures) + 3, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(pictures) + 1, width_ratios=[*(1 for _ in pictures), 1.25])
    for axis, (name, picture) in zip(axes, pictures.items(), strict=False):
        axis.imshow(picture[0].detach().permute(1, 2, 0).float().cpu().clamp(0, 1).numpy(), interpolation="nearest")
        axis.set_title(name, fontsize=10)
        axis.set_axis_off()
    for name, values in curves.items():
        axes[-1].plot(values.cpu().numpy(), label=name)
    axes[-1].set_yscale("log")
    axes[-1].set_xlabel(x_label)
    axes[-1].set_title(title, fontsize=10)
    axes[-1].legend(fontsize=8)
    if caption:
        figure.supxlabel(caption, fontsize=9)
    with writing(file) as temporary:
        figure.savefig(temporary, dpi=120)

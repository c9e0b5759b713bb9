"""Foreground against background: which decisions a metric keeps when it sees only the one or only the other.

Every triplet is judged three times: as it is, with the foreground kept and the rest filled, and with the background kept and
the foreground filled. A decision counts as kept (1) if the same candidate is nearer, as lost (0) if the other one is, and 1/2
if both are equally far; triplets on which the metric takes no decision in the first place are left out. Chance is 1/2.

The background is kept outside the foreground of all three pictures of a triplet together: the hole has one form in all three,
so that it tells nothing about the objects. The filling never contains what was removed:

    grey    1/2 everywhere
    mean    the mean colour of what is kept
    blur    what is kept, blurred into the hole: G * (m x) / G * m, with a Gaussian G of a tenth of the shorter side
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

from dreamsim_guidance.data.judgments import Judgments
from dreamsim_guidance.data.pictures import decode
from dreamsim_guidance.evaluation.statistics.intervals import Interval
from dreamsim_guidance.sensitivity.drawn_pictures import write_picture
from dreamsim_guidance.sensitivity.saliency import image_of
from dreamsim_guidance.sensitivity.summaries import Bootstrap, decisions, mean

__all__ = ["FILLS", "Fill", "MaskedDecisions", "MaskedPictures", "fill_outside", "mask_pictures", "masked_decisions"]

Fill = Literal["grey", "mean", "blur"]
FILLS: tuple[Fill, ...] = get_args(Fill)

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class MaskedPictures:
    """Files of the triplets, each condition as pairs: reference and a of every triplet, then reference and b.

    covered: the mean share of a picture that is foreground; covered_together: of the three pictures of a triplet together.
    """

    foreground: list[tuple[Path, Path]]
    background: list[tuple[Path, Path]]
    covered: float
    covered_together: float


@dataclass(frozen=True)
class MaskedDecisions:
    """The share of a metric's decisions that stay with the foreground or the background alone, and the difference of both."""

    foreground: Interval
    background: Interval
    difference: Interval
    decided: float
    """The share of the triplets on which the metric takes a decision."""


def mask_pictures(
    judgments: Judgments, mask_of: Callable[[Path], Mask], fill: Fill, folder: Path, progress: bool = True
) -> MaskedPictures:
    """Write the pictures of all triplets with the one or the other part filled.

    mask_of: from a picture to its foreground, `(h, w)` of the picture's size.
    """
    pictures = list(judgments.images)
    masks: dict[int, Mask] = {}
    foregrounds: list[Path] = []
    for i, file in enumerate(tqdm(pictures, desc="masking", unit="picture", disable=not progress)):
        image = image_of(decode(file))
        masks[i] = mask_of(file)
        foregrounds.append(folder / f"foreground_{i:05d}.png")
        write_picture(fill_outside(image, masks[i], fill), foregrounds[i])
    columns = np.stack([judgments.reference, judgments.a, judgments.b], axis=1)
    rows: list[list[Path]] = []
    hidden = []
    for n, triplet in enumerate(tqdm(columns.tolist(), desc="masking", unit="triplet", disable=not progress)):
        rows.append([])
        for i in triplet:
            together = np.any([_resized(masks[j], masks[i].shape) for j in triplet], axis=0)
            hidden.append(together.mean())
            file = folder / f"background_{n:05d}_{i:05d}.png"
            write_picture(fill_outside(image_of(decode(pictures[i])), ~together, fill), file)
            rows[-1].append(file)
    return MaskedPictures(
        [(foregrounds[r], foregrounds[c]) for column in (1, 2) for r, c in columns[:, [0, column]].tolist()],
        [(row[0], row[column]) for column in (1, 2) for row in rows],
        float(np.mean([mask.mean() for mask in masks.values()])),
        float(np.mean(hidden)),
    )


def fill_outside(image: torch.Tensor, kept: Mask, fill: Fill) -> torch.Tensor:
    """The picture `(1, 3, h, w)` with everything outside `kept`, `(h, w)`, filled; grey if nothing is kept."""
    pixels = image[0].double().numpy()
    if fill == "grey" or not kept.any():
        filling = np.full_like(pixels, 0.5)
    elif fill == "mean":
        filling = np.broadcast_to(pixels[:, kept].mean(1)[:, None, None], pixels.shape)
    else:
        sigma = min(kept.shape) / 10
        weight = gaussian_filter(kept.astype(np.float64), sigma, mode="nearest")
        blurred = np.stack([gaussian_filter(channel * kept, sigma, mode="nearest") for channel in pixels])
        far = weight < 1e-6
        filling = blurred / np.where(far, 1.0, weight)
        filling = np.where(far, pixels[:, kept].mean(1)[:, None, None], filling)
    return torch.from_numpy(np.where(kept, pixels, filling).astype(np.float32))[None]


def masked_decisions(
    whole: NDArray[np.float64],
    foreground: NDArray[np.float64],
    background: NDArray[np.float64],
    reference: NDArray[np.int64],
    bootstrap: Bootstrap,
) -> MaskedDecisions:
    """Compare decisions. The distances are those to all a, then to all b; intervals resample references."""
    kept = {name: kept_decisions(whole, part) for name, part in (("f", foreground), ("b", background))}
    decided = ~np.isnan(kept["f"])
    return MaskedDecisions(
        mean(kept["f"], reference, bootstrap),
        mean(kept["b"], reference, bootstrap),
        mean(kept["f"] - kept["b"], reference, bootstrap),
        float(decided.mean()),
    )


def kept_decisions(whole: NDArray[np.float64], masked: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 for a decision that stays, 0 for one that turns, 1/2 for one that becomes a tie; NaN where there was none."""
    before, after = (decisions(distances, float(np.abs(whole).mean())) for distances in (whole, masked))
    return np.where(before == 0, np.nan, (1 + before * after) / 2)


def _resized(mask: Mask, shape: tuple[int, ...]) -> Mask:
    if mask.shape == shape:
        return mask
    height, width = shape
    return np.asarray(PILImage.fromarray(mask).resize((width, height), PILImage.Resampling.NEAREST), dtype=bool)

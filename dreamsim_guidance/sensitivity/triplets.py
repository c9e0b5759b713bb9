"""Triplets for the analysis with what belongs to their pictures: foreground, depth and category."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dreamsim_guidance.data.judgments import Judgments
from dreamsim_guidance.data.pictures import decode
from dreamsim_guidance.data.readers.sets import read_judgments, recognise
from dreamsim_guidance.files.names import printable
from dreamsim_guidance.sensitivity.companions import companion_files, read_categories, read_grey
from dreamsim_guidance.sensitivity.saliency import Saliency, border_contrast, foreground, image_of

__all__ = ["TripletSource", "read_triplets"]

_LEAST = 10


@dataclass(frozen=True)
class TripletSource:
    """Triplets, the function that gives a picture's foreground `(h, w)`, and what else is known of the pictures.

    depth: the depth map of each picture, categories: its category; None where there are none.
    fact: a phrase about the triplets; foreground: another about where the foreground comes from.
    drawn_scenes: whether the pictures are drawn scenes.
    """

    judgments: Judgments
    mask_of: Callable[[Path], NDArray[np.bool_]]
    depth: dict[Path, Path] | None
    categories: dict[Path, str] | None
    fact: str
    foreground: str
    drawn_scenes: bool = False

    @classmethod
    def drawn(
        cls, judgments: Judgments, masks: dict[Path, Path], categories: dict[Path, str], saliency: Saliency | None
    ) -> TripletSource:
        """Triplets of drawn scenes, whose masks are exact unless a saliency function is given."""
        mask_of = partial(_mask_in_file, masks) if saliency is None else partial(_mask_by_saliency, saliency)
        how = "by the exact masks of the drawing" if saliency is None else "by a saliency function"
        fact = f"triplets: {len(judgments)} of drawn scenes; category: the shape of the objects"
        return cls(judgments, mask_of, None, categories, fact, how, drawn_scenes=True)

    @property
    def pair(self) -> tuple[Path, Path]:
        """The first reference and its first candidate."""
        images, data = self.judgments.images, self.judgments
        return images[data.reference[0]], images[data.a[0]]

    def robustness_pictures(self, count: int, seed: int) -> list[Path] | None:
        """Up to `count` pictures, drawn with the seed; None for drawn scenes, which can be drawn larger."""
        if self.drawn_scenes:
            return None
        files = self.judgments.images
        if len(files) < 4:
            raise ValueError(f"robustness needs at least 4 pictures, and these triplets show {len(files)}.")
        return [files[i] for i in np.sort(np.random.default_rng(seed).permutation(len(files))[:count])]


def read_triplets(
    data: Path | Judgments,
    kind: str | None,
    split: str | None,
    count: int,
    seed: int,
    masks: Path | None,
    saliency: Saliency | None,
    depth: Path | None,
    categories: Path | None,
) -> TripletSource:
    """Read triplets, however few votes they have, or take `Judgments`, and look up what belongs to their pictures.

    Raises ValueError for other sets than triplets and for fewer than 10 triplets, and as `read_judgments`, `companion_files`
    and `read_categories`.
    """
    root: Path | None = None
    if isinstance(data, Judgments):
        judgments, name = data, f"{len(data)} triplets"
    else:
        # votes are not looked at, so that the filter of NIGHTS (six of them) has no meaning here
        least = 1 if (kind or recognise(data)) == "nights" else None
        judgments = read_judgments(data, kind, split, least)  # type: ignore[assignment]
        root, name = (data if data.is_dir() else data.parent), printable(data)
    if not isinstance(judgments, Judgments):
        raise ValueError(f"the analysis needs triplets, and '{name}' holds none; give a set such as NIGHTS.")
    if len(judgments) < _LEAST:
        raise ValueError(f"the analysis needs at least {_LEAST} triplets, and '{name}' has {len(judgments)}.")
    chosen = judgments.sample(count, seed)
    mask_files = None if masks is None else companion_files(masks, chosen.images, root, "mask")
    depth_files = None if depth is None else companion_files(depth, chosen.images, root, "depth")
    table = None if categories is None else read_categories(categories, chosen.images, root)
    if mask_files is not None:
        mask_of, how = partial(_mask_in_file, mask_files), f"by the masks in {printable(masks or '')}"
    else:
        mask_of = partial(_mask_by_saliency, saliency or border_contrast)
        how = "by a saliency function" if saliency else "what stands out from the border's colours"
    fact = f"triplets: {len(chosen)} of {name}, {len(chosen.images)} pictures"
    return TripletSource(chosen, mask_of, depth_files, table, fact, how)


def _mask_in_file(masks: dict[Path, Path], picture: Path) -> NDArray[np.bool_]:
    _, height, width = decode(picture).shape
    return read_grey(masks[picture], picture, (height, width)) > 0.5


def _mask_by_saliency(saliency: Saliency, picture: Path) -> NDArray[np.bool_]:
    return foreground(saliency, image_of(decode(picture)))

"""Everything that an analysis compares, made before the first metric runs: what does not fit is refused before long work."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dreamsim_guidance.data.scenes.drawing import draw
from dreamsim_guidance.data.scenes.scene import sample_scene, scene_generator
from dreamsim_guidance.sensitivity.drawn_pictures import FactorPictures, draw_factor_pictures, draw_triplet_pictures
from dreamsim_guidance.sensitivity.features import feature_vectors
from dreamsim_guidance.sensitivity.masking import MaskedPictures, mask_pictures
from dreamsim_guidance.sensitivity.robustness import DistortedPictures, distort_pictures
from dreamsim_guidance.sensitivity.saliency import foreground
from dreamsim_guidance.sensitivity.settings import Analysis
from dreamsim_guidance.sensitivity.triplets import TripletSource, read_triplets

__all__ = ["Prepared", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """The pictures and tables of each part; None for a part that was not asked for.

    triplets: for masks and features. vectors: the features of their pictures. pair: for the maps. facts: see `Sensitivity`.
    """

    triplets: TripletSource | None = None
    factors: FactorPictures | None = None
    masked: MaskedPictures | None = None
    vectors: dict[str, NDArray[np.float64]] | None = None
    distortions: DistortedPictures | None = None
    pair: tuple[Path, Path] | None = None
    facts: list[str] = field(default_factory=list)


def prepare(analysis: Analysis, folder: Path, progress: bool = True) -> Prepared:
    """Read, draw, mask and distort the pictures of an analysis; files that are made lie in `folder`.

    Raises as `read_triplets`, `foreground`, `read_grey`, and FileNotFoundError for a missing picture of the pair.
    """
    parts = set(analysis.parts)
    triplets = _triplets(analysis, folder, progress)
    facts = [] if triplets is None else [triplets.fact]
    masked = vectors = factors = distortions = pair = None
    if triplets is not None and "masks" in parts:
        masked = mask_pictures(triplets.judgments, triplets.mask_of, analysis.fill, folder, progress)
        facts.append(
            f"masks: foreground, {triplets.foreground}, is {100 * masked.covered:.0f} % of a picture, with that of the other "
            f"two pictures of its triplet {100 * masked.covered_together:.0f} %; filling: {analysis.fill}"
        )
    if triplets is not None and "features" in parts:
        vectors = feature_vectors(triplets.judgments.images, triplets.depth, triplets.categories)
    if "factors" in parts:
        factors = draw_factor_pictures(folder, analysis.scenes, analysis.size, progress)
        facts.append(f"factors: {analysis.scenes} drawn scenes of {analysis.size} x {analysis.size} pixels")
    if "robustness" in parts:
        files = None if triplets is None else triplets.robustness_pictures(analysis.pictures, analysis.seed)
        distortions = distort_pictures(analysis.pictures if files is None else files, folder, analysis.size, progress)
        facts.append(
            f"robustness: {len(distortions.references)} {'drawn scenes' if files is None else 'pictures'}, windows of "
            f"{analysis.size} x {analysis.size} pixels"
        )
    if "maps" in parts:
        pair = analysis.pair or (None if triplets is None else triplets.pair)
        assert pair is not None
        facts.append(f"maps: {pair[0].name} and {pair[1].name}")
    return Prepared(triplets, factors, masked, vectors, distortions, pair, facts)


def _triplets(analysis: Analysis, folder: Path, progress: bool) -> TripletSource | None:
    """The triplets that the parts need; None if they need none."""
    for file in analysis.pair or ():
        if not file.is_file():
            raise FileNotFoundError(f"image not found: '{file}'; give two pictures for the maps.")
    needs = {"masks", "features"} | ({"maps"} if analysis.pair is None else set())
    needs |= {"robustness"} if analysis.data is not None else set()
    if not needs & set(analysis.parts):
        return None
    needs_masks, needs_features = ("masks" in analysis.parts), ("features" in analysis.parts)
    if analysis.data is None:
        if needs_masks and analysis.saliency is not None:  # tried once, before hundreds of scenes are drawn
            foreground(analysis.saliency, draw(sample_scene(scene_generator(0, "test")), analysis.size))
        count = analysis.triplets if needs_masks or needs_features else 1
        judgments, masks, categories = draw_triplet_pictures(folder, count, analysis.size, progress)
        return TripletSource.drawn(judgments, masks, categories, analysis.saliency)
    return read_triplets(
        analysis.data,
        analysis.kind,
        analysis.split,
        analysis.triplets,
        analysis.seed,
        masks=analysis.masks if needs_masks else None,
        saliency=analysis.saliency,
        depth=analysis.depth if needs_features else None,
        categories=analysis.categories if needs_features else None,
    )

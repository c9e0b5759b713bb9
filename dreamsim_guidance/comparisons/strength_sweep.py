"""What strength costs: closeness to the reference against faithfulness to the words and variety of the samples.

Words and reference say different things: the caption of one scene, the picture of another. Without guidance the samples
follow the words; the stronger the guidance, the more of them they give up. For each strength, over some such pairs:

    distance    the guide's, to the reference
    fidelity    share of the caption's factors that an independent classifier finds; for other models than the pocket one,
                CLIP's cosine of prompt and sample
    diversity   mean distance of two samples of one pair, on features that take no part

Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamsim_guidance.comparisons import guided_models
from dreamsim_guidance.comparisons.guided_cells import Cell, cell, diversity, held_out_scenes, joined, markdown
from dreamsim_guidance.comparisons.guided_judges import judges
from dreamsim_guidance.comparisons.guided_sampling import Sampler, method_of
from dreamsim_guidance.data.scenes.captions import caption
from dreamsim_guidance.evaluation.samples.contact_sheet import contact_sheet
from dreamsim_guidance.evaluation.samples.factor_agreement import factor_agreement
from dreamsim_guidance.evaluation.samples.scene_judge import load_judge
from dreamsim_guidance.files.atomic import writing
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.preprocess import load_image, save_image
from dreamsim_guidance.processes import default_device

__all__ = ["StrengthSweep"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StrengthSweep:
    """Everything that was decided about a sweep."""

    model: str = "pocket-latents"
    """As for `guide`; other models than the pocket one need prompts, references, and weights to judge by."""
    method: str = "mpgd"
    option: tuple[str, ...] = ()
    """Further fields of the method, as cap=0.2."""
    strengths: tuple[float, ...] = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    pairs: int = 8
    """Pairs of a caption and a reference, for the pocket model."""
    n: int = 8
    """Images of each pair and strength."""
    prompts: tuple[str, ...] = ()
    references: tuple[Path, ...] = ()
    """One for each prompt, for other models."""
    metric: str | None = None
    """The DreamSim that guides; by default pocket for the pocket model, else ensemble."""
    clip: str = "ViT-B-32/laion2b_s34b_b79k"
    """CLIP of open_clip that says how well a sample fits its prompt, name/weights; not for the pocket model."""
    feature: str = "dinov2_vitb14"
    """The DreamSim on whose embedding diversity is measured; not for the pocket model."""
    steps: int | None = None
    cfg: float | None = None
    size: int | None = None
    first: int = 0
    """Number of the first reference in the split of held-out scenes."""
    seed: int = 0
    batch: int | None = None
    device: str | None = None
    """cpu, cuda, ...; by default an accelerator if there is one."""
    dtype: str | None = None

    def __post_init__(self) -> None:
        for name in ("pairs", "n", "steps", "size", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if not self.strengths or any(not 0 <= value < math.inf for value in self.strengths):
            raise ValueError(f"strengths must be numbers of at least 0, got {self.strengths}.")
        if len(set(self.strengths)) < len(self.strengths):
            raise ValueError(f"every strength once, got {self.strengths}.")
        if len(self.prompts) != len(self.references):
            raise ValueError(
                f"one reference for each prompt is needed, got {len(self.prompts)} and {len(self.references)}."
            )

    def run(self, folder: Path) -> dict[str, Any]:
        """Sample what is missing in `folder`; write table.md, sweep.png and samples.png; return the rows."""
        device = self.device or default_device()
        model = guided_models.find(self.model, "words")
        if model.source == "pocket-pixels":
            raise ValueError("a sweep needs a model that takes words: pocket-latents, sd15, ..., or a folder.")
        if not (model.pocket or self.prompts):
            raise ValueError(f"{self.model} needs prompts and references, one for each: prompts=... references=...")
        pipe: Any = guided_models.load(model, device, self.dtype)
        prompts, references, fidelity, features = self._asked(model, device)
        metric = DreamSim(self.metric or ("pocket" if model.pocket else "ensemble"), device=device)
        rows = []
        size = self.size or model.size
        for strength in sorted(self.strengths):
            method = method_of(self.method, strength, self.option)
            cells = [
                cell(
                    folder / "cells" / f"{strength:g}" / f"{i:03}.safetensors",
                    Sampler(
                        pipe,
                        prompt,
                        steps=self.steps or model.steps,
                        cfg=model.cfg if self.cfg is None else self.cfg,
                        size=None if size is None else (size, size),
                    ),
                    range(self.seed + i * self.n, self.seed + (i + 1) * self.n),
                    metric.target(reference.to(device)),
                    method if strength > 0 else None,
                    judges([reference.to(device)], "mean", None, (), False, device),
                    self.batch or model.batch,
                )
                for i, (prompt, reference) in enumerate(zip(prompts, references, strict=True))
            ]
            for i, one in enumerate(cells):
                save_image(one.images[0], folder / "samples" / f"strength {strength:g}" / f"{i:03}.png")
            rows.append({"strength": strength, **_measured(cells, fidelity, features)})
            log.info("%s", {name: round(value, 4) for name, value in rows[-1].items()})
        for i, reference in enumerate(references):
            save_image(reference, folder / "samples" / "reference" / f"{i:03}.png")
        with writing(folder / "table.md") as temporary:
            temporary.write_text(markdown(rows), encoding="utf-8")
        names = ["reference", *(f"strength {row['strength']:g}" for row in rows)]
        with writing(folder / "samples.png") as temporary:
            contact_sheet({name: sorted((folder / "samples" / name).iterdir()) for name in names}, {}).save(temporary)
        _draw(rows, folder / "sweep.png", "factors of the caption" if model.pocket else "CLIP's cosine")
        return {"rows": rows, "prompts": list(prompts)}

    def _asked(
        self, model: guided_models.Model, device: str
    ) -> tuple[Sequence[str], list[Tensor], Callable[[int, Tensor], Tensor], Callable[[Tensor], Tensor]]:
        """Prompts, references, how well images fit prompt i, and the features of diversity."""
        if not model.pocket:
            embedding = DreamSim(self.feature, device=device)
            fits = _clip(self.clip, self.prompts, device)
            own = [load_image(path) for path in self.references]
            return self.prompts, own, fits, lambda images: embedding.directions(images.to(device)).cpu()
        judge = load_judge()
        # the caption of one scene with the picture of another
        scenes, _ = held_out_scenes(self.pairs, 8, self.first)
        _, pictures = held_out_scenes(self.pairs, 64, self.first + self.pairs)
        generator = torch.Generator().manual_seed(self.seed)
        words = [caption(scene, generator, keep=1.0) for scene in scenes]
        return (
            words,
            list(pictures.split(1)),
            lambda i, images: factor_agreement(images, scenes[i], judge),
            judge.features,
        )


def _measured(
    cells: Sequence[Cell], fidelity: Callable[[int, Tensor], Tensor], features: Callable[[Tensor], Tensor]
) -> dict[str, float]:
    with torch.no_grad():
        return {
            **{name: float(values.mean()) for name, values in joined(cells).distances.items()},
            "fidelity": sum(float(fidelity(i, one.images).mean()) for i, one in enumerate(cells)) / len(cells),
            "diversity": sum(diversity(features(one.images)) for one in cells) / len(cells),
            "seconds": sum(one.seconds for one in cells) / sum(len(one.images) for one in cells),
        }


def _clip(name: str, prompts: Sequence[str], device: str) -> Callable[[int, Tensor], Tensor]:
    """The cosine of images and prompt i. Downloads the weights."""
    import open_clip
    from torchvision.transforms.v2.functional import center_crop, normalize
    from torchvision.transforms.v2.functional import resize as shorter_side

    architecture, _, weights = name.partition("/")
    model, _, preprocess = open_clip.create_model_and_transforms(
        architecture, pretrained=weights or None, device=device
    )
    model.eval().requires_grad_(False)
    side = model.visual.image_size[0] if isinstance(model.visual.image_size, tuple) else model.visual.image_size
    words = model.encode_text(open_clip.get_tokenizer(architecture)(list(prompts)).to(device), normalize=True)
    mean, deviation = preprocess.transforms[-1].mean, preprocess.transforms[-1].std

    def fits(i: int, images: Tensor) -> Tensor:
        seen = center_crop(shorter_side(images.to(device), [side], antialias=True), [side, side])
        return (model.encode_image(normalize(seen, mean, deviation), normalize=True) * words[i]).sum(1).cpu()

    return fits


def _draw(rows: Sequence[dict[str, float]], file: Path, fidelity: str) -> None:
    """Fidelity and diversity over the distance, a point for each strength."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2)
    for axis, name, title in zip(axes, ("fidelity", "diversity"), (f"fidelity: {fidelity}", "diversity"), strict=True):
        axis.plot([row["distance"] for row in rows], [row[name] for row in rows], "o-")
        for row in rows:
            axis.annotate(
                f"{row['strength']:g}",
                (row["distance"], row[name]),
                textcoords="offset points",
                xytext=(4, 5),
                fontsize=8,
            )
        axis.set_xlabel("distance to the reference")
        axis.set_title(title, fontsize=10)
        axis.invert_xaxis()  # nearer is to the right
    figure.supylabel("numbers at the points: strength", fontsize=8)
    with writing(file) as temporary:
        figure.savefig(temporary, dpi=120)

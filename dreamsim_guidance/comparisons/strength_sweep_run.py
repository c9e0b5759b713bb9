"""The work of a sweep of strengths: sample every strength, measure it, and write the table and the pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamsim_guidance.comparisons.guided_cells import (
    GuidedCell,
    diversity,
    guided_cell,
    held_out_scenes,
    joined,
    write_table,
)
from dreamsim_guidance.comparisons.guided_judges import judges
from dreamsim_guidance.comparisons.strength_sweep import StrengthSweep
from dreamsim_guidance.data.scenes.captions import caption
from dreamsim_guidance.evaluation.samples.contact_sheet import contact_sheet
from dreamsim_guidance.evaluation.samples.factor_agreement import factor_agreement
from dreamsim_guidance.evaluation.samples.scene_judge import load_judge
from dreamsim_guidance.files.atomic import writing
from dreamsim_guidance.generation import named_models
from dreamsim_guidance.generation.sampling import Sampler, method_of
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.preprocess import load_image, save_image
from dreamsim_guidance.processes import default_device

__all__ = ["sweep"]

log = logging.getLogger(__name__)


def sweep(config: StrengthSweep, folder: Path) -> dict[str, Any]:
    """Carry out `StrengthSweep.run`: sample what `folder` does not hold yet, and write the table and the pictures there."""
    device = config.device or default_device()
    model = named_models.find(config.model, "words")
    if model.source == "pocket-pixels":
        raise ValueError("a sweep needs a model that takes words: pocket-latents, sd15, ..., or a folder.")
    if not (model.pocket or config.prompts):
        raise ValueError(f"{config.model} needs prompts and references, one for each: prompts=... references=...")
    pipe: Any = named_models.load(model, device, config.dtype)
    task = _pocket_task(config) if model.pocket else _task(config, device)
    metric = DreamSim(config.metric or ("pocket" if model.pocket else "ensemble"), device=device)
    rows = []
    size = config.size or model.size
    for strength in sorted(config.strengths):
        method = method_of(config.method, strength, config.option)
        cells = [
            guided_cell(
                folder / "cells" / f"{strength:g}" / f"{number:03}.safetensors",
                Sampler(
                    pipe,
                    prompt,
                    steps=config.steps or model.steps,
                    cfg=model.cfg if config.cfg is None else config.cfg,
                    size=None if size is None else (size, size),
                ),
                range(config.seed + number * config.n, config.seed + (number + 1) * config.n),
                metric.target(reference.to(device)),
                method if strength > 0 else None,
                judges([reference.to(device)], "mean", None, (), False, device),
                config.batch or model.batch,
            )
            for number, (prompt, reference) in enumerate(zip(task.prompts, task.references, strict=True))
        ]
        for number, cell in enumerate(cells):
            save_image(cell.images[0], folder / "samples" / f"strength {strength:g}" / f"{number:03}.png")
        rows.append({"strength": strength, **_measure(cells, task)})
        log.info("%s", {name: round(value, 4) for name, value in rows[-1].items()})
    for number, reference in enumerate(task.references):
        save_image(reference, folder / "samples" / "reference" / f"{number:03}.png")
    write_table(folder / "table.md", rows)
    names = ["reference", *(f"strength {row['strength']:g}" for row in rows)]
    with writing(folder / "samples.png") as temporary:
        contact_sheet({name: sorted((folder / "samples" / name).iterdir()) for name in names}, {}).save(temporary)
    _draw(rows, folder / "sweep.png", "factors of the caption" if model.pocket else "CLIP's cosine")
    return {"rows": rows, "prompts": list(task.prompts)}


@dataclass(frozen=True)
class _Task:
    """The prompts and references of a sweep, and how its samples are measured.

    references: one for each prompt.
    fidelity: from the number of a prompt and images `(b, 3, h, w)` to how well each fits the prompt, `(b,)`.
    features: from images to the embedding whose distances are the diversity.
    """

    prompts: Sequence[str]
    references: Sequence[Tensor]
    fidelity: Callable[[int, Tensor], Tensor]
    features: Callable[[Tensor], Tensor]


def _task(config: StrengthSweep, device: str) -> _Task:
    """The user's prompts and references, judged by CLIP and by another DreamSim's embedding."""
    embedding = DreamSim(config.feature, device=device)
    return _Task(
        config.prompts,
        [load_image(path) for path in config.references],
        _clip(config.clip, config.prompts, device),
        lambda images: embedding.directions(images.to(device)).cpu(),
    )


def _pocket_task(config: StrengthSweep) -> _Task:
    """The captions of held-out scenes, each with the picture of another scene."""
    judge = load_judge()
    scenes, _ = held_out_scenes(config.pairs, 8, config.first)
    _, pictures = held_out_scenes(config.pairs, 64, config.first + config.pairs)
    generator = torch.Generator().manual_seed(config.seed)
    return _Task(
        [caption(scene, generator, keep=1.0) for scene in scenes],
        pictures.split(1),
        lambda number, images: factor_agreement(images, scenes[number], judge),
        judge.features,
    )


def _measure(cells: Sequence[GuidedCell], task: _Task) -> dict[str, float]:
    with torch.no_grad():
        return {
            **{name: float(values.mean()) for name, values in joined(cells).distances.items()},
            "fidelity": sum(float(task.fidelity(i, cell.images).mean()) for i, cell in enumerate(cells)) / len(cells),
            "diversity": sum(diversity(task.features(cell.images)) for cell in cells) / len(cells),
            "seconds": sum(cell.seconds for cell in cells) / sum(len(cell.images) for cell in cells),
        }


def _clip(name: str, prompts: Sequence[str], device: str) -> Callable[[int, Tensor], Tensor]:
    """CLIP's cosine of images and a prompt, given by its number.

    name: architecture and weights of open_clip, for example "ViT-B-32/laion2b_s34b_b79k"; the weights are downloaded.
    """
    import open_clip
    from torchvision.transforms.v2.functional import center_crop, normalize
    from torchvision.transforms.v2.functional import resize as shorter_side

    architecture, _, weights = name.partition("/")
    model, _, preprocess = open_clip.create_model_and_transforms(
        architecture, pretrained=weights or None, device=device
    )
    model.eval().requires_grad_(False)
    side = model.visual.image_size[0] if isinstance(model.visual.image_size, tuple) else model.visual.image_size
    texts = model.encode_text(open_clip.get_tokenizer(architecture)(list(prompts)).to(device), normalize=True)
    mean, deviation = preprocess.transforms[-1].mean, preprocess.transforms[-1].std

    def cosine(number: int, images: Tensor) -> Tensor:
        squares = center_crop(shorter_side(images.to(device), [side], antialias=True), [side, side])
        return (model.encode_image(normalize(squares, mean, deviation), normalize=True) * texts[number]).sum(1).cpu()

    return cosine


def _draw(rows: Sequence[dict[str, float]], file: Path, fidelity: str) -> None:
    """Draw fidelity and diversity over the distance, one point for each strength."""
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

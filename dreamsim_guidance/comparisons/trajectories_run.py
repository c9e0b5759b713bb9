"""The work of comparing inversion methods: invert, sample again, edit, judge, and draw."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamsim_guidance.comparisons.trajectories import Trajectories
from dreamsim_guidance.data.photographs import photograph
from dreamsim_guidance.data.scenes.captions import caption
from dreamsim_guidance.data.scenes.drawing import draw
from dreamsim_guidance.data.scenes.pocket_scenes import POCKET_KINDS, pocket_scene
from dreamsim_guidance.data.scenes.scene import Scene
from dreamsim_guidance.evaluation.samples.contact_sheet import contact_sheet, some
from dreamsim_guidance.evaluation.samples.factor_agreement import agreement_by_factor
from dreamsim_guidance.files.atomic import write_json, writing
from dreamsim_guidance.files.tables import markdown_table
from dreamsim_guidance.generation import named_models
from dreamsim_guidance.generation.sampling import method_of
from dreamsim_guidance.guidance import guide
from dreamsim_guidance.inversion import Trajectory, invert_trajectory
from dreamsim_guidance.losses.pixel import psnr
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.preprocess import load_image, resize, save_image
from dreamsim_guidance.processes import default_device

__all__ = ["compare"]

log = logging.getLogger(__name__)

Figures = dict[str, list[float]]

_COLUMNS = {
    "residual": "worst residual",
    "psnr": "PSNR, dB",
    "dreamsim": "DreamSim",
    "changed": "edited factor",
    "others": "other factors",
}


def compare(config: Trajectories, folder: Path) -> dict[str, Any]:
    """Carry out `Trajectories.run`."""
    device = config.device or default_device()
    model = named_models.find(config.model)
    pipe = named_models.load(model, device, config.dtype)
    pipe.set_progress_bar_config(disable=True)
    task = _Task(config, model, device)
    metric = DreamSim(config.metric or ("pocket" if model.pocket else "ensemble"), device=device)
    target = metric.target(task.images)
    rows: dict[str, dict[str, Any]] = {}

    def add(name: str, sample: Callable[[], Tensor], **figures: Any) -> None:
        start = time.perf_counter()
        images = sample().detach().float()
        seconds = time.perf_counter() - start
        for number, image in enumerate(images):
            save_image(image[None], folder / name / f"{number:04}.png")
        with torch.no_grad():
            distances = target(images.to(task.images)).tolist()
        rows[name] = {
            "psnr": psnr(images, task.images).tolist(),
            "dreamsim": distances,
            "seconds": seconds,
            **task.judge(images),
            **figures,
        }
        log.info("%s: %s", name, {key: _mean(rows[name][key]) for key in ("psnr", "dreamsim")})

    add("target", lambda: task.images)
    trajectories: dict[str, Trajectory] = {}
    for method in config.methods:
        start = time.perf_counter()
        trajectory = trajectories[method] = invert_trajectory(
            pipe,
            task.images,
            prompt=task.prompts,
            method=method,
            evaluations=config.evaluations,
            guidance_scale=1.0,
            num_inference_steps=config.steps,
        )
        seconds = time.perf_counter() - start
        if "floor" not in rows:
            round_trip = trajectory.round_trip
            assert round_trip is not None
            add("floor", lambda images=round_trip: images)  # type: ignore[misc]
        again = trajectory.reconstruct()
        add(
            method,
            lambda images=again.images: images,  # type: ignore[misc]
            residual=trajectory.residuals.amax(1).tolist(),
            latent_error=again.latent_error.tolist(),
            evaluations=trajectory.evaluations,
            inversion_seconds=seconds,
        )
    _guided_rows(config, trajectory, task, target, add)
    columns = ["row", *_COLUMNS.values()]
    body = [[name, *(_mean(row.get(key)) for key in _COLUMNS)] for name, row in rows.items()]
    with writing(folder / "table.md") as temporary:
        Path(temporary).write_text(markdown_table(columns, body) + "\n", encoding="utf-8")
    details = {
        "rows": rows,
        "prompts": task.prompts,
        "edits": task.edits,
        "residuals": {method: result.residuals.tolist() for method, result in trajectories.items()},
    }
    write_json(folder / "trajectory.json", details)
    _draw(folder, rows, trajectories)
    return {name: {key: _mean(row.get(key)) for key in _COLUMNS} for name, row in rows.items()}


def _guided_rows(
    config: Trajectories, trajectory: Trajectory, task: _Task, target: Any, add: Callable[..., None]
) -> None:
    """Reconstructions with classifier-free guidance, and edits."""
    edited = {"prompt": task.edits}
    if task.edits:
        add("edit, guidance 1", lambda: trajectory.edit(**edited))
    if config.cfg > 1:
        scale = f"guidance {config.cfg:g}"
        add(scale, lambda: trajectory.edit(guidance_scale=config.cfg))
        negative = trajectory.negative_prompt(config.cfg)
        add(f"{scale}, negative prompt", negative.edit)
        if config.null_text:
            null = trajectory.null_text(config.cfg, inner_steps=config.inner_steps, lr=config.lr)
            add(f"{scale}, null text", null.edit, evaluations=null.evaluations)
            if task.edits:
                add("edit, null text", lambda: null.edit(**edited))
        trajectory = negative
        if task.edits:
            add("edit, negative prompt", lambda: negative.edit(**edited))
    if task.edits:
        method = method_of(config.method, config.strength)
        method = method if config.strength is not None else method.suited_to(trajectory.pipe)
        with guide(trajectory.pipe, target, method):
            add(f"edit, guided by {config.method}", lambda: trajectory.edit(**edited))


class _Task:
    """Images `(n, 3, h, w)` with their prompts and edits, and the judge of scenes."""

    def __init__(self, config: Trajectories, model: named_models.Model, device: str) -> None:
        self.scenes: list[Scene] = []
        self.edited: list[Scene] = []
        self.factor = config.factor
        if model.pocket:
            self.scenes = [pocket_scene(config.first + k, "test") for k in range(config.n)]
            self.edited = [_changed(scene, config.factor) for scene in self.scenes]
            self.images = torch.cat([draw(scene, 64) for scene in self.scenes]).to(device)
            self.prompts, self.edits = _captions(self.scenes), _captions(self.edited)
            return
        pictures = [load_image(path) for path in config.images] or [photograph("chelsea")]
        side = config.size or model.size or 512
        self.images = torch.cat([resize(_square(picture), (side, side)) for picture in pictures]).to(device)
        self.prompts = list(config.prompts) or [""] * len(pictures)
        self.edits = list(config.edits)

    def judge(self, images: Tensor) -> Figures:
        """Whether the edited factor has its new value, and the share of the others that kept theirs, for each image."""
        if not self.scenes:
            return {}
        changed = agreement_by_factor(images.cpu(), self.edited)[self.factor]
        others = agreement_by_factor(images.cpu(), self.scenes)
        kept = torch.stack([same for name, same in others.items() if name != self.factor]).float().mean(0)
        return {"changed": changed.float().tolist(), "others": kept.tolist()}


def _captions(scenes: Sequence[Scene]) -> list[str]:
    """The full caption of each scene, with the same choice of words for a scene and its edit."""
    return [caption(scene, torch.Generator().manual_seed(number), keep=1.0) for number, scene in enumerate(scenes)]


def _changed(scene: Scene, factor: str) -> Scene:
    """The scene with the next value of a factor, or with the complementary hue of an object that is as colourful as can be."""
    if factor == "colour":
        return replace(scene, colour=((scene.colour[0] + 0.5) % 1, 0.9, 0.9))
    kinds: Sequence[Any] = POCKET_KINDS[factor]
    return replace(scene, **{factor: kinds[(kinds.index(getattr(scene, factor)) + 1) % len(kinds)]})


def _square(image: Tensor) -> Tensor:
    """The square in the middle of an image."""
    height, width = image.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[..., top : top + side, left : left + side]


def _mean(values: Sequence[float] | None) -> float | None:
    return None if values is None else sum(values) / len(values)


def _draw(folder: Path, rows: dict[str, dict[str, Any]], trajectories: dict[str, Trajectory]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = some(len(rows["target"]["psnr"]), 8)
    files = {name: [folder / name / f"{k:04}.png" for k in shown] for name in rows}
    notes = {name: [f"DreamSim {rows[name]['dreamsim'][k]:.3f}" for k in shown] for name in rows if name != "target"}
    with writing(folder / "trajectory.png") as temporary:
        contact_sheet(files, notes).save(temporary, format="PNG")
    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for method, trajectory in trajectories.items():
        axis.plot(range(1, trajectory.residuals.shape[1] + 1), trajectory.residuals.amax(0).cpu(), label=method)
    axis.set_yscale("log")
    axis.set_xlabel("step, noisiest first")
    axis.set_ylabel("relative residual, worst image")
    axis.legend()
    with writing(folder / "residuals.png") as temporary:
        figure.savefig(temporary, dpi=120, format="png")

"""The work of a guided sheet: sample both rows, write the pictures and the numbers."""

from __future__ import annotations

import inspect
import json
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dreamsim_guidance.comparisons.guided_judges import JudgeFunction, judges
from dreamsim_guidance.evaluation.samples.contact_sheet import contact_sheet, some
from dreamsim_guidance.files.atomic import write_json, writing
from dreamsim_guidance.generation import named_models
from dreamsim_guidance.generation.sampling import Sampler, log_of, merged, method_of
from dreamsim_guidance.guidance import Log, Method
from dreamsim_guidance.loss import Loss
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.preprocess import load_image, resize, save_image
from dreamsim_guidance.processes import default_device
from dreamsim_guidance.types import Image

if TYPE_CHECKING:
    from dreamsim_guidance.comparisons.guided_sheet import GuidedSheet

__all__ = ["make", "pocket_reference"]

log = logging.getLogger(__name__)

_COLUMNS = 8
"""Images of each row on the sheet; all are in the folders."""


def make(config: GuidedSheet, folder: Path) -> dict[str, Any]:
    """Carry out `GuidedSheet.run`: write the sheet, the distances, the log and the images into `folder`."""
    model = named_models.find(config.model, config.prompt)
    method = method_of(config.method, config.strength, config.option)
    device = config.device or default_device()
    # files and metrics first, so that a mistake in them is reported before a large model is loaded
    references = [load_image(path) for path in config.reference] or [_default_reference(model)]
    mask = None if config.mask is None else load_image(config.mask).mean(1, keepdim=True)
    init = None if config.init is None else load_image(config.init)
    loss, judged = _measures(config, references, mask, model, device)
    pipe = named_models.load(model, device, config.dtype, config.offload, config.scheduler)
    if config.strength is None:
        method = method.suited_to(pipe)
    vae = named_models.tiny_autoencoder(model, pipe, config.vae, device) if config.taesd or config.vae else None
    sampler = _sampler(config, method, pipe, model, init)
    for number, reference in enumerate(references):
        save_image(reference, folder / "reference" / f"{number:04}.png")
    batch = config.batch or model.batch
    log.info("%s, %s, %d images on %s, %d at once", type(pipe).__name__, method, config.n, device, batch)
    options: dict[str, Any] = {
        "judges": judged,
        "window": config.window,
        "every": config.every,
        "until": config.until,
        "views": config.views,
        "vae": vae,
        "checkpointing": config.checkpointing,
    }
    logs, seconds = {}, {}
    for row, how in (("guided", method), ("unguided", None)):  # guided first: a wrong option fails at once
        batches = [
            _batch(folder / row, sampler, range(first, min(first + batch, config.n)), config.seed, loss, how, options)
            for first in range(0, config.n, batch)
        ]
        logs[row] = merged([log_of(batch_log) for batch_log in batches])
        seconds[row] = sum(batch_log["seconds"] for batch_log in batches)
    logs["guided"].baseline = logs["unguided"]
    return _report(config, method, folder, logs, seconds)


def pocket_reference(number: int = 0, size: int = 64) -> Image:
    """The picture `(1, 3, size, size)` of a held-out scene, by its number in the split "test"."""
    from dreamsim_guidance.data.scenes.drawing import draw
    from dreamsim_guidance.data.scenes.pocket_scenes import pocket_scene

    return draw(pocket_scene(number, "test"), size)


def _default_reference(model: named_models.Model) -> Image:
    if model.pocket:
        return pocket_reference()
    from dreamsim_guidance.data.photographs import photograph

    return photograph("chelsea")


def _measures(
    config: GuidedSheet, references: Sequence[Tensor], mask: Tensor | None, model: named_models.Model, device: str
) -> tuple[Loss, dict[str, JudgeFunction]]:
    """The guide's loss, and the judges by name."""
    metric = DreamSim(config.metric or ("pocket" if model.pocket else "ensemble"), device=device)
    on_device = [reference.to(device) for reference in references]
    mask = None if mask is None else mask.to(device)
    targets = on_device
    if mask is not None and len(targets) > 1:  # with a mask, references must be one batch
        size = (targets[0].shape[-2], targets[0].shape[-1])
        targets = [torch.cat([resize(reference, size) for reference in targets])]
    loss = metric.target(targets, mask, config.reduction if len(references) > 1 else None)
    return loss, judges(on_device, config.reduction, mask, config.judges, model.pocket, device)


def _sampler(config: GuidedSheet, method: Method, pipe: Any, model: named_models.Model, init: Tensor | None) -> Sampler:
    if init is not None:
        from diffusers import AutoPipelineForImage2Image

        try:
            pipe = AutoPipelineForImage2Image.from_pipe(pipe)
        except ValueError as error:
            raise ValueError(f"no image-to-image pipeline goes with {type(pipe).__name__}; leave init out.") from error
        _check_init(pipe, config.steps or model.steps, config.init_strength)
    sides = config.size or (() if model.size is None else (model.size,))
    eta = config.eta
    if eta is None and method.needs_noise and type(pipe.scheduler).__name__ == "DDIMScheduler":
        eta = 1.0
    return Sampler(
        pipe,
        prompt=config.prompt,
        negative_prompt=config.negative_prompt,
        steps=config.steps or model.steps,
        cfg=model.cfg if config.cfg is None else config.cfg,
        size=(sides[0], sides[-1]) if sides else None,
        eta=eta,
        init=init,
        init_strength=config.init_strength,
    )


def _check_init(pipe: Any, steps: int | None, strength: float) -> None:
    """Raise ValueError if the share of the way from the picture to noise is less than one step."""
    default = inspect.signature(pipe.__call__).parameters.get("num_inference_steps")
    steps = steps or (default.default if default is not None else None)
    if isinstance(steps, int) and int(steps * strength) < 1:
        least = math.ceil(1000 / steps) / 1000
        raise ValueError(f"init_strength {strength:g} of {steps} steps is no step; at least {least:g} is needed.")


def _batch(
    folder: Path,
    sampler: Sampler,
    numbers: range,
    seed: int,
    loss: Loss,
    method: Method | None,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Sample one batch of one row, unless `folder` holds it, and return its log and the seconds that it took."""
    log_file = folder / f"log-{numbers[0]:04}.json"
    if log_file.is_file():
        return json.loads(log_file.read_text(encoding="utf-8"))
    start = time.perf_counter()
    images, batch_log = sampler.sample([seed + i for i in numbers], loss, method, folder.name, **options)
    for number, image in zip(numbers, images, strict=True):
        save_image(image, folder / f"{number:04}.png")
    content = {**batch_log.to_dict(), "seconds": round(time.perf_counter() - start, 3)}
    write_json(log_file, content)  # last: if it exists, the pictures exist
    return content


def _report(
    config: GuidedSheet, method: Method, folder: Path, logs: dict[str, Log], seconds: dict[str, float]
) -> dict[str, Any]:
    before, after = logs["unguided"].final, logs["guided"].final
    means = {
        name: {
            "role": "guide" if name == "distance" else "held out",
            **{row: sum(values) / len(values) for row, values in (("unguided", before[name]), ("guided", after[name]))},
        }
        for name in after
    }
    results = {"distances": means, "parted": logs["guided"].parted, "summary": logs["guided"].summary()}
    write_json(
        folder / "distances.json",
        {
            **results,
            "each": {name: {"unguided": before[name], "guided": after[name]} for name in after},
            "seeds": [config.seed + i for i in range(config.n)],
            "method": repr(method),
            "seconds": seconds,
            "skipped": logs["guided"].skipped,
        },
    )
    if logs["guided"].entries:
        logs["guided"].plot(folder / "log.png")
    logs["guided"].save(folder / "log.json")
    shown = some(config.n, _COLUMNS)
    rows = {"reference": sorted((folder / "reference").iterdir())[:_COLUMNS]}
    rows |= {row: [folder / row / f"{i:04}.png" for i in shown] for row in ("unguided", "guided")}
    notes = {row: [f"{logs[row].final['distance'][i]:.3f}" for i in shown] for row in ("unguided", "guided")}
    large = max(load_image(rows["guided"][0]).shape) > 128
    with writing(folder / "sheet.png") as temporary:
        contact_sheet(rows, notes, side=256 if large else 128).save(temporary)
    return results

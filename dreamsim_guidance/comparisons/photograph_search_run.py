"""The work of a search among photographs: cut them, compare all with all, rank, and draw."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from dreamsim_guidance.data.photographs import installed_photographs, photograph
from dreamsim_guidance.evaluation.samples.contact_sheet import contact_sheet, some
from dreamsim_guidance.files.atomic import write_json, writing
from dreamsim_guidance.losses import MSE
from dreamsim_guidance.metric.distance import half_chord
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.metric.photographs import default_metric
from dreamsim_guidance.preprocess import resize, save_image
from dreamsim_guidance.processes import default_device

if TYPE_CHECKING:
    from dreamsim_guidance.comparisons.photograph_search import PhotographSearch

__all__ = ["search"]

_SIDE = 256
_KEPT = 0.75
"""Share of height and width that gallery and query keep; they have half of each direction in common."""


def search(config: PhotographSearch, folder: Path) -> dict[str, Any]:
    """Carry out `PhotographSearch.run`."""
    device = config.device or default_device()
    name = config.metric or default_metric()
    metric = DreamSim(name, device=device)
    names = installed_photographs()
    gallery, queries = (torch.cat([cut(photograph(n)) for n in names]).to(device) for cut in (_first, _second))
    files = {kind: [folder / kind / f"{n}.png" for n in names] for kind in ("gallery", "query")}
    for kind, images in (("gallery", gallery), ("query", queries)):
        for file, image in zip(files[kind], images, strict=True):
            save_image(image[None], file)
    with torch.no_grad():
        a, b = (torch.cat([metric.directions(x[None]) for x in images]) for images in (queries, gallery))
        distances = {name: half_chord(a[:, None], b[None])}
        distances["mse"] = torch.stack([MSE(query[None])(gallery) for query in queries])
    results = {
        "distances": {title: _found(table) for title, table in distances.items()},
        "photographs": names,
    }
    write_json(folder / "search.json", {**results, "each": {t: table.tolist() for t, table in distances.items()}})
    _draw(folder / "sheet.png", config.shown, names, files, distances[name])
    return results


def _first(image: Tensor) -> Tensor:
    height, width = (int(_KEPT * side) for side in image.shape[-2:])
    return resize(image[..., :height, :width], (_SIDE, _SIDE))


def _second(image: Tensor) -> Tensor:
    height, width = (int(_KEPT * side) for side in image.shape[-2:])
    return resize(image[..., -height:, -width:], (_SIDE, _SIDE)).flip(-1)


def _found(distances: Float[Tensor, "n n"]) -> dict[str, Any]:
    """How often the query's own photograph comes first, and the mean of its ranks; 1 is the first."""
    ranks = 1 + (distances < distances.diagonal()[:, None]).sum(1)
    return {
        "found first": f"{int((ranks == 1).sum())} of {len(ranks)}",
        "mean rank": round(float(ranks.float().mean()), 2),
    }


def _draw(
    file: Path, shown: int, names: list[str], files: dict[str, list[Path]], distances: Float[Tensor, "n n"]
) -> None:
    rows, notes = {}, {}
    for i in some(len(names), shown):
        nearest = distances[i].argsort()[: shown + 1].tolist()
        rows[names[i]] = [files["query"][i], *(files["gallery"][j] for j in nearest)]
        notes[names[i]] = ["query", *(f"{names[j]} {float(distances[i, j]):.2f}" for j in nearest)]
    with writing(file) as temporary:
        contact_sheet(rows, notes).save(temporary)

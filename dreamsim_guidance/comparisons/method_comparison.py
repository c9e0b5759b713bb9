"""Every guidance method on the pocket pixel model, by what guides and by what does not.

The same noise for every method: image i of reference r has the same seed in each row, the unguided one included. Only the
stochastic sampler that DSG needs is compared with unguided samples of its own. What is reported:

    distance       the guide's, to the reference
    1 - ssim       to the reference
    factors        share of the reference's known factors that an independent classifier finds in the sample
    frechet        of all samples to as many held-out scenes, on that classifier's features: quality
    diversity      mean distance of two samples of one reference, on the same features
    seconds        per image, on this machine
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image as PILImage
from torch import Tensor

from dreamsim_guidance.comparisons import guided_models
from dreamsim_guidance.comparisons.guided_cells import Cell, cell, diversity, held_out_scenes, joined, markdown
from dreamsim_guidance.comparisons.guided_judges import judges
from dreamsim_guidance.comparisons.guided_sampling import Sampler, method_of
from dreamsim_guidance.comparisons.guided_sheet import METHODS
from dreamsim_guidance.data.scenes.scene import Scene
from dreamsim_guidance.evaluation.samples.contact_sheet import contact_sheet
from dreamsim_guidance.evaluation.samples.factor_agreement import factor_agreement
from dreamsim_guidance.evaluation.samples.frechet import frechet_distance
from dreamsim_guidance.evaluation.samples.scene_judge import SceneJudge, load_judge
from dreamsim_guidance.files.atomic import writing
from dreamsim_guidance.guidance import Method
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.preprocess import save_image
from dreamsim_guidance.processes import default_device

__all__ = ["GuideMethods"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GuideMethods:
    """Everything that was decided about a comparison of methods."""

    methods: tuple[str, ...] = tuple(METHODS)
    """Each as name, name:strength or name:strength:option=value:..., e.g. mpgd:3:cap=0.2; without, its own defaults."""
    references: int = 8
    """Held-out scenes."""
    n: int = 64
    """Images for each of them."""
    steps: int = 50
    metric: str = "pocket"
    """The DreamSim that guides."""
    model: str = "pocket-pixels"
    """Or a folder of another pipeline that makes pocket scenes without words."""
    first: int = 0
    """Number of the first reference in the split of held-out scenes."""
    seed: int = 0
    batch: int = 64
    device: str | None = None
    """cpu, cuda, ...; by default an accelerator if there is one."""

    def __post_init__(self) -> None:
        for name in ("references", "n", "steps", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.n * self.references < 2:
            raise ValueError("at least two images are needed for a Frechet distance.")
        if len(set(self.methods)) < len(self.methods):
            raise ValueError(f"every method once, got {', '.join(self.methods)}.")

    def run(self, folder: Path) -> dict[str, Any]:
        """Sample what is missing in `folder`; write table.md and methods.png; return the rows."""
        device = self.device or default_device()
        conditions = self._conditions()  # a mistake there is told before anything is loaded
        metric, judge = DreamSim(self.metric, device=device), load_judge()
        pipe = guided_models.load(guided_models.find(self.model), device)
        size = pipe.unet.config.sample_size
        scenes, references = held_out_scenes(self.references, size, self.first)
        _, others = held_out_scenes(self.references * self.n, size, self.first + 100_000)
        targets = [metric.target(one[None].to(device)) for one in references]
        judged = [judges([one[None].to(device)], "mean", None, (), False, device) for one in references]
        rows: list[dict[str, Any]] = []
        unguided: dict[float | None, float] = {}
        for name, method, eta in conditions:
            sampler = Sampler(pipe, steps=self.steps, eta=eta)
            cells = [
                cell(
                    folder / "cells" / name.replace(":", " ") / f"{r:03}.safetensors",
                    sampler,
                    range(self.seed + r * self.n, self.seed + (r + 1) * self.n),
                    targets[r],
                    method,
                    judged[r],
                    self.batch,
                )
                for r in range(self.references)
            ]
            row: dict[str, Any] = {"method": name, **_measured(cells, scenes, judge, judge.features(others))}
            row["frechet / unguided"] = row["frechet"] / unguided.setdefault(eta, row["frechet"])
            rows.append(row)
            for r, one in enumerate(cells):
                save_image(one.images[0], folder / "samples" / name.replace(":", " ") / f"{r:03}.png")
            log.info("%s: %s", name, {key: round(value, 4) for key, value in row.items() if key != "method"})
        for r, one in enumerate(references):
            save_image(one, folder / "samples" / "reference" / f"{r:03}.png")
        with writing(folder / "table.md") as temporary:
            temporary.write_text(markdown(rows), encoding="utf-8")
        with writing(folder / "methods.png") as temporary:
            _sheet(folder / "samples", ["reference", *(row["method"] for row in rows)]).save(temporary)
        return {"rows": rows, "factors of the references": float(factor_agreement(references, scenes, judge).mean())}

    def _conditions(self) -> list[tuple[str, Method | None, float | None]]:
        """Name, method and the sampler's eta of every row; each sampler is sampled without guidance as well."""
        found: list[tuple[str, Method | None, float | None]] = [("unguided", None, None)]
        for text in self.methods:
            name, *rest = text.split(":")
            try:
                strength = float(rest.pop(0)) if rest and rest[0] and "=" not in rest[0] else None
            except ValueError as error:
                raise ValueError(f"'{text}' is not name:strength:option=value:...: {error}.") from error
            eta = 1.0 if name == "dsg" else None
            if eta is not None and not any(one[2] == eta for one in found):
                found.append(("unguided, eta 1", None, eta))
            found.append((text, method_of(name, strength, rest), eta))
        return found


def _measured(cells: Sequence[Cell], scenes: Sequence[Scene], judge: SceneJudge, quality: Tensor) -> dict[str, float]:
    whole = joined(cells)
    known = [scene for scene, one in zip(scenes, cells, strict=True) for _ in one.images]
    return {
        **{name: float(values.mean()) for name, values in whole.distances.items()},
        "factors": float(factor_agreement(whole.images, known, judge).mean()),
        "frechet": frechet_distance(judge.features(whole.images), quality),
        "diversity": sum(diversity(judge.features(one.images)) for one in cells) / len(cells),
        "seconds": whole.seconds / len(whole.images),
    }


def _sheet(samples: Path, names: Sequence[str]) -> PILImage.Image:
    """The first sample of every method for every reference."""
    rows = {name: sorted((samples / name.replace(":", " ")).iterdir()) for name in names}
    return contact_sheet(rows, {})

"""The command `diversity`: the Vendi score and the mean pairwise distance of collections."""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict, dataclass
from typing import Any

from tyro.conf import Positional

from dreamsim_guidance.files.names import printable
from dreamsim_guidance.files.tables import text_table

__all__ = ["DiversityCommand"]


@dataclass(frozen=True)
class DiversityCommand:
    """Say how diverse collections of pictures are: Vendi score and mean pairwise distance.

    The Vendi score is the effective number of different pictures, from 1 (all alike) to their number, with the cosine
    similarity of the embeddings as kernel. It grows with the number of pictures: with several collections, and with --sample,
    the scores of random subsets of one size are printed, which can be compared.
    """

    source: Positional[tuple[str, ...]]
    """Collections: each an index, a folder, a pattern in quotes, a shard, a table or a list of pictures."""
    q: tuple[float, ...] = (1.0,)
    """Orders of the Vendi score: 1 as in the paper, less than 1 counts rare pictures more, more than 1 common ones; inf."""
    sample: int | None = None
    """Pictures in each random subset; by default, of several collections, the number of pictures in the smallest."""
    subsets: int = 20
    """Number of random subsets."""
    resamples: int = 1000
    """Of the bootstrap for the interval of the mean distance."""
    seed: int = 0
    """Of subsets and bootstrap."""
    metric: str | None = None
    """Name of the metric; by default that of the index, and for pictures photographs, or pocket where its extra is missing."""
    json: bool = False
    """Print JSON instead of a table."""
    device: str | None = None
    """cpu, cuda, mps, ...; by default an accelerator if there is one."""

    def __call__(self) -> int:
        from dreamsim_guidance.cli.collections import report_broken
        from dreamsim_guidance.files.atomic import plain
        from dreamsim_guidance.retrieval.collection import opened

        if self.resamples < 100:
            raise ValueError(f"an interval needs at least 100 resamples, got {self.resamples}.")
        if not self.q:
            raise ValueError("--q needs at least one order.")
        collections, metrics = {}, {}
        for source in dict.fromkeys(self.source):
            with opened([source], self.metric, self.device) as index:
                report_broken(index)
                collections[source], metrics[index.description.fingerprint] = index.vectors(), index.description.metric
        if len(metrics) > 1:
            raise ValueError(f"the collections were embedded by different metrics: {', '.join(metrics.values())}.")
        smallest = min(map(len, collections.values()))
        size = self.sample if self.sample is not None else smallest if len(collections) > 1 else None
        rows = {source: self._measured(vectors, size) for source, vectors in collections.items()}
        if self.json:
            print(jsonlib.dumps(plain({"metric": next(iter(metrics.values())), "collections": rows}), indent=2))
        else:
            print("\n".join(self._lines(rows, size)))
        return 0

    def _measured(self, vectors: Any, size: int | None) -> dict[str, Any]:
        from dreamsim_guidance.retrieval.diversity import mean_pairwise_interval, vendi_of_subsets, vendi_score

        return {
            "pictures": len(vectors),
            "mean_distance": None
            if len(vectors) < 2
            else asdict(mean_pairwise_interval(vectors, resamples=self.resamples, seed=self.seed)),
            "vendi": {f"{q:g}": vendi_score(vectors, q) for q in self.q},
            "vendi_of_subsets": {}
            if size is None
            else {f"{q:g}": asdict(vendi_of_subsets(vectors, size, q, self.subsets, self.seed)) for q in self.q},
        }

    def _lines(self, rows: dict[str, dict[str, Any]], size: int | None) -> list[str]:
        orders = [f"{q:g}" for q in self.q]
        columns = ["collection", "pictures", "mean distance", *(f"Vendi q={q}" for q in orders)]
        columns += [f"q={q}, {size} of them" for q in orders if size is not None]
        table = []
        for source, row in rows.items():
            mean = row["mean_distance"]
            cells = [
                printable(source),
                row["pictures"],
                "-" if mean is None else f"{mean['value']:.4f} [{mean['low']:.4f}, {mean['high']:.4f}]",
                *(f"{row['vendi'][q]:.2f}" for q in orders),
            ]
            for subsets in row["vendi_of_subsets"].values():
                cells.append(f"{subsets['mean']:.2f} [{subsets['low']:.2f}, {subsets['high']:.2f}]")
            table.append(cells)
        lines = [
            text_table(columns, table),
            f"[mean distance: 95 % bootstrap interval over pictures, {self.resamples} resamples, seed {self.seed}]",
        ]
        if size is not None:
            lines.append(
                f"[Vendi of {size}: mean and middle 95 % of {self.subsets} random subsets, not a confidence interval]"
            )
        return lines

"""The triplets of a folder that people should be asked about next: pictures, votes so far and a metric to ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dreamsim_guidance.data.triplet_folder import TripletRow, read_triplet_rows
from dreamsim_guidance.evaluation.metrics.embedding_metric import EmbeddingMetric
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.study.record import read_record
from dreamsim_guidance.training.active_choice import Choice, choose_next, directions, triplet_features

__all__ = ["next_questions"]

Counts = dict[str, tuple[float, float]]


def next_questions(
    triplets: Path | str,
    metric: DreamSim | str,
    count: int,
    *,
    votes: Path | str | None = None,
    choice: Choice = "information",
    basis: int = 64,
    again: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> list[str]:
    """Return the ids of the triplets to ask about next, the most useful first, as `make_round(..., only=ids)` takes them.

    triplets: a folder of triplets, see `read_triplet_rows`. Votes in its own table are not counted.
    metric: whose embeddings are used, frozen: a model or the name of one.
    count: how many triplets to choose.
    votes: votes so far on some of the triplets: a folder or csv file in NIGHTS' layout with the same ids, of which
        `nights_raw.csv` is taken if it is there, or the folder of a round, for the votes of the rounds before it; by default
        nobody has been asked.
    choice: one of "information", "disagreement", "margin" and "random"; see `active_choice.py`.
    basis: principal directions of the embeddings that get a weight of their own.
    again: whether triplets with votes may be chosen again.
    seed: of random choices.

    Raises the errors of `read_triplet_rows`, `read_record` and `choose_next`; ValueError for votes on other triplets.
    """
    rows = read_triplet_rows(triplets)
    counts = {} if votes is None else _counts(Path(votes), rows)
    root = Path(triplets)
    root = root if root.is_dir() else root.parent
    files = [root / path for row in rows for path in (row.reference, row.left, row.right)]
    model = DreamSim(metric) if isinstance(metric, str) else metric
    embeddings = EmbeddingMetric("metric", model).directions(files, progress)
    distinct = embeddings[np.unique([str(file) for file in files], return_index=True)[1]]
    x = triplet_features(embeddings.reshape(len(rows), 3, -1), directions(distinct, basis))
    left, right = (np.array([counts.get(row.id, (0.0, 0.0))[i] for row in rows]) for i in range(2))
    chosen: NDArray[np.int64] = choose_next(x, left, right, count, choice, again=again, seed=seed)
    return [rows[i].id for i in chosen]


def _counts(place: Path, rows: list[TripletRow]) -> Counts:
    """Votes for the left and for the right picture by id."""
    known = {row.id: row for row in rows}
    counts: Counts = {}
    if (place / "study.json").is_file():
        record = read_record(place)
        standing = record.triplets.rows if record.triplets else ()
        judged = [(row.id, row.ref_path, float(row.left), float(row.right)) for row in standing]
    else:
        table = place / "nights_raw.csv"
        judged = [
            (row.id, row.reference, row.votes * (row.left_vote or 0.0), row.votes * (row.right_vote or 0.0))
            for row in read_triplet_rows(table if table.is_file() else place)
        ]
    for id, reference, left, right in judged:
        if id in known and Path(known[id].reference).stem != Path(reference).stem:
            raise ValueError(
                f"'{place}' is about other triplets: the reference of '{id}' is '{reference}', not '{known[id].reference}'."
            )
        if id in known:
            counts[id] = (left, right)
    if not counts:
        raise ValueError(f"'{place}' holds no votes on these triplets; give the votes of a study of the same triplets.")
    return counts

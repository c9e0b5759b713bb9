"""Recall of LanceDB's IVF-PQ against the number of rows and the bytes per vector, on vectors like real embeddings.

    python benchmarks/retrieval_recall.py --to benchmarks/results/retrieval_recall.json

1. Draw pocket scenes, embed them with the pocket metric, and fit a model of their embeddings: clusters, each a Gaussian
   with its own weight, mean and covariance in the leading directions of the spread around the means, and the average
   spread in all others.
2. Check the model: the same indexes on as many drawn vectors as there are real ones, recall of both side by side.
3. For every number of rows, build one IVF-PQ index for every number of bytes, and compare its first neighbours with the
   exact ones, as they come from the codes, and re-ranked by exact distances.

Vectors are stored in float32: LanceDB 0.40 takes ten times as long to build an index over float16, and recall is the same.
Queries are scenes, or vectors, that the table does not hold. Recall at k is the share of the k exact neighbours that are
among the first k found. Times are processor time, which other work on the machine changes little.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("LANCE_CPU_THREADS", "1")

import lancedb
import numpy as np
import pyarrow as pa
import torch
from lancedb.index import IvfPq
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from turns import describe_machine

from dreamsim_guidance import DreamSim
from dreamsim_guidance.data.scenes.pocket_scenes import draw_pocket_scenes

Vectors = NDArray[np.float32]

DEPTHS = (10, 24)
"""Neighbours at which recall is counted."""

REFINED = 10
"""Candidates for each neighbour asked for, when exact distances re-rank."""

BLOCK = 10_000
"""Rows that are drawn, written or compared at a time."""


@dataclass(frozen=True)
class Clusters:
    """A mixture of Gaussians on the unit sphere: cluster weights, means, and factors of low-rank covariances."""

    weights: NDArray[np.float64]
    means: Vectors
    factors: Vectors
    """`(clusters, rank, d)`: a standard normal vector times a factor is an offset from the mean."""
    floor: Vectors
    """Standard deviation in each dimension of what the factors leave out."""

    @classmethod
    def fit(cls, vectors: Vectors, clusters: int, rank: int, seed: int = 0) -> Clusters:
        labels = MiniBatchKMeans(clusters, random_state=seed, n_init=1, batch_size=4096).fit(vectors).labels_
        used = [i for i in range(clusters) if (labels == i).sum() > 1]
        means = np.stack([vectors[labels == i].mean(0) for i in used])
        offsets = np.concatenate([vectors[labels == i] - means[j] for j, i in enumerate(used)])
        directions = np.linalg.svd(offsets, full_matrices=False)[2][:rank]
        floor = (offsets - offsets @ directions.T @ directions).std(0)
        factors = []
        for j, i in enumerate(used):
            inside = (vectors[labels == i] - means[j]) @ directions.T
            _, scales, axes = np.linalg.svd(inside, full_matrices=False)
            factor = np.zeros((rank, vectors.shape[1]), np.float32)
            factor[: len(scales)] = (scales[:, None] / np.sqrt(len(inside) - 1)) * axes @ directions
            factors.append(factor)
        weights = np.array([(labels == i).sum() for i in used], np.float64)
        return cls(weights / weights.sum(), means, np.stack(factors), floor)

    def draw(self, count: int, random: np.random.Generator) -> Vectors:
        rank, dimension = self.factors.shape[1:]
        vectors = (random.standard_normal((count, dimension)) * self.floor).astype(np.float32)
        labels = random.choice(len(self.weights), count, p=self.weights)
        for label in np.unique(labels):
            places = np.flatnonzero(labels == label)
            noise = random.standard_normal((len(places), rank)).astype(np.float32)
            vectors[places] += self.means[label] + noise @ self.factors[label]
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def blocks(self, count: int, seed: int) -> Iterator[Vectors]:
        """The same rows for the same seed, a block at a time, so that a million of them need not be in memory."""
        for first in range(0, count, BLOCK):
            yield self.draw(min(BLOCK, count - first), np.random.default_rng([seed, first]))


def embed_scenes(count: int) -> Vectors:
    metric = DreamSim("pocket")
    vectors = []
    for first in range(0, count, 500):
        _, pictures = draw_pocket_scenes(min(500, count - first), 64, first=first)
        with torch.inference_mode():
            vectors.append(metric.directions(pictures.float() / 255).numpy())
    return np.concatenate(vectors)


def exact(blocks: Iterator[Vectors], queries: Vectors, count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows of the nearest `count` vectors of each query, and their distances, half the squared chord."""
    rows = np.empty((len(queries), 0), np.int64)
    near = np.empty((len(queries), 0), np.float32)
    first = 0
    for block in blocks:
        near = np.concatenate([near, 1 - queries @ block.T], axis=1)
        rows = np.concatenate(
            [rows, np.broadcast_to(np.arange(first, first + len(block)), (len(queries), len(block)))], 1
        )
        chosen = np.argsort(near, axis=1)[:, :count]
        near, rows = np.take_along_axis(near, chosen, 1), np.take_along_axis(rows, chosen, 1)
        first += len(block)
    return rows, near


def write_table(folder: str, blocks: Iterator[Vectors], dimension: int) -> Any:
    schema = pa.schema([("row", pa.int64()), ("vector", pa.list_(pa.float32(), dimension))])

    def batches() -> Iterator[pa.RecordBatch]:
        first = 0
        for block in blocks:
            values = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), dimension)
            yield pa.RecordBatch.from_arrays([pa.array(np.arange(first, first + len(block))), values], schema=schema)
            first += len(block)

    reader = pa.RecordBatchReader.from_batches(schema, batches())
    return lancedb.connect(folder).create_table("vectors", data=reader, mode="overwrite")


def measure(
    blocks: Any, queries: Vectors, codes: Sequence[int], probes: float, iterations: int, rate: int
) -> list[dict[str, Any]]:
    """One row of results for each number of bytes in `codes`. blocks: a function that gives the vectors in blocks."""
    nearest, distances = exact(blocks(), queries, max(DEPTHS))
    results = []
    with tempfile.TemporaryDirectory() as folder:
        table = write_table(folder, blocks(), queries.shape[1])
        count = table.count_rows()
        partitions = max(1, round(count / 4096))
        for code in codes:
            start = time.process_time()
            table.create_index(
                "vector",
                config=IvfPq(
                    distance_type="l2",
                    num_partitions=partitions,
                    num_sub_vectors=code,
                    max_iterations=iterations,
                    sample_rate=rate,
                ),
            )
            built = time.process_time() - start
            stats = table.index_stats("vector_idx")
            assert stats is not None and stats.num_unindexed_rows == 0
            row = {
                "rows": count,
                "bytes": code,
                "partitions": partitions,
                "probed": min(partitions, max(8, round(probes * partitions))),
                "build_s": built,
                "distance_of_the_nearest": float(np.median(distances[:, 0])),
            }
            for name, refine in (("codes", None), ("re-ranked", REFINED)):
                start = time.process_time()
                found = [search(table, query, row["probed"], refine) for query in queries]
                row[f"{name} ms"] = (time.process_time() - start) / len(queries) * 1000
                for depth in DEPTHS:
                    hits = [
                        len(set(rows[:depth]) & set(true[:depth].tolist()))
                        for rows, true in zip(found, nearest, strict=True)
                    ]
                    row[f"{name} recall@{depth}"] = float(np.mean(hits)) / depth
            results.append(row)
            print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}), flush=True)
    return results


def extrapolated(results: Sequence[dict[str, Any]], rows: float = 1e9) -> dict[str, dict[str, float]]:
    """Recall at so many rows, by number of bytes: the odds of a hit follow a power of the rows, fitted from 10,000 on."""
    guesses: dict[str, dict[str, float]] = {}
    for code in dict.fromkeys(row["bytes"] for row in results):
        points = [row for row in results if row["bytes"] == code and row["rows"] >= 10_000]
        guesses[str(code)] = {}
        for depth in DEPTHS:
            recall = np.clip([row[f"codes recall@{depth}"] for row in points], 1e-4, 1 - 1e-4)
            slope, start = np.polyfit(np.log10([row["rows"] for row in points]), np.log(recall / (1 - recall)), 1)
            guesses[str(code)][f"codes recall@{depth}"] = float(1 / (1 + np.exp(-start - slope * np.log10(rows))))
    return guesses


def search(table: Any, query: Vectors, probed: int, refine: int | None) -> list[int]:
    asked = table.search(query).distance_type("l2").nprobes(probed).limit(max(DEPTHS)).select(["row", "_distance"])
    if refine is not None:
        asked = asked.refine_factor(refine)
    return asked.to_arrow().column("row").to_pylist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--bytes", type=int, nargs="+", default=[12, 24, 48, 96], help="of the code of a vector")
    parser.add_argument("--scenes", type=int, default=8000, help="that are drawn and embedded")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--clusters", type=int, default=200)
    parser.add_argument("--rank", type=int, default=48)
    parser.add_argument(
        "--probes", type=float, default=0.05, help="share of the partitions that is searched, at least 8"
    )
    parser.add_argument("--iterations", type=int, default=10, help="of k-means")
    parser.add_argument("--rate", type=int, default=64, help="rows for each centroid that k-means is fitted on")
    parser.add_argument("--to", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()

    scenes = embed_scenes(arguments.scenes + arguments.queries)
    real, real_queries = scenes[: arguments.scenes], scenes[arguments.scenes :]
    model = Clusters.fit(real, arguments.clusters, arguments.rank)
    queries = model.draw(arguments.queries, np.random.default_rng([1]))
    settings = (arguments.bytes, arguments.probes, arguments.iterations, arguments.rate)
    print("scenes", flush=True)
    check = {
        "scenes": measure(lambda: iter(np.split(real, range(BLOCK, len(real), BLOCK))), real_queries, *settings),
    }
    print("as many vectors of the model", flush=True)
    check["model"] = measure(lambda: model.blocks(len(real), 2), queries, *settings)
    print("the model at every size", flush=True)
    results = []
    for rows in arguments.rows:
        results += measure(partial(model.blocks, rows, 3), queries, *settings)
    if arguments.to is not None:
        content = {
            "machine": describe_machine(1),
            "dimension": real.shape[1],
            "settings": {name: value for name, value in vars(arguments).items() if name != "to"},
            "processor_seconds": time.process_time() - start,
            "check": check,
            "rows": results,
            "extrapolated to 1e9 rows": extrapolated(results),
        }
        arguments.to.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()

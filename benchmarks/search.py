"""Search among synthetic vectors: latency, recall of the approximate index, build time and bytes.

    python benchmarks/search.py                                    # one million vectors of the pocket metric's dimension
    python benchmarks/search.py --dimension 1792 --queries 20      # of the published ensemble's; 3.6 GB on disk
    python benchmarks/search.py --rows 100000 --to search.json

The vectors are structured, because uniform noise would have no near neighbours, and no index could find them: a mixture of
`rows / 500` clusters of unequal sizes (Zipf's law), whose centres and members vary along 48 directions with a falling spectrum,
and a little noise in all dimensions. The output says their participation ratio, a measure of intrinsic dimension. Queries are
further draws from the same mixture, so that they are not in the index.

Recall at 24 is the share of the 24 nearest by brute force that the approximate index returns, averaged over the queries. Times
are of one process; the first query of each setting is not counted. The index is removed at the end.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from dreamsim_guidance.files.tables import text_table
from dreamsim_guidance.retrieval import Index, neighbours
from dreamsim_guidance.retrieval.description import Description
from dreamsim_guidance.retrieval.ranking import Ranking
from dreamsim_guidance.retrieval.search import search
from dreamsim_guidance.retrieval.tables import IndexFolder, pictures_schema

K = 24
CELLS, REFINED = (10, 20, 40, 80), (48, 240, 1000)
CHUNK = 20_000
LATENT = 48


class Mixture:
    """Draws unit vectors from the mixture that the head of this file describes."""

    def __init__(self, rows: int, dimension: int, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        latent = min(LATENT, dimension)
        spectrum = np.arange(1, latent + 1) ** -0.5
        self.directions = self.random.normal(size=(latent, dimension)) / np.sqrt(dimension) * spectrum[:, None]
        clusters = max(10, rows // 500)
        self.centres = self.random.normal(size=(clusters, latent))
        shares = np.arange(1, clusters + 1) ** -0.7
        self.shares = shares / shares.sum()
        self.noise = 0.15 * np.sqrt(np.square(spectrum).sum() / dimension)

    def draw(self, count: int) -> np.ndarray:
        cluster = self.random.choice(len(self.centres), count, p=self.shares)
        latent = self.centres[cluster] + 0.4 * self.random.normal(size=(count, self.centres.shape[1]))
        vectors = (latent @ self.directions).astype(np.float32)
        vectors += np.float32(self.noise) * self.random.standard_normal(vectors.shape, dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_index(folder: Path, mixture: Mixture, rows: int, dimension: int) -> Index:
    opened = IndexFolder.create(folder, Description("pocket", "synthetic vectors", dimension))

    def batches() -> Iterator[pa.RecordBatch]:
        for first in range(0, rows, CHUNK):
            count = min(CHUNK, rows - first)
            numbers = range(first, first + count)
            columns: dict[str, Any] = {
                "path": [f"/synthetic/{i}.png" for i in numbers],
                "digest": [f"{i:064x}" for i in numbers],
                "width": np.full(count, 64, np.int32),
                "height": np.full(count, 64, np.int32),
                "bytes": np.full(count, 10_000, np.int64),
                "stamp": [""] * count,
            }
            flat = mixture.draw(count).astype(np.float16).ravel()
            columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(flat), dimension)
            yield from pa.table(columns, schema=schema).to_batches()

    schema = pictures_schema(dimension)
    opened.pictures.add(pa.RecordBatchReader.from_batches(schema, batches()))
    return Index.open(folder)


def timed(calls: Iterator[Callable[[], Any]]) -> tuple[list[Any], dict[str, float]]:
    """Results of the calls; median and 95th percentile of their milliseconds, and of processors, without the first."""
    results, times, cpu = [], [], []
    for call in calls:
        start, used = time.perf_counter(), time.process_time()
        results.append(call())
        times.append(1000 * (time.perf_counter() - start))
        cpu.append(1000 * (time.process_time() - used))
    median, slow = np.quantile(times[1:], [0.5, 0.95])
    return results, {"median_ms": float(median), "p95_ms": float(slow), "cpu_ms": float(np.median(cpu[1:]))}


def bytes_below(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def best(index: Index, ranking: Ranking, rows: np.ndarray) -> set[int]:
    order = np.argsort(ranking.exact(index.vectors(rows))[1])[:K]
    return set(rows[order].tolist())


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    mixture = Mixture(arguments.rows, arguments.dimension)
    queries = [Ranking(row[None]) for row in mixture.draw(arguments.queries)]
    start = time.perf_counter()
    index = write_index(folder, mixture, arguments.rows, arguments.dimension)
    written = time.perf_counter() - start
    sample = index.vectors(np.arange(0, len(index), max(1, len(index) // 5000)))
    eigenvalues = np.linalg.eigvalsh(np.cov(sample.T.astype(np.float64)))
    report: dict[str, Any] = {
        "rows": arguments.rows,
        "dimension": arguments.dimension,
        "queries": arguments.queries,
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()[0]},
        "versions": {"torch": torch.__version__, "lancedb": __import__("lancedb").__version__},
        "participation_ratio": float(eigenvalues.sum() ** 2 / np.square(eigenvalues).sum()),
        "write_s": written,
        "table_bytes": bytes_below(folder / "pictures.lance"),
    }
    exact, report["exact"] = timed(
        lambda ranking=ranking: best(index, ranking, neighbours.exact_rows(index.table, ranking, K))
        for ranking in queries
    )
    paths = [f"/synthetic/{i}.png" for i in np.linspace(0, arguments.rows - 1, 11).astype(int)]
    _, report["search_exact"] = timed(lambda path=path: search(index, path, K, exact_up_to=10**9) for path in paths)
    print(json.dumps(report), flush=True)
    for kind in arguments.kinds:
        start, cpu = time.perf_counter(), time.process_time()
        neighbours.build(index.table, kind, print)
        built, cpu = time.perf_counter() - start, time.process_time() - cpu
        results = []
        for cells, refined in itertools.product(CELLS, REFINED):
            answers, times = timed(
                lambda ranking=ranking, cells=cells, refined=refined: best(
                    index, ranking, neighbours.approximate_rows(index.table, ranking, K, cells, refined)
                )
                for ranking in queries
            )
            recall = float(np.mean([len(a & b) / K for a, b in zip(exact, answers, strict=True)]))
            results.append({"cells": cells, "refined": refined, "recall": recall, **times})
        _, end_to_end = timed(lambda path=path: search(index, path, K, exact_up_to=0) for path in paths)
        report[kind] = {
            "build_s": built,
            "build_cpu_s": cpu,
            "bytes": bytes_below(folder / "pictures.lance" / "_indices"),
            "settings": results,
            "search": end_to_end,
        }
        print(json.dumps(report[kind]), flush=True)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--kinds", nargs="*", default=["ivf-pq"], choices=["ivf-pq", "ivf-hnsw"])
    parser.add_argument("--folder", type=Path, help="where the index is made for the time of the run")
    parser.add_argument("--to", type=Path, help="write the figures as JSON to this file")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="search-benchmark-", dir=arguments.folder))
    try:
        report = measure(arguments, folder / "index")
    finally:
        shutil.rmtree(folder)
    columns = ["cells", "refined", "recall", "median_ms", "p95_ms", "cpu_ms"]
    for kind in arguments.kinds:
        part = report[kind]
        cost = f"{part['build_s']:.0f} s, {part['build_cpu_s']:.0f} s of processors, {part['bytes'] / 1e6:.1f} MB"
        print(f"{kind}: {cost}")
        print(text_table(columns, [[row[name] for name in columns] for row in part["settings"]]))
    if arguments.to is not None:
        arguments.to.parent.mkdir(parents=True, exist_ok=True)
        arguments.to.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

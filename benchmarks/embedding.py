"""Images per second of `embed`, end to end, against the ceiling of the network alone.

    python benchmarks/embedding.py [METRIC ...] [--pictures N]

The pictures are JPEG files of scikit-image's photographs, cut and scaled to sides of 500 to 1000 pixels. In each round two runs
follow each other: the network on the same pictures, decoded and resized before the clock starts, and the whole job, which
reads, hashes, decodes, resizes, embeds and writes a new index. The share is the job's rate over the network's; the loader
alone is timed once. Where the loader is the slower one, it is the limit, and the share says so. `processor share` is the same
share from the processor time of the process, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PILImage

from dreamsim_guidance.data.photographs import installed_photographs, photograph_file
from dreamsim_guidance.evaluation.metrics.named_metrics import embedding_network
from dreamsim_guidance.files.pictures import read_rgb
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.processes import default_device
from dreamsim_guidance.retrieval import embed
from dreamsim_guidance.retrieval.embedder import Embedder, Prepared

COUNT = {"photographs": 96, "pocket": 480}
"""Pictures; by default 96."""
ROUNDS = 3
BATCH = 32


def write_photographs(folder: Path, count: int, seed: int = 0) -> list[Path]:
    """JPEG files, quality 90, no two of them alike."""
    random = np.random.default_rng(seed)
    originals = [read_rgb(photograph_file(name)) for name in installed_photographs()]
    files = []
    for i in range(count):
        picture = originals[i % len(originals)]
        width, height = (int(side) for side in random.integers(500, 1001, 2))
        left, top = (float(x) for x in random.uniform(0, 0.3, 2) * picture.size)
        box = (left, top, left + 0.7 * picture.width, top + 0.7 * picture.height)
        file = folder / f"{i:04d}.jpg"
        picture.resize((width, height), PILImage.Resampling.BICUBIC, box).save(file, quality=90)
        files.append(file)
    return files


def run_network(embedder: Embedder, pictures: list[Prepared]) -> float:
    """Embed pictures that are in memory, and return images per second."""
    start = time.perf_counter()
    for first in range(0, len(pictures), BATCH):
        embedder.embed(pictures[first : first + BATCH])
    return len(pictures) / (time.perf_counter() - start)


def with_processor_time(run: Callable[[], float]) -> tuple[float, float]:
    """What `run` returns, and the processor time in seconds that it took in all threads."""
    start = time.process_time()
    return run(), time.process_time() - start


def measure(name: str, folder: Path, count: int) -> dict[str, object]:
    metric: DreamSim = embedding_network(name, default_device())
    embedder = Embedder(metric, batch=BATCH)
    source = folder / name
    source.mkdir()
    files = write_photographs(source, count)
    contents = [file.read_bytes() for file in files]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        start = time.perf_counter()
        pictures = list(pool.map(embedder.prepare, contents))
        loader = len(files) / (time.perf_counter() - start)
    run_network(embedder, pictures[:BATCH])  # warm-up
    network, job = [], []
    for i in range(ROUNDS):
        to = folder / f"{name}-{i}"
        network.append(with_processor_time(lambda: run_network(embedder, pictures)))
        job.append(with_processor_time(lambda to=to: embed(source, to, metric, batch=BATCH, progress=False).per_second))
    return {
        "metric": name,
        "pictures": len(files),
        "kilobytes": round(statistics.mean(map(len, contents)) / 1000, 1),
        "loader alone": round(loader, 1),
        "network": [round(rate, 2) for rate, _ in network],
        "job": [round(rate, 2) for rate, _ in job],
        "share": round(statistics.median(a[0] / b[0] for a, b in zip(job, network, strict=True)), 3),
        "processor share": round(statistics.median(b[1] / a[1] for a, b in zip(job, network, strict=True)), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("metrics", nargs="*", default=["photographs", "pocket"])
    parser.add_argument("--pictures", type=int)
    options = parser.parse_args()
    machine = {"device": default_device(), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2)}
    machine |= {"processor": platform.processor() or platform.machine(), "torch": torch.__version__}
    with tempfile.TemporaryDirectory() as folder:
        results = [measure(name, Path(folder), options.pictures or COUNT.get(name, 96)) for name in options.metrics]
    print(json.dumps({"machine": machine, "results": results}, indent=2))


if __name__ == "__main__":
    main()

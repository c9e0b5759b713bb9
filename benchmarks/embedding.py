"""Images per second of `embed`, end to end, against the ceiling of the network alone.

    python benchmarks/embedding.py [METRIC ...]

The pictures are JPEG files of scikit-image's photographs, cut and scaled to sides of 500 to 1000 pixels. In each round two runs
follow each other: the network on the same pictures, decoded and resized before the clock starts, and the whole job, which
reads, hashes, decodes, resizes, embeds and writes a new index. The share is the job's rate over the network's; the loader alone
is timed once. Where the loader is the slower one, it is the limit, and the share says so.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import tempfile
import time
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


def network_rate(embedder: Embedder, pictures: list[Prepared]) -> float:
    """Images per second of the network on pictures in memory."""
    start = time.perf_counter()
    for first in range(0, len(pictures), BATCH):
        embedder.embed(pictures[first : first + BATCH])
    return len(pictures) / (time.perf_counter() - start)


def measure(name: str, folder: Path) -> dict[str, object]:
    metric: DreamSim = embedding_network(name, default_device())
    embedder = Embedder(metric, batch=BATCH)
    source = folder / name
    source.mkdir()
    files = write_photographs(source, COUNT.get(name, 96))
    contents = [file.read_bytes() for file in files]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        start = time.perf_counter()
        pictures = list(pool.map(embedder.prepare, contents))
        loader = len(files) / (time.perf_counter() - start)
    network_rate(embedder, pictures[:BATCH])  # warm-up
    network, job = [], []
    for i in range(ROUNDS):
        network.append(network_rate(embedder, pictures))
        job.append(embed(source, folder / f"{name}-{i}", metric, batch=BATCH, progress=False).per_second)
    return {
        "metric": name,
        "pictures": len(files),
        "kilobytes": round(statistics.mean(map(len, contents)) / 1000, 1),
        "loader alone": round(loader, 1),
        "network": [round(rate, 2) for rate in network],
        "job": [round(rate, 2) for rate in job],
        "share": round(statistics.median(a / b for a, b in zip(job, network, strict=True)), 3),
    }


def main() -> None:
    names = sys.argv[1:] or ["photographs", "pocket"]
    machine = {"device": default_device(), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2)}
    machine |= {"processor": platform.processor() or platform.machine(), "torch": torch.__version__}
    with tempfile.TemporaryDirectory() as folder:
        results = [measure(name, Path(folder)) for name in names]
    print(json.dumps({"machine": machine, "results": results}, indent=2))


if __name__ == "__main__":
    main()

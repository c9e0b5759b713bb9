"""Time of the evaluation of triplets, compared with the original's method, on the CPU, in alternation in one process.

    python benchmarks/evaluation.py --triplets 8 --repeats 5 --to benchmarks/results

The time includes reading, decoding and resizing the picture files, up to the two distances of each triplet. The original's
method is that of the evaluation in its repository: every triplet is read with `preprocess`, batched, and passed to
`model(reference, a)` and `model(reference, b)`. This computes four embeddings, that of the reference twice. Ours is
`EmbeddingMetric` without a cache: it computes three embeddings, and first decodes all pictures once to find broken ones. All
pictures differ; in sets whose triplets share pictures the ratio is larger, because each picture is embedded once. Weights are
random, in the original's file format (speed does not depend on them). Before the timing, the two sides must agree on the
distances.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from official_format import write_official
from turns import SIDES, describe_machine, print_row, take_turns

from dreamsim_guidance import DreamSim
from dreamsim_guidance.evaluation.metrics.embedding_metric import EmbeddingMetric

TOLERANCE = 1e-6
"""Largest difference of distances that is allowed between the sides."""

Triplets = list[tuple[Path, Path, Path]]


def draw(folder: Path, count: int, size: int) -> Triplets:
    """Write `count` triplets of distinct pictures, as JPEG files of `size` x `size` pixels."""
    random = np.random.default_rng(0)
    files = []
    for i in range(3 * count):
        coarse = Image.fromarray(random.integers(0, 256, (24, 24, 3), dtype=np.uint8))
        files.append(folder / f"{i}.jpg")
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(files[-1], quality=92)
    return [(files[3 * i], files[3 * i + 1], files[3 * i + 2]) for i in range(count)]


def original(folder: Path, variant: str, batch: int) -> Callable[[Triplets], NDArray[np.float64]]:
    import dreamsim

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, preprocess = dreamsim.dreamsim(device="cpu", cache_dir=str(folder), dreamsim_type=variant)

    def read(files: tuple[Path, ...]) -> torch.Tensor:
        return torch.cat([preprocess(Image.open(file)) for file in files])

    def judge(triplets: Triplets) -> NDArray[np.float64]:
        distances = []
        with torch.no_grad():
            for first in range(0, len(triplets), batch):
                reference, a, b = (read(files) for files in zip(*triplets[first : first + batch], strict=True))
                distances.append(torch.stack([model(reference, a), model(reference, b)]))
        return torch.cat(distances, dim=1).double().numpy()

    return judge


def ours(folder: Path, variant: str, batch: int) -> Callable[[Triplets], NDArray[np.float64]]:
    metric = EmbeddingMetric(variant, DreamSim(variant, weights=folder).fold(), batch=batch)

    def judge(triplets: Triplets) -> NDArray[np.float64]:
        pairs = [(reference, a) for reference, a, _ in triplets] + [(reference, b) for reference, _, b in triplets]
        return metric.distances(pairs, progress=False).reshape(2, -1)

    return judge


def compare(work: dict[str, Callable[[], NDArray[np.float64]]], triplets: int, repeats: int) -> dict[str, Any]:
    originals, ours = (work[side]() for side in SIDES)  # warm-up, and a check that both compute the same
    difference = float(np.abs(originals - ours).max())
    if difference > TOLERANCE:
        raise SystemExit(f"the sides differ by {difference:.1e}, allowed {TOLERANCE:.0e}")
    row = take_turns(work, repeats)
    speeds = {f"{side}_triplets_per_s": triplets / row[f"{side}_s"] for side in SIDES}
    return {"triplets": triplets, **row, **speeds, "difference": difference}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="ensemble")
    parser.add_argument("--triplets", type=int, default=8)
    parser.add_argument(
        "--batch", type=int, default=4, help="triplets per batch; ours embeds three times as many images at once"
    )
    parser.add_argument(
        "--size", type=int, default=768, help="side of the pictures in pixels; the default is that of NIGHTS"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--to", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_official(Path(scratch, "weights"), options.variant)
        pictures = Path(scratch, "pictures")
        pictures.mkdir()
        triplets = draw(pictures, options.triplets, options.size)
        sides = {
            "original": original(folder, options.variant, options.batch),
            "ours": ours(folder, options.variant, 3 * options.batch),
        }
        row = compare({side: partial(judge, triplets) for side, judge in sides.items()}, len(triplets), options.repeats)
    machine = describe_machine(options.threads)
    settings = {"batch": options.batch, "size": options.size, "repeats": options.repeats}
    options.to.mkdir(parents=True, exist_ok=True)
    path = options.to / f"evaluation_{options.variant}.json"
    path.write_text(json.dumps({"machine": machine, "settings": settings, "times": row}, indent=1))
    print_row(f"{row['triplets']} triplets", row)
    print(f"\n{machine}\nwritten to {path}")


if __name__ == "__main__":
    main()

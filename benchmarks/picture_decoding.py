"""Processor time of reading pictures for an index: hashing, decoding and resizing, as `dreamsim-guidance embed` does it.

    python benchmarks/picture_decoding.py --to benchmarks/results/picture_decoding.json

The picture is the photograph that comes with scikit-image, as JPEG files (quality 90) and a PNG file, resized to 224 x 224
for the ensemble. One thread, processor time, the files in memory.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from pathlib import Path
from typing import Any

from PIL import Image
from skimage import data
from turns import describe_machine

from dreamsim_guidance.retrieval.embedder import Decoder, digest_of

SIDE = 224
CASES = ((256, "JPEG"), (512, "JPEG"), (1024, "JPEG"), (512, "PNG"))


def encoded(side: int, kind: str) -> bytes:
    photograph = Image.fromarray(data.astronaut()).resize((side, side), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    photograph.save(stream, kind, **({"quality": 90} if kind == "JPEG" else {}))
    return stream.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--to", type=Path)
    arguments = parser.parse_args()
    decoder = Decoder((SIDE,))
    rows: list[dict[str, Any]] = []
    for side, kind in CASES:
        content = encoded(side, kind)
        seconds = []
        for _ in range(arguments.repeats):
            start = time.process_time()
            digest_of(content)
            decoder.prepare(content)
            seconds.append(time.process_time() - start)
        rows.append({"side": side, "kind": kind, "bytes": len(content), "s": statistics.median(seconds)})
        print(f"{kind} {side} x {side}, {len(content) / 1000:.0f} kB: {rows[-1]['s'] * 1000:.1f} ms")
    if arguments.to is not None:
        arguments.to.write_text(json.dumps({"machine": describe_machine(1), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Images per second that DreamSim("photographs") embeds: convolutions channels-last, as the library runs them, and not.

    python benchmarks/photographs.py --to photographs.json

Both sides in turns in one process, by processor time with one thread, so that other work on the machine matters little.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, cast

import torch
from turns import describe_machine, interleaved

from dreamsim_guidance import Branch, DreamSim


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--to", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    metric = DreamSim("photographs")
    images = torch.rand(arguments.batch, 3, 260, 260)
    branches = [cast(Branch, branch) for branch in metric.ensemble.branches]

    def embed(channels_last: bool) -> None:
        for branch in branches:
            branch.convolutional = channels_last
        with torch.no_grad():
            metric.embed(images)

    work = {"channels last": lambda: embed(True), "channels first": lambda: embed(False)}
    seconds = interleaved(work, arguments.repeats, 60.0, clock=time.process_time)
    rates: dict[str, Any] = {name: arguments.batch / row["s"] for name, row in seconds.items()}
    for name, rate in rates.items():
        print(f"{name}: {rate:.1f} images/s with one thread")
    print(f"ratio {rates['channels last'] / rates['channels first']:.2f}")
    if arguments.to is not None:
        arguments.to.write_text(
            json.dumps({"machine": describe_machine(1), "seconds": seconds, "images/s": rates}, indent=2)
        )


if __name__ == "__main__":
    main()

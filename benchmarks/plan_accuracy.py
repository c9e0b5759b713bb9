"""Predictions of `plan` beside the guided runs of real pipelines that were recorded on a GPU; needs no GPU.

    python benchmarks/plan_accuracy.py                                  # all recorded rows, about a minute

Recorded rows are those of `guided_sampling.py --sizes real --device cuda`; they are predicted from shapes alone for
`Machine.h200()`, the GPU on which they were recorded. The rows of one pipeline begin while the weights of the pipeline before
may not have been freed: bytes that were occupied beyond the least of all unguided peaks of the pipeline are not its own, and
are left out of the measured peaks.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from guided_sampling import Predictions, real_cases

from dreamsim_guidance.guidance import Machine

RESULTS = Path(__file__).parent / "results"


def compared(recorded: list[dict[str, Any]], steps: int) -> list[dict[str, Any]]:
    """Each recorded row with the prediction for it, and how far the prediction is off (0.1: 10 % too large).

    steps: of the recorded runs.
    """
    predictions = Predictions(Machine.h200())
    names = list(dict.fromkeys(row["pipeline"] for row in recorded))
    least = {name: min(row["unguided_peak"] for row in recorded if row["pipeline"] == name) for name in names}
    rows = []
    for case in real_cases(names, dict.fromkeys(row["method"] for row in recorded), "meta", torch.bfloat16):
        case = replace(case, call={**case.call, "num_inference_steps": steps})
        wanted = (case.name, case.method, case.decoder, bool(case.options["checkpointing"]))
        for row in recorded:
            if (row["pipeline"], row["method"], row["decoder"], row["checkpointing"]) == wanted:
                prediction = predictions.of(replace(case, options={**case.options, "capture": False}))
                peak = row["guided_peak"] - (row["unguided_peak"] - least[case.name])
                rows.append(
                    {
                        **{key: row[key] for key in ("pipeline", "method", "decoder", "checkpointing")},
                        "ratio": row["ratio"],
                        "ratio_spread": row["ratio_spread"],
                        "predicted": prediction["predicted_here"],
                        "error": prediction["predicted_here"] / row["ratio"] - 1,
                        "predicted_by_arithmetic": prediction["predicted"],
                        "peak": peak,
                        "predicted_peak": prediction["predicted_peak"],
                        "peak_error": prediction["predicted_peak"] / peak - 1,
                    }
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recorded", type=Path, default=RESULTS / "guided_sampling_real_cuda.json")
    parser.add_argument("--pipelines", nargs="+", choices=("sd15", "sdxl"), default=("sd15", "sdxl"))
    parser.add_argument("--to", type=Path, default=RESULTS)
    options = parser.parse_args()
    results = json.loads(options.recorded.read_text())
    recorded = [row for row in results["rows"] if row["pipeline"] in options.pipelines]
    rows = compared(recorded, results["steps"])
    columns = [
        "pipeline, method",
        "decoder",
        "measured",
        "predicted",
        "error",
        "by arithmetic",
        "peak, GiB",
        "predicted",
    ]
    print("| " + " | ".join([*columns, "error"]) + " |\n" + "|---" * (len(columns) + 1) + "|")
    for row in rows:
        low, high = row["ratio_spread"]
        cells = [
            f"{row['pipeline']}, {row['method']}",
            row["decoder"] + (", checkpointed" if row["checkpointing"] else ""),
            f"{row['ratio']:.2f} [{low:.2f}, {high:.2f}]",
            f"{row['predicted']:.2f}",
            f"{row['error']:+.0%}",
            f"{row['predicted_by_arithmetic']:.2f}",
            f"{row['peak'] / 2**30:.2f}",
            f"{row['predicted_peak'] / 2**30:.2f}",
            f"{row['peak_error']:+.0%}",
        ]
        print("| " + " | ".join(cells) + " |")
    options.to.mkdir(parents=True, exist_ok=True)
    path = options.to / "plan_accuracy.json"
    path.write_text(json.dumps({"recorded": options.recorded.name, "rows": rows}, indent=1))
    print(f"written to {path}")


if __name__ == "__main__":
    main()

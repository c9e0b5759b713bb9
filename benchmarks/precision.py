"""Accuracy of half precision at full size, against float32: distances, gradients to the image, and decisions.

    python benchmarks/precision.py --device cuda --to benchmarks/results

The ensemble has random weights in the official format, once as they are and once with outlier channels like those of trained
towers: a few channels of the stream of tokens are a hundred times larger than the others. Pairs are smooth random pictures.
`decisions` are the answers to "which of two candidates is nearer?" that float32 and the other precision give differently.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from turns import describe_machine

from dreamsim_guidance import DreamSim


def pictures(count: int, seed: int, device: str) -> Tensor:
    coarse = torch.rand(count, 3, 14, 14, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, (224, 224), mode="bicubic").clamp(0, 1).to(device)


def add_outliers(metric: DreamSim) -> None:
    with torch.no_grad(), metric.ensemble.one_by_one():
        for place, branch in enumerate(metric.ensemble.branches):
            backbone: Any = branch.backbone
            scale = float(backbone.pos_embed.std())
            backbone.pos_embed[..., 7 + place] += 100 * scale
            backbone.blocks[0].mlp.fc2.bias[77 + place] -= 100 * scale


def measure(metric: Callable[[Tensor, Tensor], Tensor], pairs: int, device: str) -> tuple[Tensor, Tensor]:
    """Distances of the pairs, and gradients to their first pictures, four pairs at a time."""
    distances, gradients = [], []
    for x, y in zip(pictures(pairs, 0, device).split(4), pictures(pairs, 1, device).split(4), strict=True):
        x = x.requires_grad_()
        distance = metric(x, y)
        gradients.append(torch.autograd.grad(distance.sum(), x)[0].flatten(1).cpu())
        distances.append(distance.detach().cpu())
    return torch.cat(distances), torch.cat(gradients)


def decisions(metric: DreamSim, triplets: int, device: str) -> Tensor:
    """For each triplet, whether the first candidate is nearer."""
    with torch.no_grad():
        e = [torch.cat([metric.directions(x) for x in pictures(triplets, s, device).split(16)]) for s in (0, 1, 2)]
    return (e[0] * (e[1] - e[2])).sum(1) > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--triplets", type=int, default=500)
    parser.add_argument("--to", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    rows = []
    for weights in ("random", "random with outlier channels"):
        torch.manual_seed(0)
        exact = DreamSim("ensemble", pretrained=False, device=options.device)
        if weights != "random":
            add_outliers(exact)
        d, g = measure(exact, options.pairs, options.device)
        answers = decisions(exact, options.triplets, options.device)
        for name, dtype in (("float16", torch.float16), ("bfloat16", torch.bfloat16)):
            half = DreamSim("ensemble", pretrained=False, device=options.device, dtype=dtype)
            half.load_state_dict(exact.state_dict())
            d2, g2 = measure(half, options.pairs, options.device)
            row = {
                "weights": weights,
                "dtype": name,
                "distance": float(((d - d2).abs() / d).max()),
                "gradient": float(((g - g2).norm(dim=1) / g.norm(dim=1)).max()),
                "cosine": float(F.cosine_similarity(g, g2).min()),
                "flipped": float((answers != decisions(half, options.triplets, options.device)).double().mean()),
            }
            rows.append(row)
            print(row, flush=True)
            del half
    device = torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else "cpu"
    machine = {**describe_machine(torch.get_num_threads()), "device": device}
    options.to.mkdir(parents=True, exist_ok=True)
    path = options.to / "precision_ensemble.json"
    path.write_text(json.dumps({"machine": machine, "pairs": options.pairs, "rows": rows}, indent=1))
    print(
        "\n| weights | dtype | distance, relative | gradient, relative | cosine | decisions |\n|---|---|---|---|---|---|"
    )
    for row in rows:
        print(
            f"| {row['weights']} | {row['dtype']} | {row['distance']:.1e} | {row['gradient']:.1e} | {row['cosine']:.5f} "
            f"| {row['flipped']:.2%} |"
        )
    print(f"\n{machine}\nwritten to {path}")


if __name__ == "__main__":
    main()

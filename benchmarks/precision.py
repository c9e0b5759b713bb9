"""Accuracy of half precision against float32: distances, gradients to the image, and decisions.

    python benchmarks/precision.py --device cuda --to benchmarks/results
    python benchmarks/precision.py --float32-products --judgments folder/of/a/set --to benchmarks/results

The ensemble has full size and random weights, once as they are and once with outlier channels like those of trained towers: a
few channels of the stream of tokens are a hundred times larger than the others. The small pocket metric has trained weights.

Pairs are smooth random pictures. Decisions are answers to "which of two candidates is nearer?": of triplets of drawn scenes,
and of a set of judgments in NIGHTS' layout; a flipped one differs from that of float32.

--float32-products, for CPUs that are slow in half precision: products of half-precision numbers are computed in float32 and
rounded, as accelerators do, which add in float32.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from tqdm import tqdm
from turns import describe_machine

from dreamsim_guidance import DreamSim, load_image
from dreamsim_guidance.data import read_judgments
from dreamsim_guidance.data.scenes.triplets import draw_triplets, sample_triplets

PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "linear"}
HALF = (torch.float16, torch.bfloat16)


class Float32Products(TorchDispatchMode):
    """Products and attention of half-precision numbers in float32, with results rounded to half precision."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name = operation.name().removeprefix("aten::").partition(".")[0]
        halves = [a.dtype for a in args if isinstance(a, Tensor) and a.dtype in HALF]
        if not halves or (name not in PRODUCTS and "scaled_dot_product" not in name):
            return operation(*args, **(kwargs or {}))
        wide = tree_map(lambda a: a.float() if isinstance(a, Tensor) and a.dtype in HALF else a, args)
        results = operation(*wide, **(kwargs or {}))
        if isinstance(results, Tensor):
            return results.to(halves[0])
        # of attention: its values, or three gradients; the other results are statistics, which stay in float32
        rounded = 3 if "backward" in name else 1
        return tuple(r.to(halves[0]) if i < rounded else r for i, r in enumerate(results))


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


class Decisions:
    """Triplets of pictures: reference, a, b. `name` says whose."""

    def __init__(self, name: str, images: list[Tensor], rows: Tensor) -> None:
        self.name, self.images, self.rows = name, images, rows

    @torch.no_grad()
    def answers(self, metric: DreamSim) -> Tensor:
        """For each triplet, whether a is nearer."""
        e = [metric.directions(image.to(metric.device)) for image in tqdm(self.images, desc=self.name, mininterval=5)]
        reference, a, b = torch.cat(e)[self.rows.to(metric.device)]
        return ((reference - a).square().sum(1) < (reference - b).square().sum(1)).cpu()


def scenes(count: int) -> Decisions:
    batch = torch.cat(draw_triplets(sample_triplets(count, "test"), 128))
    return Decisions(f"{count} triplets of scenes", list(batch.split(1)), torch.arange(3 * count).view(3, count))


def judged(folder: Path) -> Decisions:
    judgments: Any = read_judgments(folder, "nights", least_votes=1)
    rows = torch.tensor([judgments.reference.tolist(), judgments.a.tolist(), judgments.b.tolist()])
    name = f"{len(judgments)} triplets of {folder.name}"
    return Decisions(name, [load_image(path) for path in judgments.images], rows)


def build(weights: str, device: str, dtype: torch.dtype) -> DreamSim:
    if weights == "pocket":
        return DreamSim("pocket", device=device, dtype=dtype)
    torch.manual_seed(0)
    metric = DreamSim("ensemble", pretrained=False, device=device)
    if "outlier" in weights:
        add_outliers(metric)
    return metric.to(dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--weights", nargs="+", default=["pocket", "random", "random with outlier channels"])
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--scenes", type=int, default=200, help="triplets of drawn scenes")
    parser.add_argument("--judgments", type=Path, nargs="*", default=[], help="folders of sets in NIGHTS' layout")
    parser.add_argument("--float32-products", action="store_true")
    parser.add_argument("--to", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    sets = [scenes(options.scenes), *map(judged, options.judgments)]
    rows: list[dict[str, Any]] = []
    for weights in options.weights:
        exact = build(weights, options.device, torch.float32)
        d, g = measure(exact, options.pairs, options.device)
        answers = [triplets.answers(exact) for triplets in sets]
        del exact
        for name, dtype in (("float16", torch.float16), ("bfloat16", torch.bfloat16)):
            half = build(weights, options.device, dtype)
            with Float32Products() if options.float32_products else nullcontext():
                d2, g2 = measure(half, options.pairs, options.device)
                others = [triplets.answers(half) for triplets in sets]
            row: dict[str, Any] = {
                "weights": weights,
                "dtype": name,
                "distance": float(((d - d2).abs() / d).max()),
                "gradient": float(((g - g2).norm(dim=1) / g.norm(dim=1)).max()),
                "cosine": float(F.cosine_similarity(g, g2).min()),
            }
            for triplets, mine, theirs in zip(sets, answers, others, strict=True):
                row[f"flipped of {triplets.name}"] = float((mine != theirs).double().mean())
            rows.append(row)
            print(row, flush=True)
            del half
    device = torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else "cpu"
    machine = {**describe_machine(torch.get_num_threads()), "device": device}
    options.to.mkdir(parents=True, exist_ok=True)
    path = options.to / "precision.json"
    described = {"machine": machine, "float32_products": options.float32_products, "pairs": options.pairs, "rows": rows}
    path.write_text(json.dumps(described, indent=1))
    print("\n| " + " | ".join(rows[0]) + " |\n" + "|---" * len(rows[0]) + "|")
    for row in rows:
        print("| " + " | ".join(value if isinstance(value, str) else f"{value:.3g}" for value in row.values()) + " |")
    print(f"\n{machine}\nwritten to {path}")


if __name__ == "__main__":
    main()

"""The metric and its targets become one graph, with the same numbers, in `torch.compile` and `torch.export`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# in processes of their own, where the shape checks do not wrap every function that the compiler traces
SETUP = f"""
import sys
import jaxtyping
import torch
jaxtyping.install_import_hook = lambda *names: None
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from conftest import lively, tiny_branches
from dreamsim_guidance import DreamSim, Ensemble
metric = DreamSim(lively(Ensemble(tiny_branches())))
x, y = torch.rand(2, 3, 40, 52), torch.rand(2, 3, 30, 30)
"""

COMPILES = """
goal, x2 = metric.target(y), x.clone().requires_grad_()
compiled = torch.compile(goal, fullgraph=True, backend="aot_eager")
distance = compiled(x2)
(gradient,) = torch.autograd.grad(distance.sum(), x2)
x3 = x.clone().requires_grad_()
(expected,) = torch.autograd.grad(goal(x3).sum(), x3)
print((distance - goal(x)).abs().max().item() < 1e-5, torch.allclose(gradient, expected, atol=1e-6))

# in float16, with a weight at which gradients are lost that are not scaled
half = DreamSim(Ensemble(tiny_branches()), dtype=torch.float16)
half.load_state_dict(metric.state_dict())
half_goal = half.target(y)
compiled = torch.compile(half_goal, fullgraph=True, backend="aot_eager")
(gradient,) = torch.autograd.grad(2.0**-10 * compiled(x2).sum(), x2)
print(torch.cosine_similarity(gradient.flatten(), expected.flatten(), dim=0).item() > 0.9999)
"""

EXPORTS = """
from torch import nn
batch = torch.export.Dim("batch")

class Embed(nn.Module):
    def __init__(self, metric):
        super().__init__()
        self.metric = metric
    def forward(self, x):
        return self.metric.embed(x)

def same(module, inputs, names, strict):
    exported = torch.export.export(module, inputs, dynamic_shapes={name: {0: batch} for name in names}, strict=strict)
    for count in (2, 5):
        again = tuple(torch.rand(count, *tensor.shape[1:]) for tensor in inputs)
        assert torch.allclose(exported.module()(*again), module(*again), atol=1e-6), (module, count)

patches = DreamSim(lively(Ensemble([type(tiny_branches()[0])(
    "p", "vit_base_patch16_224", feature="cls_patch", image_size=32, overrides=tiny_branches()[0].overrides)])))
same(metric, (x, y), ("x", "y"), False)
same(patches.target(y, reduction="min"), (x,), ("images",), True)
same(Embed(patches), (x,), ("x",), False)
same(patches.target(y[:1]), (x,), ("images",), False)
print("equal")
"""


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SETUP + code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_a_target_compiles_into_one_graph_with_the_same_gradient() -> None:
    assert run(COMPILES) == "True True\nTrue"


def test_metric_target_and_embedding_are_exported_with_a_dynamic_batch() -> None:
    assert run(EXPORTS) == "equal"

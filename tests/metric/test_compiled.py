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

STACKED = """
from torch._dynamo.utils import counters
metric = DreamSim(lively(Ensemble(tiny_branches())), fold=False)
metric.attach_adapter(rank=2)
with torch.no_grad():
    for name, parameter in metric.named_parameters():
        if "lora_B" in name:
            parameter.normal_(std=0.3)
metric.set_adapter("default")
metric.ensemble.stack()
metric.eval()
assert len(metric.ensemble.stacks) == 1
compiled = torch.compile(metric.embed, fullgraph=True, dynamic=True, backend="eager")
def agree(x, **options):
    assert torch.allclose(compiled(x, **options), metric.embed(x, **options), atol=1e-5), x.shape
for shape in ((2, 40, 52), (3, 40, 52), (64, 40, 52), (16, 64, 48), (4, 30, 30)):
    agree(torch.rand(shape[0], 3, *shape[1:]))
graphs = counters["stats"]["unique_graphs"]
agree(torch.rand(1, 3, 40, 52))  # PyTorch compiles a dimension of one as a case of its own
agree(torch.rand(1, 3, 64, 48))
print(graphs, counters["stats"]["unique_graphs"])

def changed(before):
    now = compiled(x)
    assert torch.allclose(now, metric.embed(x), atol=1e-5)
    return (now - before).abs().max().item() > 1e-3
tuned = compiled(x)
metric.set_adapter(None)
print(changed(tuned))
metric.set_adapter("default")
metric.load_state_dict({k: v * 1.3 for k, v in metric.state_dict().items()})
print(changed(tuned))
scaled = compiled(x)
metric.ensemble.unstack()
print(changed(scaled))
agree(x, adapters=["default", None])
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


def test_towers_that_run_as_one_compile_into_one_graph_for_all_batches_and_follow_changes() -> None:
    assert run(STACKED) == "1 2\nTrue\nTrue\nFalse"


def test_metric_target_and_embedding_are_exported_with_a_dynamic_batch() -> None:
    assert run(EXPORTS) == "equal"

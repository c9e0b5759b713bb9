"""Training in a process with an Accelerator of the caller; each test runs a new process, as accelerate's state is global."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PREPARE = """
import sys
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState, GradientState
from pathlib import Path
sys.path += sys.argv[1].split(":")
from dreamsim_guidance.training.optimiser import Optimiser
from tiny_tuning import adapter, tuning

data, folder = Path(sys.argv[2]), Path(sys.argv[3])

def train(name="run", **changes):
    return tuning(data, steps=2, **changes).run(folder / name)

def dtype_inside(accelerator):
    class Product(torch.nn.Module):
        def forward(self, x):
            self.dtype = (x @ x).dtype
            return x

    model = accelerator.prepare(Product())
    model(torch.ones(2, 2))
    return model.dtype
"""


@pytest.fixture
def run(data: Path, tmp_path: Path):
    def run_script(script: str) -> None:
        here = Path(__file__).parent
        words = [sys.executable, "-c", PREPARE + script, f"{here}:{here.parent}", str(data), str(tmp_path)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "false"}
        process = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
        assert process.returncode == 0, process.stderr

    return run_script


def test_an_accelerator_made_before_keeps_all_its_settings(run) -> None:
    run("""
theirs = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=4)
optimiser = theirs.prepare(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0))
theirs.gradient_state._set_sync_gradients(False)  # in the middle of an accumulation
before = (dict(theirs.state.__dict__), dict(theirs.gradient_state.__dict__), dict(PartialState().__dict__))
train(precision="no")
after = (dict(theirs.state.__dict__), dict(theirs.gradient_state.__dict__), dict(PartialState().__dict__))
assert before == after and theirs.state.__dict__ is AcceleratorState._shared_state
assert theirs.mixed_precision == "bf16" and theirs.device.type == "cpu" and theirs.gradient_accumulation_steps == 4
assert not theirs.sync_gradients
assert dtype_inside(theirs) == torch.bfloat16
saved = torch.load(folder / "run" / "checkpoints" / "step-00000002.pt")["optimiser"]["state"]
assert all(float(state["step"]) == 2 for state in saved.values())  # the caller's accumulation skipped none of ours
try:
    train("failed", optimiser=Optimiser(learning_rate=1e30), precision="no")
except ValueError as error:
    assert "the loss became" in str(error)
else:
    raise SystemExit("the run should have failed")
assert theirs.mixed_precision == Accelerator().mixed_precision == "bf16"
""")


def test_an_accelerator_made_afterwards_may_have_any_settings(run) -> None:
    run("""
train(precision="no")
adapter(data, lora=None, head=16, steps=2).run(folder / "head")  # computes features before it trains
assert not AcceleratorState._shared_state and not GradientState._shared_state and not PartialState._shared_state
theirs = Accelerator(mixed_precision="bf16", gradient_accumulation_steps=2)
assert theirs.mixed_precision == "bf16" and theirs.gradient_accumulation_steps == 2
assert dtype_inside(theirs) == torch.bfloat16
""")


def test_training_takes_the_precision_of_an_accelerator_unless_it_is_given_one(run) -> None:
    run("""
train("alone", precision="bf16"), train("alone in full", precision="no")
theirs = Accelerator(cpu=True, mixed_precision="bf16")
train("as theirs"), train("in full", precision="no")

def losses(name):
    weights = torch.load(folder / name / "checkpoints" / "step-00000002.pt")["weights"]
    return torch.cat([value.flatten() for value in weights.values()])

assert torch.equal(losses("alone"), losses("as theirs"))
assert torch.equal(losses("alone in full"), losses("in full"))
assert not torch.equal(losses("as theirs"), losses("in full"))
assert theirs.mixed_precision == "bf16"
""")

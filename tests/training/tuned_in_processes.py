"""Runs for the tests that need processes of their own: `tuned_in_processes.py DATA '[{"folder": "...", ...}, ...]'`.

Each entry is a run: `tuning` with the other keys as its changes, except

    double     train in float64
    loss       the kind of the loss
    adapter    train an adapter without dropout, instead of all weights
    random     switch on what draws random numbers: stochastic depth and augmentation; and the average of the weights
    adversary  tune with an adversary of that kind
    sharded    shard the model (FSDP2), in this run and all after it: accelerate does so on accelerators only, here its
               code is switched on for processes on a CPU
    dies_at    the process kills itself in that step
"""

import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from dreamsim_guidance.training import trainer
from dreamsim_guidance.training.accelerate_state import own_accelerate_state
from dreamsim_guidance.training.adversarial import Adversarial
from dreamsim_guidance.training.augmentation import Augmentation
from dreamsim_guidance.training.base_models import Scratch
from dreamsim_guidance.training.tuning import LoRA, Tuning
from dreamsim_guidance.training.vote_loss_config import VoteLossConfig


def shard() -> None:
    os.environ |= {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_TRANSFORMER_CLS_TO_WRAP": "Block",
        "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    }
    from accelerate import FullyShardedDataParallelPlugin
    from accelerate.utils import DistributedType

    start = Accelerator.__init__

    def as_sharded(self: Accelerator, *arguments: Any, **options: Any) -> None:
        start(self, *arguments, **options)
        self.state.distributed_type = DistributedType.FSDP
        self.state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=2)

    Accelerator.__init__ = as_sharded  # type: ignore[method-assign]


def die_in_step(number: int) -> None:
    work = trainer._Run._step

    def die(self: Any, step: int, pieces: Any) -> Any:
        if step == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return work(self, step, pieces)

    trainer._Run._step = die  # type: ignore[method-assign]


def randomness() -> dict[str, Any]:
    small = Scratch(size=32, width=32, depth=2, heads=2, patch=8, drop_path=0.3)
    return {"augmentation": Augmentation(brightness=0.2), "average": 0.9, "scratch": small}


def main() -> None:
    sys.path.append(str(Path(__file__).parents[1]))  # what the tests share; its own folder is there
    from tiny_tuning import InDouble, adapter, tuning

    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    data, sharded = Path(sys.argv[1]), False
    for job in json.loads(sys.argv[2]):
        folder, kind = Path(job.pop("folder")), InDouble if job.pop("double", False) else Tuning
        if job.pop("sharded", False) and not sharded:
            shard()
            sharded = True
        if "loss" in job:
            job["loss"] = VoteLossConfig(job["loss"])
        if "adversary" in job:
            job["adversarial"] = Adversarial(job.pop("adversary"), steps=1)
        if job.pop("random", False):
            job |= randomness()
        if "dies_at" in job:
            die_in_step(job.pop("dies_at"))
        if job.pop("adapter", False):
            adapter(data, kind, lora=LoRA(4, 8.0, dropout=0.0), **job).run(folder)
        else:
            tuning(data, kind, **job).run(folder)
        if "WORLD_SIZE" in os.environ:
            with own_accelerate_state():
                accelerator = Accelerator(cpu=True)
                state = f"processes={accelerator.num_processes} sharded={sharded and accelerator.is_fsdp2}"
            print(f"{folder.name}: {state}", file=sys.stderr)


if __name__ == "__main__":
    main()

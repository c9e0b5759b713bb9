"""One run for the tests that need processes of their own: `tuned_in_processes.py FOLDER DATA '{"batch": 5, ...}'`.

accelerate shards models over accelerators only; with `sharded` its FSDP2 code is switched on for processes on a CPU.
"""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from dreamsim_guidance.training.augmentation import Augmentation
from dreamsim_guidance.training.base_models import Scratch
from dreamsim_guidance.training.tuning import LoRA


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


def main() -> None:
    sys.path.append(str(Path(__file__).parents[1]))  # what the tests share; its own folder is there
    from test_tuning import adapter, tuning

    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder, data, changes = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    sharded, lora = changes.pop("sharded", False), changes.pop("lora", False)
    if sharded:
        shard()
    if changes.pop("random", False):
        small = Scratch(size=32, width=32, depth=2, heads=2, patch=8, drop_path=0.3)
        changes |= {"augmentation": Augmentation(brightness=0.2), "average": 0.9, "scratch": small}
    if lora:
        adapter(data, lora=LoRA(4, 8.0, dropout=0.0), **changes).run(folder)
    else:
        tuning(data, **changes).run(folder)
    if "WORLD_SIZE" in os.environ:
        accelerator = Accelerator(cpu=True)
        print(f"processes={accelerator.num_processes} sharded={sharded and accelerator.is_fsdp2}", file=sys.stderr)


if __name__ == "__main__":
    main()

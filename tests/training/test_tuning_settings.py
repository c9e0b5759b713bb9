from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_tuning import adapter, tuning

from dreamsim_guidance.training.augmentation import Augmentation
from dreamsim_guidance.training.base_models import Scratch
from dreamsim_guidance.training.optimiser import Optimiser
from dreamsim_guidance.training.tuning import LoRA


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora": None, "all_weights": False, "scratch": None}, "nothing would be trained"),
        ({"all_weights": False, "lora": LoRA()}, "a model from nothing must be trained as a whole"),
        ({"lora": LoRA(), "all_weights": True}, "all_weights trains what an adapter would add to"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"average": 1.0}, "average is a momentum between 0 and 1"),
        ({"workers": -1}, "workers must not be negative"),
        ({"optimiser": {"learning_rate": -1.0}}, "learning_rate must be a positive number"),
        ({"optimiser": {"kind": "sgd"}}, "unknown kind 'sgd'; known: adam, adamw"),
        ({"optimiser": {"schedule": "step"}}, "unknown schedule 'step'; known: constant"),
        ({"head": 0, "all_weights": True}, "head is a width of at least 1"),
        ({"seed": -1}, "seed must not be negative"),
        ({"precision": "fp8"}, "unknown precision 'fp8'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    data: Path, changes: dict[str, Any], message: str, unchecked: None
) -> None:
    with pytest.raises(ValueError, match=message):
        tuning(data, **{k: Optimiser(**v) if k == "optimiser" else v for k, v in changes.items()})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LoRA(dropout=1.5), "a dropout from 0 to below 1"),
        (lambda: LoRA(targets="qkv"), "targets are several names"),  # type: ignore[arg-type]
        (lambda: Scratch(width=30), "size must be a multiple of patch, width of heads and of 4"),
        (lambda: Scratch(depth=0), "sizes must be at least 1"),
        (lambda: Augmentation(crop=2.0), "crop is a share of the area"),
    ],
)
def test_impossible_parts_of_a_run_are_refused(build: Callable[[], Any], message: str, unchecked: None) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": Path("/nowhere")}, "weights are those of a published variant"),
        ({"pretrained": False}, "'pocket' comes with its weights"),
        ({"model": "scratch"}, "a model from nothing needs its sizes"),
    ],
)
def test_weights_that_would_not_be_read_are_refused(
    data: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        adapter(data, **changes).run(tmp_path)

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dreamsim_guidance import DreamSim, cli
from dreamsim_guidance.data.readers.nights import read_nights
from dreamsim_guidance.evaluation.judging import evaluate
from dreamsim_guidance.evaluation.metrics.embedding_metric import EmbeddingMetric
from dreamsim_guidance.experiment.fields import override
from dreamsim_guidance.experiment.registry import load
from dreamsim_guidance.preprocess import save_image
from dreamsim_guidance.training.augmentation import Augmentation
from dreamsim_guidance.training.tuning import LoRA

NIGHTS = [
    # recipe, model, rate, batch, epochs, adapter (rank, alpha, dropout) or hidden width: the original's configurations
    ("train-ensemble-lora", "ensemble", 3e-4, 16, 6, (16, 8.0, 0.3)),
    ("train-single-lora", "dino_vitb16", 3e-4, 32, 8, (16, 32.0, 0.2)),
    ("train-patch-lora", "dino_vitb16_patch", 3e-4, 32, 8, (16, 32.0, 0.2)),
    ("train-mlp", "ensemble", 3e-4, 512, 20, 512),
]


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four triplets in NIGHTS' layout."""
    folder, random = tmp_path_factory.mktemp("nights"), np.random.default_rng(0)
    with (folder / "data.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        votes = ["left_vote", "right_vote", "votes"]
        writer.writerow(["id", *votes, "ref_path", "left_path", "right_path", "split", "is_imagenet", "prompt"])
        for i in range(4):
            names = [f"ref/{i}.png", f"distort/{i}_0.png", f"distort/{i}_1.png"]
            for name in names:
                save_image(torch.from_numpy(random.random((1, 3, 7, 7))).float(), folder / name)
            writer.writerow([i, i % 2, 1 - i % 2, 7, *names, "train" if i < 2 else "val", False, ""])
    return folder


@pytest.mark.parametrize(("name", "model", "rate", "batch", "epochs", "tuned"), NIGHTS)
def test_recipes_on_nights_have_the_originals_settings(
    name: str, model: str, rate: float, batch: int, epochs: int, tuned: Any
) -> None:
    config = load(name).config
    loop, optimiser = config.loop, config.loop.optimiser
    assert (config.model, optimiser.learning_rate, loop.batch, loop.epochs) == (model, rate, batch, epochs)
    assert (optimiser.kind, optimiser.betas, optimiser.weight_decay, optimiser.schedule) == (
        "adam",
        (0.5, 0.999),
        0,
        "constant",
    )
    assert (config.loss.kind, config.loss.margin, config.normalize_embeds) == ("hinge", 0.05, False)
    if isinstance(tuned, tuple):
        assert config.lora == LoRA(*tuned, targets=("qkv",)) and config.head is None
    else:
        assert config.lora is None and config.head == tuned


def test_fields_of_a_training_recipe_are_set_from_the_command_line(nights: Path, tmp_path: Path) -> None:
    words = f"run train-single-lora model=pocket data={nights} loop.steps=2 loop.batch=2 lora.rank=2 loss.kind=logistic"
    assert cli.main([*words.split(), "loop.workers=0", "loop.trackers=", "--folder", str(tmp_path / "run")]) == 0
    written = json.loads((tmp_path / "run" / "recipe.json").read_text())["config"]["fields"]
    assert written["lora"]["fields"]["rank"] == 2 and written["loss"]["fields"]["kind"] == "logistic"
    assert json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())["r"] == 2


def test_parts_of_a_recipe_are_removed_and_added_by_name() -> None:
    config = override(load("train-ensemble-lora").config, ["lora=None", "head=16", "augmentation.crop=0.9"])
    assert config.lora is None and config.head == 16 and config.augmentation == Augmentation(crop=0.9)
    config = override(load("train-mlp").config, ["lora.rank=4", "--loop.batch", "8"])
    assert config.lora == LoRA(rank=4) and config.head == 512 and config.loop.batch == 8
    assert override(load("train-materials-augmented").config, ["augmentation=None"]).augmentation is None
    with pytest.raises(ValueError, match="nothing would be trained"):
        override(load("train-ensemble-lora").config, ["lora=None"])


def test_missing_judgments_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        cli.main(["run", "train-ensemble-lora", f"data={tmp_path / 'nights'}", "--folder", str(tmp_path / "run")]) == 2
    )
    assert "judgments not found" in capsys.readouterr().err


def test_the_pocket_recipe_draws_tunes_and_compares(tmp_path: Path) -> None:
    config = load("train-pocket").config
    loop = replace(config.tuning.loop, steps=3, batch=8, validate_every=3, trackers=())
    small = replace(config, triplets=40, workers=1, tuning=replace(config.tuning, data=tmp_path / "scenes", loop=loop))
    results = small.run(tmp_path)
    for split in ("test", "test_held_out"):
        judgments = read_nights(tmp_path / "scenes", split)
        metric = EmbeddingMetric("after", DreamSim(tmp_path / "model.safetensors"))
        report = evaluate(judgments, {"after": metric}, ["majority"], progress=False).report
        assert results[split]["after"]["value"] == report.agreement["after"]["majority"].value
        gain = results[split]["after"]["value"] - results[split]["before"]["value"]
        assert results[split]["gain"]["value"] == pytest.approx(gain)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", [row[0] for row in NIGHTS] + ["train-modern-lora"])
def test_full_size_recipes_build_and_step_on_random_weights(name: str, nights: Path, tmp_path: Path) -> None:
    config = load(name).config
    loop = replace(config.loop, steps=2, batch=1, workers=0, trackers=(), precision="no", validate_every=2)
    results = replace(config, data=nights, pretrained=False, save_model=False, loop=loop).run(tmp_path)
    assert results["steps"] == 2 and 0 <= results["validation agreement"] <= 1
    history = json.loads((tmp_path / "history.json").read_text())
    assert len({row["validation loss"] for row in history if "validation loss" in row}) == 2  # the steps changed it

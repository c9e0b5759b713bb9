from pathlib import Path

import pytest
from judged_pictures import write_judged_pictures
from tiny_tuning import adapter, tuning

from dreamsim_guidance import DreamSim
from dreamsim_guidance.data.readers.nights import read_nights
from dreamsim_guidance.evaluation.judging import evaluate
from dreamsim_guidance.evaluation.metrics.embedding_metric import EmbeddingMetric
from dreamsim_guidance.experiment.registry import load
from dreamsim_guidance.training.set_adapters import SetAdapters


def test_every_adapter_is_judged_on_every_set(tmp_path: Path) -> None:
    sets = tuple(write_judged_pictures(tmp_path / name, seed=seed) for seed, name in enumerate(("first", "second")))
    results = SetAdapters(sets, adapter(Path("replaced"), steps=2, validate_every=2)).run(tmp_path / "run")
    assert {name: list(row) for name, row in results["agreement"].items()} == {
        name: ["first", "second"] for name in ("untuned", "first", "second")
    }
    alone = {"tuned": EmbeddingMetric("tuned", DreamSim(tmp_path / "run" / "second" / "model.safetensors"))}
    expected = evaluate(read_nights(sets[0], "val"), alone, ["majority"], progress=False).report
    crossed = results["agreement"]["second"]["first"]
    assert crossed["value"] == expected.agreement["tuned"]["majority"].value and crossed["count"] == 8
    assert "| second" in (tmp_path / "run" / "table.md").read_text()


def test_settings_that_share_no_base_are_refused() -> None:
    with pytest.raises(ValueError, match="folders with different names"):
        SetAdapters((Path("a/set"), Path("b/set")), adapter(Path("replaced")))
    with pytest.raises(ValueError, match="needs an adapter for each, and no head"):
        SetAdapters((Path("set"),), tuning(Path("replaced")))


def test_the_recipe_reads_votes_of_one_person_too() -> None:
    config = load("train-set-adapters").config
    assert (config.tuning.model, config.tuning.least_votes) == ("photographs", 1)

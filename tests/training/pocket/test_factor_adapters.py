import math
import shutil
from pathlib import Path

import pytest
import torch

from dreamsim_guidance import DreamSim
from dreamsim_guidance.data.scenes.factors import FactorTable
from dreamsim_guidance.data.scenes.scene import WEIGHTS, factor_distances
from dreamsim_guidance.experiment.registry import load
from dreamsim_guidance.pocket import load_factor_metric
from dreamsim_guidance.training.pocket.factor_adapters import factor_agreements, mixed_scenes, triplet_loss


def test_the_table_has_the_distances_of_each_factor() -> None:
    scenes, _ = mixed_scenes(8, "val")
    table = FactorTable(scenes).by_factor(torch.arange(8))
    assert set(table) == set(WEIGHTS)
    for i, a in enumerate(scenes):
        for j, b in enumerate(scenes):
            for name, expected in factor_distances(a, b).items():
                assert float(table[name][i, j]) == pytest.approx(expected, abs=1e-6)


def test_the_loss_is_the_mean_over_all_ordered_triplets_of_the_batch() -> None:
    distances, factor = (x + x.T for x in torch.rand(2, 5, 5, dtype=torch.float64).triu(1))
    mean = float(distances.sum()) / 20
    expected = [
        math.log1p(math.exp(float(distances[i, j] - distances[i, k]) / (0.3 * mean)))
        for i in range(5)
        for j in range(5)
        for k in range(5)
        if len({i, j, k}) == 3 and factor[i, j] < factor[i, k] - 0.1
    ]
    loss = triplet_loss(distances, factor, margin=0.1, temperature=0.3)
    assert float(loss) == pytest.approx(sum(expected) / len(expected), abs=1e-12)
    scaled = triplet_loss(1e-3 * distances, factor, margin=0.1, temperature=0.3)
    assert float(scaled) == pytest.approx(float(loss), abs=1e-12)  # making all pictures alike gains nothing


def test_agreement_counts_triplets_that_a_factor_orders() -> None:
    angles = torch.tensor([0.0, 0.1, 0.3, 0.9], dtype=torch.float64)
    directions = torch.stack([angles.cos(), angles.sin()], 1)
    along = (angles[:, None] - angles[None]).abs()
    factors = {"same": along, "opposite": 1 - along, "constant apart": (along > 0.5).double()}
    agreement = factor_agreements(directions, factors, margin=0.01)
    assert agreement["same"].value == 1.0 and agreement["opposite"].value == 0.0
    assert agreement["constant apart"].value == 1.0 and agreement["constant apart"].count == 3


def test_the_recipe_trains_resumes_and_writes_a_table(tmp_path: Path) -> None:
    config = load("train-factor-adapters-tiny").config
    results = config.run(tmp_path)
    assert set(results) == {"untuned", "colour", "shape", "people"}
    written = [tmp_path / "adapters" / name / "adapter_model.safetensors" for name in ("colour", "shape")]
    contents = [file.read_bytes() for file in written]
    assert contents[0] != contents[1]
    shutil.rmtree(written[1].parent)
    assert config.run(tmp_path) == results  # from the checkpoint of the last step
    assert [file.read_bytes() for file in written] == contents
    assert "| colour" in (tmp_path / "table.md").read_text()
    metric = load_factor_metric(tmp_path / "adapters")
    x, y = torch.rand(2, 1, 3, 64, 64)
    by_name = {name: float(metric(x, y, adapters=[name])) for name in (None, "people", "colour", "shape")}
    assert len(set(by_name.values())) == 4
    torch.testing.assert_close(metric(x, y, adapters="people"), DreamSim("pocket")(x, y), atol=1e-5, rtol=0)
    with pytest.raises(FileNotFoundError, match="has no adapters"):
        load_factor_metric(tmp_path / "adapters" / "colour")


def test_each_adapter_that_ships_sees_its_factor_best() -> None:
    metric = load_factor_metric()
    scenes, pictures = mixed_scenes(64, "test")
    table = FactorTable(scenes).by_factor(torch.arange(len(scenes)))
    names = ("colour", "shape", "layout", "texture")
    agreement = {}
    for name in (None, *names):
        with torch.no_grad():
            directions = metric.directions(pictures.float() / 255, adapters=[name])
        agreement[name] = factor_agreements(directions, {factor: table[factor] for factor in names}, 0.1)
    for name in names:
        values = {other: agreement[other][name].value for other in agreement}
        assert max(values, key=values.__getitem__) == name and values[name] > values[None] + 0.02

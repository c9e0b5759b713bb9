"""The comparison of losses for the pocket autoencoder, at toy size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dreamsim_guidance.data.scenes.pocket_scenes import draw_pocket_scenes
from dreamsim_guidance.recipes.pocket_diffusion import (
    ablate_autoencoder_loss,
    ablate_autoencoder_loss_tiny,
    train_pocket_latents_tiny,
)
from dreamsim_guidance.training.fit import step_generator
from dreamsim_guidance.training.pocket import loss_ablation_run
from dreamsim_guidance.training.pocket.autoencoder import AutoencoderLearner, autoencoder
from dreamsim_guidance.training.pocket.loss_ablation import AblateAutoencoderLoss


def test_the_loss_of_the_shipped_autoencoder_is_what_its_docstring_says() -> None:
    settings = train_pocket_latents_tiny().autoencoder
    _, pictures = draw_pocket_scenes(4, 32)
    network = autoencoder(settings, 32)
    learner = AutoencoderLearner(network, pictures, settings)
    value, generator = learner.loss(step_generator(0, 0), 1.0), step_generator(0, 0)
    x = pictures[torch.randint(4, (settings.batch,), generator=generator)].float() / 127.5 - 1
    posterior = network.encode(x).latent_dist
    y = network.decode(posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=generator)).sample
    e = y - x
    edges = e.diff(dim=2).abs().mean() + e.diff(dim=3).abs().mean()
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    expected = 2 * e.square().mean() + e.abs().mean() / 2 + settings.edges * edges + settings.kl * kl
    torch.testing.assert_close(value, expected)


def test_a_comparison_writes_its_table_and_pictures_and_resumes_by_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ablate_autoencoder_loss_tiny()
    results = config.run(tmp_path)
    names = ["L2", "L2 + L1 + edges (shipped)", "L2 + DreamSim", "L2 + DreamSim, balanced"]
    assert [row["loss"] for row in results["rows"]] == names
    plain, _, dreamsim, balanced = results["rows"]
    assert plain["PSNR, from L2"]["value"] == 0
    assert len({row["held-out branch"] for row in results["rows"]}) == 4
    assert dreamsim["weight"] == 0.03 and balanced["weight"] == 0.5
    assert {"table.md", "curve.png", "sheet.png"} <= {file.name for file in tmp_path.iterdir()}
    assert len((tmp_path / "table.md").read_text().splitlines()) == 6

    trained: list[str] = []
    train = loss_ablation_run._trained

    def recording(config: AblateAutoencoderLoss, arm: Any, *rest: Any) -> Any:
        trained.append(arm.key)
        return train(config, arm, *rest)

    monkeypatch.setattr(loss_ablation_run, "_trained", recording)
    cell = tmp_path / "cells" / "L2 + DreamSim, balanced 0.5, seed 0.safetensors"
    before = load_file(cell)
    cell.unlink()
    assert config.run(tmp_path) == results
    assert trained == ["L2 + DreamSim, balanced 0.5"]
    for name, value in load_file(cell).items():
        assert torch.equal(value, before[name]), name


def test_settings_out_of_range_are_refused() -> None:
    config = ablate_autoencoder_loss()
    for changes, message in (({"dreamsim": (0.1, 0.0)}, "weights of dreamsim"), ({"seeds": ()}, "at least one seed")):
        with pytest.raises(ValueError, match=message):
            AblateAutoencoderLoss(config.autoencoder, **changes)  # type: ignore[arg-type]

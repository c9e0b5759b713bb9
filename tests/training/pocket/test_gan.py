"""The pocket GAN: its generator's interface, its training, and the shipped weights."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dreamsim_guidance import StyleGAN
from dreamsim_guidance.data.scenes.pocket_scenes import draw_pocket_scenes
from dreamsim_guidance.pocket import load_pocket
from dreamsim_guidance.pocket_gan import PocketGenerator, read_generator
from dreamsim_guidance.recipes.pocket_gan import train_pocket_gan, train_pocket_gan_tiny
from dreamsim_guidance.training.fit import fit, step_generator
from dreamsim_guidance.training.fit_settings import FitSettings
from dreamsim_guidance.training.pocket.gan import AdversarialLearner, Discriminator, sample_generator, save_generator


def learner(**changes: float) -> AdversarialLearner:
    torch.manual_seed(0)
    settings = dataclasses.replace(train_pocket_gan_tiny(), **changes)  # type: ignore[arg-type]
    return AdversarialLearner(PocketGenerator((12, 8), 8, 8), draw_pocket_scenes(12, 8)[1], settings)


def test_the_generator_has_the_interface_of_stylegans() -> None:
    G = PocketGenerator((12, 8, 4), z_dim=6, w_dim=7)
    ws = G.mapping(torch.randn(2, 6), None)
    assert ws.shape == (2, G.num_ws, 7) and G.num_ws == 6 and G.img_resolution == 16
    assert G(torch.randn(2, 6)).shape == G.synthesis(ws, noise_mode="const").shape == (2, 3, 16, 16)
    assert sum(name.endswith("noise_const") for name, _ in G.synthesis.named_buffers()) == 5
    G.mapping.w_avg.fill_(3.0)
    assert torch.equal(G.mapping(torch.randn(2, 6), None, truncation_psi=0.0), torch.full((2, 6, 7), 3.0))
    for layer in G.synthesis.layers:
        layer.noise_strength.data.fill_(5.0)
    const, none = (G.synthesis(ws, noise_mode=mode) for mode in ("const", "none"))
    assert torch.equal(const, G.synthesis(ws)) and not torch.allclose(const, none)
    assert not torch.equal(G.synthesis(ws, noise_mode="random"), G.synthesis(ws, noise_mode="random"))


def test_every_style_changes_the_image() -> None:
    G = PocketGenerator((12, 8, 4), z_dim=6, w_dim=7)
    ws = G.mapping(torch.randn(1, 6), None).detach().clone().requires_grad_()
    G.synthesis(ws).square().sum().backward()
    assert ws.grad is not None and (ws.grad.abs().sum((0, 2)) > 0).all()


def test_each_network_learns_from_its_own_term_alone() -> None:
    one = learner(penalty_every=1_000_000)
    one.loss(step_generator(0, 0), 0.0).backward()
    torch.manual_seed(0)
    settings, random = one.settings, step_generator(0, 0)
    chosen = torch.randint(len(one.pictures), (settings.batch,), generator=random)
    z = torch.randn(settings.batch, one.generator.z_dim, generator=random)
    torch.manual_seed(int(torch.randint(2**31, (), generator=random)))
    generated = one.generator(z, noise_mode="random")
    real = one.pictures[chosen].float() / 127.5 - 1
    softplus, D = torch.nn.functional.softplus, one.discriminator
    of_generator = softplus(-D(generated)).mean()
    of_discriminator = softplus(D(generated.detach())).mean() + softplus(-D(real)).mean()
    for network, term in ((one.generator, of_generator), (D, of_discriminator)):
        parameters = [p for p in network.parameters() if p.requires_grad]
        for p, g in zip(
            parameters, torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True), strict=True
        ):
            torch.testing.assert_close(
                p.grad if p.grad is not None else torch.zeros(()), g if g is not None else torch.zeros(())
            )


def test_the_penalty_is_that_of_the_gradient_at_scenes() -> None:
    plain, penalised = (learner(penalty_every=n, gamma=0.5) for n in (1_000_000, 1))
    a, b = (one.loss(step_generator(0, 0), 0.0) for one in (plain, penalised))
    chosen = torch.randint(12, (plain.settings.batch,), generator=step_generator(0, 0))
    real = (plain.pictures[chosen].float() / 127.5 - 1).requires_grad_()
    (slope,) = torch.autograd.grad(plain.discriminator(real).sum(), real)
    assert float((b - a).detach()) == pytest.approx(0.25 * float(slope.square().sum((1, 2, 3)).mean()), rel=1e-3)


def test_the_discriminator_sees_whether_a_batch_varies() -> None:
    torch.manual_seed(0)
    D, image = Discriminator((12, 8)), torch.randn(1, 3, 8, 8)
    other = torch.cat([image, torch.randn(3, 3, 8, 8)])
    assert not torch.allclose(D(image.expand(4, -1, -1, -1))[0], D(other)[0])


def test_an_interrupted_training_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(step: int) -> None:
        raise Stop

    settings = FitSettings(4, 2e-3, warmup=1, weight_decay=0.0, save_every=2, log_every=1, betas=(0.0, 0.99))
    whole, parts = learner(), learner()
    fit(whole, settings, 0, tmp_path / "whole.pt")
    with pytest.raises(Stop):
        fit(parts, settings, 0, tmp_path / "parts.pt", watch=stop)
    parts = learner()
    fit(parts, settings, 0, tmp_path / "parts.pt")
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in parts.state_dict().items())


def test_the_recipe_writes_a_generator_that_is_read_again(tmp_path: Path) -> None:
    results = train_pocket_gan_tiny().run(tmp_path)
    assert set(results) == {"parameters", "frechet", "frechet_of_scenes", "pictures"}
    assert (tmp_path / "samples.png").is_file()
    card = json.loads((tmp_path / "pocket_gan" / "card.json").read_text())
    assert card["frechet"] == results["frechet"] and card["recipe"] == "train-pocket-gan"
    G = read_generator(tmp_path / "pocket_gan")
    assert not any(p.requires_grad for p in G.parameters()) and not G.training
    stored = load_file(tmp_path / "pocket_gan" / "generator.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.float16}
    w = G.mapping(torch.randn(4000, G.z_dim, generator=torch.Generator().manual_seed(3)))[:, 0]
    assert G.mapping.w_avg.tolist() == pytest.approx(w.mean(0).tolist(), abs=0.1)
    copy = tmp_path / "copy"
    save_generator(G, copy, {})
    z = torch.randn(2, G.z_dim)
    torch.testing.assert_close(read_generator(copy)(z), G(z), atol=1e-3, rtol=1e-2)


def test_the_shipped_generator_is_that_of_the_recipe() -> None:
    G, settings = load_pocket("gan"), train_pocket_gan()
    assert (G.channels, G.z_dim, G.w_dim, G.depth) == (
        settings.channels,
        settings.z_dim,
        settings.w_dim,
        settings.depth,
    )
    images = sample_generator(G, 64, 0)
    assert images.shape == (64, 3, 32, 32) and float(images.std(0).mean()) > 0.1  # it has not collapsed to one image
    generator = StyleGAN(G, noise=True, samples=100)
    leaves = generator.init(3, torch.Generator().manual_seed(0))
    assert math.isfinite(float(generator(**leaves).mean()))

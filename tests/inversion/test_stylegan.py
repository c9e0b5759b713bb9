"""Inversion through StyleGANs of any shape: spaces, noise, labels, and that the network stays as it was."""

import copy

import pytest
import torch
from inversion.styled_networks import Plain, Styled
from torch import Tensor, nn

from dreamsim_guidance import StyleGAN, invert
from dreamsim_guidance.losses import MSE
from dreamsim_guidance.pipelines.decoder import bounded

SHAPES = {
    "square": {},
    "wide": {"start": (3, 5), "levels": 1},
    "deep": {"levels": 3, "z_dim": 5, "w_dim": 7},
    "without an average": {"average": False},
    "one w for all layers": {"broadcast": False},
}


def pictures(generator: StyleGAN, leaves: dict[str, Tensor]) -> Tensor:
    """What `invert` returns for leaves."""
    with torch.no_grad():
        return bounded((generator(**leaves) + 1) / 2)


def own_samples(G: Styled, count: int, labels: Tensor | None = None) -> Tensor:
    z = torch.randn(count, G.z_dim, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return (copy.deepcopy(G).eval()(z, labels) + 1) / 2


@pytest.mark.parametrize("space", ["z", "w", "w+"])
@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_leaves_have_the_networks_shapes_and_give_the_returned_images(space: str, noise: bool, shape: str) -> None:
    G = Styled(**SHAPES[shape])  # type: ignore[arg-type]
    generator = StyleGAN(G, space, noise, samples=200)  # type: ignore[arg-type]
    target = own_samples(G, 2)
    result = invert(MSE(target), through=generator, steps=8, batch=2, search=8, restarts=2, lr=0.02, progress=False)
    name, shape_of_code = {"z": ("z", (G.z_dim,)), "w": ("w", (G.w_dim,)), "w+": ("ws", (G.num_ws, G.w_dim))}[space]
    noises = {name: b for name, b in G.synthesis.named_buffers() if name.endswith("noise_const")}
    shapes = {name: (2, *shape_of_code)} | ({name: (2, 1, *b.shape) for name, b in noises.items()} if noise else {})
    assert {name: tuple(leaf.shape) for name, leaf in result.leaves.items()} == shapes
    assert torch.equal(pictures(generator, result.leaves), result.images)
    assert result.images.shape == target.shape
    assert (result.loss < result.history["loss"][0]).all()


@pytest.mark.parametrize("noise", [False, True])
def test_the_network_is_never_changed(noise: bool) -> None:
    G = Styled(c_dim=3).train()  # in training mode its mapping network moves w_avg when it is called
    before = copy.deepcopy(G.state_dict())
    for space in ("z", "w", "w+"):
        generator = StyleGAN(G, space, noise, c=1, samples=100)  # type: ignore[arg-type]
        invert(MSE(own_samples(G, 1, torch.eye(3)[1:2])), through=generator, steps=3, search=4, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in G.state_dict().items())
    assert G.training and all(p.grad is None and p.requires_grad for p in G.parameters())


def test_optimised_noise_is_needed_for_the_returned_image() -> None:
    G = Styled()
    generator = StyleGAN(G, "w", noise=True, samples=100)
    target = own_samples(Styled(seed=1), 1)
    result = invert(MSE(target), through=generator, steps=60, search=8, progress=False)
    code_only = {**generator.init(1, torch.Generator()), "w": result.leaves["w"]}
    assert (pictures(generator, code_only) - result.images).abs().max() > 0.02
    for name in generator.noises:
        assert result.leaves[name].mean((1, 2, 3)).abs().max() < 1e-5
        assert result.leaves[name].square().mean((1, 2, 3)).sqrt() == pytest.approx(1, abs=1e-4)


def test_the_regulariser_keeps_noise_white() -> None:
    G = Styled(levels=3)
    target = own_samples(Styled(levels=3, seed=1), 1)

    def left(regularise: float) -> float:
        generator = StyleGAN(G, "w", noise=True, regularise=regularise, samples=100)
        result = invert(MSE(target), through=generator, steps=100, search=8, lr=0.05, progress=False)
        noise = result.leaves["b3.noise_const"]
        return sum(float((noise * noise.roll(1, d)).mean().square()) for d in (2, 3))

    assert left(1e5) < 1e-6 < left(0.0)


def test_noise_penalty_is_nvidias() -> None:
    G = Styled(start=(8, 8), levels=1)
    generator = StyleGAN(G, "z", noise=True)
    leaves = generator.init(2, torch.Generator().manual_seed(0))
    leaves = {
        name: leaf + torch.arange(2.0).view(-1, 1, 1, 1) if "noise" in name else leaf for name, leaf in leaves.items()
    }
    expected = torch.zeros(2)
    for name in ("b0.noise_const", "b1.noise_const"):
        for sample in range(2):
            noise = leaves[name][sample, 0]
            while True:
                right, down = (torch.roll(noise, 1, d) for d in (1, 0))
                expected[sample] += (noise * right).mean() ** 2 + (noise * down).mean() ** 2
                if len(noise) <= 8:
                    break
                noise = noise.view(len(noise) // 2, 2, -1, 2).mean((1, 3))
    torch.testing.assert_close(generator.penalty(**leaves), 1e5 * expected)


def test_styles_are_kept_together_by_their_distances_from_the_first() -> None:
    G = Styled()
    generator = StyleGAN(G, "w+", samples=100, delta=0.5)
    ws = torch.randn(3, G.num_ws, G.w_dim)
    away = [sum(float((w - row[0]).norm()) for w in row[1:]) for row in ws]
    assert generator.penalty(ws=ws).tolist() == pytest.approx([0.5 * a for a in away], rel=1e-5)
    same = ws[:, :1].expand_as(ws).clone().requires_grad_()
    generator.penalty(ws=same).sum().backward()
    assert same.grad is not None and same.grad.isfinite().all()
    target = own_samples(Styled(seed=1), 1)

    def spread(delta: float) -> float:
        through = StyleGAN(G, "w+", samples=100, delta=delta)
        ws = invert(MSE(target), through=through, steps=60, search=8, progress=False).leaves["ws"]
        return float((ws - ws[:, :1]).norm(dim=2).sum())

    assert spread(0.1) < 0.5 * spread(0.0)


def test_centre_and_scale_are_those_of_the_samples() -> None:
    G = Styled(average=False).eval()
    w = G.mapping(torch.randn(20_000, G.z_dim), None)[:, 0].detach()
    generator = StyleGAN(G, "w")
    assert generator.centre["w"][0] == pytest.approx(w.mean(0), abs=0.05)
    assert generator.scale["w"][0] == pytest.approx(w.std(0), rel=0.05)  # for each dimension, not NVIDIA's norm
    averaged = Styled().eval()
    averaged.mapping.w_avg.normal_()
    assert torch.equal(StyleGAN(averaged, "w+", samples=10).centre["ws"][0, 0], averaged.mapping.w_avg)


def test_a_dimension_that_never_changes_stays() -> None:
    G = Styled()
    G.mapping.second.weight.data[3] = 0
    result = invert(MSE(own_samples(G, 1)), through=StyleGAN(G, samples=100), steps=5, search=4, progress=False)
    assert result.leaves["w"].isfinite().all()


def test_the_mean_is_the_first_candidate() -> None:
    generator = StyleGAN(Styled(), "w+", samples=100)
    drawn = generator.init(4, torch.Generator().manual_seed(0))["ws"]
    assert torch.equal(drawn[0], generator.centre["ws"][0].expand_as(drawn[0]))
    assert not torch.equal(drawn[1], drawn[0])


@pytest.mark.parametrize("space", ["z", "w", "w+"])
def test_a_batch_gives_what_single_runs_give(space: str) -> None:
    G = Styled()
    targets = own_samples(G, 3)
    generator = StyleGAN(G, space, noise=True, samples=100)  # type: ignore[arg-type]
    options = {"steps": 30, "search": 8, "restarts": 2, "progress": False}
    together = invert(MSE(targets), through=generator, batch=3, **options)  # type: ignore[arg-type]
    for i in range(3):
        alone = invert(MSE(targets[i : i + 1]), through=generator, **options)  # type: ignore[arg-type]
        assert together.images[i] == pytest.approx(alone.images[0], abs=1e-4)


@pytest.mark.parametrize("space", ["z", "w", "w+"])
def test_a_batch_with_labels_gives_what_single_runs_give(space: str) -> None:
    G, classes = Styled(c_dim=4), [2, 0, 3]
    targets = own_samples(G, 3, torch.eye(4)[classes])
    options = {"steps": 30, "search": 8, "restarts": 3, "chunk": 4, "progress": False}
    generator = StyleGAN(G, space, c=classes, samples=100)  # type: ignore[arg-type]
    together = invert(MSE(targets), through=generator, **options)  # type: ignore[arg-type]
    assert len(together.images) == 3
    for i, label in enumerate(classes):
        generator = StyleGAN(G, space, c=label, samples=100)  # type: ignore[arg-type]
        alone = invert(MSE(targets[i : i + 1]), through=generator, **options)  # type: ignore[arg-type]
        assert together.images[i] == pytest.approx(alone.images[0], abs=1e-4)
        assert float(together.loss[i]) == pytest.approx(float(alone.loss[0]), abs=1e-5)


@pytest.mark.parametrize("c", [2, torch.tensor(2), torch.tensor([2]), torch.tensor([0.0, 0, 1]), torch.eye(3)[2:]])
def test_a_label_is_a_class_or_a_vector(c: object) -> None:
    G = Styled(c_dim=3)
    generator = StyleGAN(G, "z", c=c, samples=10)  # type: ignore[arg-type]
    z = torch.randn(2, G.z_dim)
    assert torch.equal(generator(z=z), G.eval()(z, torch.eye(3)[[2, 2]]))
    assert not hasattr(generator, "batch")


def test_own_samples_are_found_again_in_w() -> None:
    G = Styled(levels=2, seed=3)
    target = own_samples(G, 4)
    result = invert(MSE(target), through=StyleGAN(G, "w", samples=500), steps=200, batch=4, search=64, progress=False)
    assert (result.loss / target.var((1, 2, 3)) < 1e-4).sum() >= 3


def test_networks_with_z_alone() -> None:
    G = Plain().eval()
    generator = StyleGAN(G, "z", z_dim=(6, 1, 1))
    result = invert(MSE(torch.rand(2, 3, 8, 8)), through=generator, steps=5, batch=2, search=4, progress=False)
    assert result.leaves["z"].shape == (2, 6, 1, 1) and result.images.shape == (2, 3, 8, 8)
    labelled = StyleGAN(Plain(labels=3).eval(), "z", c=torch.eye(3)[:2], z_dim=(6, 1, 1))
    result = invert(MSE(torch.rand(2, 3, 8, 8)), through=labelled, steps=5, search=4, progress=False)
    assert torch.equal(pictures(labelled, result.leaves), result.images)


@pytest.mark.usefixtures("unchecked")
def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown space 's'; known: z, w, w\+"):
        StyleGAN(Styled(), "s")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="samples must be at least 2, got 1"):
        StyleGAN(Styled(), samples=1)
    with pytest.raises(ValueError, match="in the space 'w' the leaves are w, got ws"):
        StyleGAN(Styled(), samples=10)(ws=torch.zeros(1, 4, 9))
    with pytest.raises(TypeError, match="G must be a module, got function"):
        StyleGAN(lambda z: z, "z")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="has no mapping and synthesis networks, so there is no space 'w'"):
        StyleGAN(Plain().eval(), "w")
    with pytest.raises(ValueError, match="Plain has no attribute z_dim"):
        StyleGAN(Plain().eval(), "z")
    with pytest.raises(ValueError, match=r"Plain has BatchNorm2d \(layers.1\) in training mode; call G.eval\(\) first"):
        StyleGAN(Plain(), "z", z_dim=6)
    with pytest.raises(ValueError, match="Plain has no buffers noise_const; use noise=False"):
        StyleGAN(Plain().eval(), "z", noise=True, z_dim=6)
    with pytest.raises(ValueError, match="conditional, so it needs c: a class below 3 or a vector of 3 numbers"):
        StyleGAN(Styled(c_dim=3))
    with pytest.raises(ValueError, match="takes no labels"):
        StyleGAN(Styled(), c=1)
    with pytest.raises(ValueError, match=r"c must be classes from 0 to 2, got \[1, 3\]"):
        StyleGAN(Styled(c_dim=3), c=[1, 3])
    with pytest.raises(ValueError, match="c must be vectors of 3 numbers"):
        StyleGAN(Styled(c_dim=3), c=torch.rand(2, 2))
    with pytest.raises(ValueError, match="the generator has 2 samples, so batch cannot be 3"):
        invert(MSE(torch.rand(1, 3, 16, 16)), through=StyleGAN(Styled(c_dim=3), c=[1, 2], samples=10), batch=3)

    class Single(nn.Module):
        z_dim = 4
        mapping = nn.Linear(4, 4)

        def synthesis(self, w: Tensor) -> Tensor:
            return w[:, :3, None, None].expand(-1, -1, 8, 8)

    assert StyleGAN(Single(), "w", samples=10)(w=torch.ones(2, 4)).shape == (2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"Single has no num_ws, so there are no styles by layer; use space='w'"):
        StyleGAN(Single(), "w+", samples=10)


def test_the_noise_penalty_of_half_precision_networks_is_computed_in_float32() -> None:
    network = Styled().bfloat16()
    through = StyleGAN(network, noise=True, samples=10)
    leaves = through.init(2, torch.Generator().manual_seed(0))
    in_float32 = through.penalty(**{name: leaf.float() for name, leaf in leaves.items()})
    assert torch.equal(through.penalty(**leaves), in_float32)

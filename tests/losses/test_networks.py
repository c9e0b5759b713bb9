"""LPIPS, DISTS, CLIP and DINO cosine on random networks: laws, and parity with the packages they come from."""

from __future__ import annotations

import copy
import pickle
import sys
import warnings
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from dreamsim_guidance import Branch, DreamSim, Ensemble, Loss, PairLoss
from dreamsim_guidance.losses import DISTS, LPIPS, CLIPCosine, DINOCosine
from dreamsim_guidance.losses.feature_loss import FeatureLoss
from dreamsim_guidance.metric.backbones import BranchConfig


def lpips_network(net: str = "squeeze") -> nn.Module:
    """The module of the lpips package, its trunk with random weights, its trained linear layers."""
    lpips = pytest.importorskip("lpips")
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips calls torchvision with a deprecated argument
        return lpips.LPIPS(net=net, pnet_rand=True, verbose=False)


def dists_network(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """The module of torchmetrics, a VGG16 with random weights in place of the download."""
    dists = pytest.importorskip("torchmetrics.functional.image.dists")
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    layers = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
    monkeypatch.setattr(dists, "vgg16", lambda weights: SimpleNamespace(features=layers))
    network = dists.DISTSNetwork()
    for parameter in network.parameters():
        parameter.requires_grad_(True)  # the original leaves alpha and beta trainable: ours must freeze them
    return network


@pytest.fixture(params=["lpips", "dists"])
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FeatureLoss]:
    if request.param == "lpips":
        network, build = lpips_network(), LPIPS
    else:
        network, build = dists_network(monkeypatch), DISTS
    return lambda *reference: build(*reference, network=network)  # type: ignore[operator]


@pytest.fixture
def x() -> Tensor:
    return torch.rand(2, 3, 32, 36)


@pytest.fixture
def y() -> Tensor:
    return torch.rand(2, 3, 32, 36)


@pytest.mark.parametrize("net", ["alex", "vgg", "squeeze"])
def test_lpips_agrees_with_its_package(net: str) -> None:
    x, y = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    network = lpips_network(net)
    with torch.no_grad():
        theirs = network(x, y, normalize=True).flatten()
    torch.testing.assert_close(LPIPS(network=network)(x, y), theirs)


def test_dists_agrees_with_torchmetrics(monkeypatch: pytest.MonkeyPatch, x: Tensor, y: Tensor) -> None:
    network = dists_network(monkeypatch)
    with torch.no_grad():
        theirs = network(x, y, require_grad=True)
    # torchmetrics loses digits in 1 - sum and in E[xy] - E[x] E[y]
    torch.testing.assert_close(DISTS(network=network)(x, y), theirs, atol=1e-5, rtol=1e-3)


def test_equal_images_are_at_zero_with_a_finite_gradient(make: Callable[..., FeatureLoss], x: Tensor) -> None:
    for image in (x, torch.zeros_like(x), torch.ones_like(x), torch.full_like(x, 0.5)):
        leaf = image.clone().requires_grad_()
        loss = make()(leaf, image)
        assert torch.equal(loss, torch.zeros(2))
        assert torch.autograd.grad(loss.sum(), leaf)[0].isfinite().all()


def test_the_gradient_is_finite_where_all_features_vanish() -> None:
    NetLinLayer = pytest.importorskip("lpips").NetLinLayer

    class Dead(nn.Module):
        """An LPIPS module whose features are all zero for black images, without a rectifier to hide it."""

        def __init__(self) -> None:
            super().__init__()
            self.scaling_layer = nn.Identity()
            self.net = lambda images: (images + 1,)  # LPIPS shifts black to -1
            self.lins = nn.ModuleList([NetLinLayer(3)])

    black = torch.zeros(1, 3, 32, 32, requires_grad=True)
    loss = LPIPS(network=Dead())(black, torch.zeros(1, 3, 32, 32))
    assert torch.autograd.grad(loss.sum(), black)[0].isfinite().all()


def test_network_losses_are_symmetric_and_positive(make: Callable[..., FeatureLoss], x: Tensor, y: Tensor) -> None:
    loss = make()
    assert (loss(x, y) > 0).all()
    torch.testing.assert_close(loss(x, y), loss(y, x))


def test_the_value_of_an_image_does_not_depend_on_its_batch(
    make: Callable[..., FeatureLoss], x: Tensor, y: Tensor
) -> None:
    loss = make()
    torch.testing.assert_close(loss(x, y), torch.cat([loss(x[:1], y[:1]), loss(x[1:], y[1:])]))
    torch.testing.assert_close(loss(x, y[:1]), loss(x, y[:1].expand(2, -1, -1, -1)))


def test_cached_features_give_the_same_loss_and_gradient(
    make: Callable[..., FeatureLoss], x: Tensor, y: Tensor
) -> None:
    x.requires_grad_()
    bound, pair = make(y), make()
    assert isinstance(bound, Loss)
    torch.testing.assert_close(bound(x), pair(x, y))
    gradients = [torch.autograd.grad(value.sum(), x)[0] for value in (bound(x), pair(x, y))]
    torch.testing.assert_close(*gradients)
    assert list(bound.weights) == list(pair.weights)


def test_the_network_is_frozen_and_not_a_submodule(make: Callable[..., FeatureLoss], x: Tensor, y: Tensor) -> None:
    loss = make()
    holder = nn.ModuleDict({"loss": loss, "bound": make(y)})
    holder.train().requires_grad_(True)
    assert not list(holder.parameters())
    assert not holder.state_dict()
    assert not loss.network.training
    assert not any(parameter.requires_grad for parameter in loss.network.parameters())
    target = y.requires_grad_()
    assert not loss(x, target).requires_grad


def test_moving_the_loss_moves_its_network_and_its_features(make: Callable[..., FeatureLoss], x: Tensor) -> None:
    loss, bound = make().double(), make(x).double()
    x = x.double().requires_grad_()
    assert loss(x, 1 - x.detach()).dtype == torch.float64
    assert bound(x).dtype == torch.float64
    assert all(parameter.dtype == torch.float64 for parameter in loss.network.parameters())


def test_network_losses_survive_pickle_and_deepcopy(make: Callable[..., FeatureLoss], x: Tensor, y: Tensor) -> None:
    bound = make(y)
    for twin in (pickle.loads(pickle.dumps(bound)), copy.deepcopy(bound)):
        torch.testing.assert_close(twin(x), bound(x))
        assert not list(twin.parameters())


def test_distances_are_float32_under_autocast(make: Callable[..., FeatureLoss], x: Tensor, y: Tensor) -> None:
    expected = make()(x, y)
    with torch.autocast("cpu", torch.bfloat16):
        value = make()(x.requires_grad_(), y)
        value.sum().backward()
    assert value.dtype == torch.float32
    assert x.grad is not None
    assert x.grad.isfinite().all()
    torch.testing.assert_close(value.detach(), expected, atol=3e-2, rtol=0.1)  # bfloat16 features


@pytest.mark.usefixtures("unchecked")
def test_network_losses_refuse_images_that_they_cannot_compare(make: Callable[..., FeatureLoss], x: Tensor) -> None:
    with pytest.raises(ValueError, match="needs images of at least 32 x 32 pixels, got 20 x 40"):
        make()(torch.rand(1, 3, 20, 40), torch.rand(1, 3, 20, 40))
    with pytest.raises(ValueError, match=r"got \(2, 3, 32, 36\) and \(2, 3, 36, 32\)"):
        make()(x, x.transpose(2, 3))
    with pytest.raises(ValueError, match=r"got \(2, 3, 36, 32\) and \(2, 3, 32, 36\)"):
        make(x)(x.transpose(2, 3))
    with pytest.raises(ValueError, match=r"use \(x \+ 1\) / 2"):
        make(2 * x - 1)


@pytest.mark.usefixtures("unchecked")
def test_a_wrong_network_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown LPIPS network 'resnet'; known: alex, shift-tolerant, squeeze, vgg"):
        LPIPS(network="resnet")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="or an LPIPS module of lpips or torchmetrics, got Linear"):
        LPIPS(network=nn.Linear(1, 1))
    with pytest.raises(TypeError, match="network must be a DISTSNetwork of torchmetrics, got Linear"):
        DISTS(network=nn.Linear(1, 1))


@pytest.mark.parametrize("build", [LPIPS, DISTS])
def test_a_missing_extra_says_how_to_install_it(build: Callable[[], PairLoss], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torchmetrics"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(ImportError, match=r'pip install "dreamsim-guidance\[losses\]"'):
        build()


@pytest.mark.parametrize("build", [LPIPS, DISTS])
def test_a_failed_download_names_the_file_and_the_folder(
    build: Callable[[], PairLoss], monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(OSError, match=rf"no route to host.*put https://download.pytorch.org/.*\.pth into {tmp_path}"):
        build()


def tiny(feature: str = "cls") -> BranchConfig:
    overrides = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}
    return BranchConfig("tiny", "vit_base_patch16_224", image_size=32, feature=feature, overrides=overrides)  # type: ignore[arg-type]


@pytest.mark.parametrize(("build", "name"), [(CLIPCosine, "clip"), (DINOCosine, "dino")])
def test_the_cosine_losses_are_one_minus_the_cosine_of_the_features(
    build: Callable[..., PairLoss], name: str, x: Tensor, y: Tensor
) -> None:
    branch = Branch(tiny("last_layer"))
    a, b = (Ensemble([branch])(images) for images in (x, y))
    expected = 1 - torch.cosine_similarity(a, b)
    torch.testing.assert_close(build(tower=branch)(x, y), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(build(y, tower=branch)(x), expected, atol=1e-5, rtol=1e-4)
    assert list(build(tower=branch).weights) == list(build(y, tower=branch).weights) == [name]


def test_a_named_tower_gives_the_feature_that_its_authors_use(monkeypatch: pytest.MonkeyPatch) -> None:
    configs: list[BranchConfig] = []

    def remember(config: BranchConfig) -> Branch:
        configs.append(config)
        return Branch(tiny())

    monkeypatch.setattr("dreamsim_guidance.losses.feature_cosine._download", remember)
    assert isinstance(CLIPCosine().network, DreamSim)  # type: ignore[attr-defined]
    DINOCosine()
    DINOCosine(tower="dinov2_vitb14")
    assert [(config.name, config.feature, config.tag) for config in configs] == [
        ("clip_vitb32", "embedding", "openai"),
        ("dino_vitb16", "last_layer", "dino"),
        ("dinov2_vitb14", "last_layer", "lvd142m"),
    ]


def test_the_error_for_an_unavailable_tower_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("offline")

    monkeypatch.setattr("timm.create_model", refuse)
    with pytest.raises(OSError, match=r"needs the weights vit_base_patch16_224.dino.*pass tower=Branch"):
        DINOCosine()
    with pytest.raises(ValueError, match="unknown dino tower 'clip_vitb32'; known: dino_vitb16, dino_vitb8"):
        DINOCosine(tower="clip_vitb32")
    with pytest.raises(ValueError, match="the tower 'tiny' has no tag"):
        CLIPCosine(tower=tiny())

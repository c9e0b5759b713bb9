"""Low-rank adapters on towers of every kind: their default layers, folding, files, and the choice for a call."""

from __future__ import annotations

import copy
import json
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import TOLERANCE, lively, tiny_branches
from torch import Tensor, nn

from dreamsim_guidance import BranchConfig, DreamSim, Ensemble
from dreamsim_guidance.metric.adapters import attach_adapter, default_targets, fold_adapters, load_adapter, save_adapter

NAMES = ["one", None, "two", "one", "two"]


def pooled(architecture: str, size: int = 64, **options: object) -> BranchConfig:
    return BranchConfig(architecture, architecture, feature="pooled", image_size=size, **options)  # type: ignore[arg-type]


SMALL = {
    "resnet": pooled("test_resnet"),
    "efficientnet": pooled("test_efficientnet"),
    "convnext": pooled("test_convnext"),
    "lite": pooled("tf_efficientnet_lite0", 32),
    "swin": pooled("swin_tiny_patch4_window7_224", 56, overrides={"embed_dim": 12, "depths": (1, 1, 1, 1)}),
    "dinov3": pooled("vit_small_patch16_dinov3", 32, overrides={"embed_dim": 24, "depth": 2, "num_heads": 2}),
    "siglip": pooled("vit_base_patch16_siglip_224", 32, overrides={"embed_dim": 24, "depth": 2, "num_heads": 2}),
    "plain pooled": replace(tiny_branches()[0], feature="pooled"),
}


FEWER = {name: {"depth": 1} for name in ("vit", "eva02", "beit")}
"""Transformers of one block have the same layers."""


def ensemble_of(*kinds: str) -> Ensemble:
    ensemble = Ensemble([SMALL[kind] for kind in kinds]).double().eval()
    for module in ensemble.modules():
        if isinstance(
            module, nn.BatchNorm2d
        ):  # timm starts residual branches at zero; trained statistics are not 0 and 1
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return ensemble


def add(ensemble: Ensemble, name: str = "one", rank: int = 3, targets: tuple[str, ...] | None = None) -> None:
    attach_adapter(ensemble, rank, alpha=2.0 * rank, targets=targets, name=name)
    with torch.no_grad():
        for key, parameter in ensemble.named_parameters():
            if f".{name}." in key:
                parameter.normal_(std=0.1)
    ensemble.eval()


def images(count: int = len(NAMES), size: int = 64) -> Tensor:
    return torch.rand(count, 3, size, size, dtype=torch.float64)


@pytest.mark.filterwarnings("ignore:UserWarning")
@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("vit_tiny_patch16_224", {"qkv"}),
        ("vit_small_patch14_dinov2", {"qkv"}),
        ("vit_small_patch16_dinov3", {"qkv"}),
        ("vit_base_patch16_siglip_224", {"qkv"}),
        ("swin_tiny_patch4_window7_224", {"qkv"}),
        ("coatnet_nano_rw_224", {"qkv"}),
        ("eva02_large_patch14_clip_224", {"q_proj", "k_proj", "v_proj"}),
        ("pvt_v2_b0", {"q", "kv"}),
        ("beit_base_patch16_224", {"fc1", "fc2"}),
        ("swinv2_tiny_window8_256", {"fc1", "fc2"}),
        ("mixer_s32_224", {"fc1", "fc2"}),
        ("tf_efficientnet_lite0", {"conv_pw", "conv_pwl", "conv_head"}),
        ("convnext_atto", {"fc1", "fc2", "downsample.1"}),
        ("regnetx_002", {"conv1.conv", "conv3.conv", "downsample.conv"}),
        ("mobilenetv3_small_100", {"conv_pw", "conv_pwl", "conv_reduce", "conv_expand", "conv", "conv_head"}),
    ],
)
def test_default_targets_follow_the_architecture(architecture: str, expected: set[str]) -> None:
    size = 256 if architecture.startswith("swinv2") else 224
    with torch.device("meta"):
        ensemble = Ensemble([pooled(architecture, size, overrides=FEWER.get(architecture.split("_")[0], {}))])
    assert set(default_targets(ensemble)) == expected
    attach_adapter(ensemble, rank=2)
    assert ensemble(torch.rand(1, 3, size, size, device="meta")).shape[0] == 1


@pytest.mark.parametrize("kinds", [*([kind] for kind in SMALL), ["plain pooled", "lite", "swin"]], ids="+".join)
def test_default_adapters_act_on_every_tower_and_on_no_unsuitable_layer(kinds: list[str]) -> None:
    ensemble = ensemble_of(*kinds)
    before = [branch(images(1, branch.config.image_size)) for branch in ensemble.branches]  # type: ignore[operator, union-attr]
    add(ensemble)
    tuned = {key.split(".lora_")[0]: p for key, p in ensemble.named_parameters() if ".lora_A." in key}
    layers = {name: ensemble.get_submodule(name).get_base_layer() for name in tuned}  # type: ignore[operator]
    assert all(isinstance(layer, (nn.Linear, nn.Conv2d)) for layer in layers.values())
    assert all(getattr(layer, "groups", 1) == 1 for layer in layers.values())
    assert not any("patch_embed" in name or getattr(layer, "in_channels", 0) == 3 for name, layer in layers.items())
    assert {int(name.split(".")[1]) for name in tuned} == set(range(len(kinds)))
    ensemble.zero_grad()
    torch.manual_seed(1)
    for branch, features in zip(ensemble.branches, before, strict=True):
        changed = branch(images(1, branch.config.image_size))  # type: ignore[operator, union-attr]
        assert (changed - features).abs().max() > 1e-6
        changed.square().sum().backward()
    trained = [p for key, p in ensemble.named_parameters() if ".lora_" in key]
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in trained)


def test_published_ensembles_keep_qkv() -> None:
    assert default_targets(Ensemble(tiny_branches())) == ("qkv",)
    mixed = Ensemble([*tiny_branches(), SMALL["lite"]])
    assert default_targets(mixed) == ("qkv", "conv_pw", "conv_pwl", "conv_head")


def test_a_short_name_of_one_tower_hits_nothing_in_another() -> None:
    ensemble = Ensemble([tiny_branches()[0], SMALL["convnext"], SMALL["resnet"]])
    targets = default_targets(ensemble)
    attach_adapter(ensemble, rank=2)
    tuned = [key for key, p in ensemble.named_parameters() if p.requires_grad]
    assert all(".attn.qkv." in key for key in tuned if key.startswith("branches.0."))  # not fc1, which convnext has too
    assert "qkv" in targets and any("fc1" in target for target in targets) and "fc1" not in targets


@pytest.mark.parametrize(
    ("kind", "targets", "message"),
    [
        ("plain", ("proj",), r"'branches\.0\.backbone\.patch_embed\.proj', a Conv2d; the patch embedding"),
        ("lite", ("conv_dw",), r"conv_dw', a Conv2d; it is a convolution in 32 groups"),
        ("lite", ("bn1",), r"bn1', a BatchNormAct2d; it is neither"),
        ("lite", ("conv_pw", "blocks"), r"blocks', a Sequential; it is neither"),
        ("nfnet", ("conv1",), "it computes the weight that it applies"),
        ("beit", ("qkv",), "does not call this layer"),
        ("open_clip", ("out_proj",), "does not call this layer"),
        ("open_clip", ("attn",), "a MultiheadAttention; it is neither"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_targets_that_hit_something_unsuitable_are_refused(kind: str, targets: tuple[str, ...], message: str) -> None:
    tiny = {"embed_dim": 24, "depth": 2, "num_heads": 2}
    config = {
        "plain": tiny_branches()[0],
        "lite": SMALL["lite"],
        "nfnet": pooled("test_nfnet"),
        "beit": pooled("beit_base_patch16_224", 32, overrides=tiny),
        "open_clip": pooled("ViT-B-32", 32, source="open_clip"),
    }[kind]
    ensemble = Ensemble([config])
    before = set(ensemble.state_dict())
    with pytest.raises(ValueError, match=message):
        attach_adapter(ensemble, rank=4, targets=targets)
    assert set(ensemble.state_dict()) == before


def test_a_tower_without_default_layers_says_so() -> None:
    ensemble = Ensemble([SMALL["resnet"]])
    for name, module in list(ensemble.named_modules()):
        if isinstance(module, nn.Conv2d):
            parent, _, child = name.rpartition(".")
            setattr(ensemble.get_submodule(parent), child, nn.utils.parametrizations.spectral_norm(module))
    with pytest.raises(ValueError, match=r"'test_resnet'\) has no layers that get an adapter by default"):
        default_targets(ensemble)


def test_the_patch_embedding_is_tuned_when_it_is_named_in_full() -> None:
    metric = DreamSim(lively(Ensemble(tiny_branches())), fold=False).double()
    plain = metric.embed(images(size=32))
    add(metric.ensemble, "one", targets=("patch_embed.proj", "qkv"))
    add(metric.ensemble, "two", targets=("patch_embed.proj",))
    x = images(size=32)
    metric.set_adapter(None)
    metric.ensemble.stack()  # has nothing to stack: the layers are not the usual ones
    rows = []
    for name, image in zip(NAMES, x, strict=True):
        metric.set_adapter(name)
        rows.append(metric.embed(image[None]))
    assert (torch.cat(rows) - plain).abs().max() > 1e-3
    torch.testing.assert_close(metric.embed(x, adapters=NAMES), torch.cat(rows), atol=1e-12, rtol=0)
    metric.set_adapter("one")
    before = metric.embed(x)
    assert (metric.fold().embed(x) - before).abs().max() < 1e-10
    assert not any("lora" in key for key in metric.state_dict())


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize(
    "geometry",
    [
        {},
        {"stride": 2, "padding": 1},
        {"stride": (1, 2), "padding": (2, 0), "bias": False},
        {"dilation": 2, "padding": 4},
        {"dilation": (1, 2), "padding": "same"},
        {"padding": 2, "padding_mode": "reflect"},
        {"padding": 1, "padding_mode": "circular", "dilation": 2, "stride": 2},
    ],
    ids=str,
)
def test_folding_an_adapter_of_any_convolution_changes_nothing(kernel: int, geometry: dict[str, object]) -> None:
    ensemble = ensemble_of("resnet")
    tower = ensemble.branches[0].backbone  # type: ignore[union-attr]
    convolution = nn.Conv2d(tower.feature_info[-3]["num_chs"], 7, kernel, **geometry)  # type: ignore[index, union-attr, arg-type]
    tower.layer3 = nn.Identity()
    tower.layer4 = nn.Sequential(OrderedDict(unusual=convolution.double()))
    x = images(1, 256)
    plain = ensemble(x, squash=False)
    add(ensemble, targets=("unusual",))
    before = ensemble(x, squash=False)
    assert (before - plain).abs().max() > 1e-4
    fold_adapters(ensemble)
    assert (ensemble(x, squash=False) - before).abs().max() < 1e-10
    assert type(tower.layer4.unusual) is nn.Conv2d


@pytest.mark.parametrize("kind", ["resnet", "efficientnet", "convnext", "swin", "siglip"])
def test_adapters_are_folded_swapped_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    metric = DreamSim(ensemble_of(kind), fold=False)
    size = SMALL[kind].image_size
    x, y = images(2, size), images(2, size)
    plain = metric(x, y)
    distances = {None: plain}
    for rank, name in enumerate(("one", "two"), start=2):
        add(metric.ensemble, name, rank)
        distances[name] = metric(x, y)
        metric.save_adapter(tmp_path / name, name)
    assert torch.stack(list(distances.values())).diff(dim=0).abs().max(1).values.min() > 1e-7
    for name in ("one", None, "two", "one"):
        metric.set_adapter(name)
        torch.testing.assert_close(metric(x, y), distances[name], atol=1e-12, rtol=0)
    again = DreamSim(copy.deepcopy(metric.ensemble), fold=False)
    for name in ("one", "two"):
        again.load_adapter(tmp_path / name, f"{name}_again")
        torch.testing.assert_close(again(x, y), distances[name], atol=1e-6, rtol=0)  # files hold float32
    assert (metric.fold()(x, y) - distances["one"]).abs().max() < 1e-10
    assert not any("lora" in key or "base_layer" in key for key in metric.state_dict())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_adapters_of_convolutions_in_half_precision(dtype: torch.dtype) -> None:
    metric = DreamSim(ensemble_of("resnet"), fold=False).float()
    add(metric.ensemble)
    x = images(2).float()
    expected = metric.embed(x)
    metric.to(dtype)
    tolerance = 2 * TOLERANCE[dtype]  # the tower's own rounding is in it
    torch.testing.assert_close(metric.embed(x), expected, atol=tolerance, rtol=0)
    torch.testing.assert_close(metric.embed(x, adapters=["one", "one"]), metric.embed(x), atol=0, rtol=0)
    torch.testing.assert_close(metric.fold().embed(x), expected, atol=tolerance, rtol=0)


def test_peft_itself_reads_the_folder(tmp_path: Path) -> None:
    import peft

    ensemble = ensemble_of("efficientnet", "convnext")
    original = nn.Module()
    original.extractor_list = nn.ModuleList()
    for branch in ensemble.branches:
        extractor = nn.Module()
        extractor.model = copy.deepcopy(branch.backbone)  # type: ignore[union-attr]
        original.extractor_list.append(extractor)
    add(ensemble)
    save_adapter(ensemble, tmp_path)
    theirs = peft.PeftModel.from_pretrained(original, str(tmp_path)).eval()
    for mine, other in zip(ensemble.branches, theirs.base_model.model.extractor_list, strict=True):
        pixels = images(2)
        torch.testing.assert_close(other.model(pixels), mine.backbone(pixels), atol=1e-6, rtol=0)  # type: ignore[operator, union-attr]


def test_layers_that_need_their_whole_name_have_it_in_the_file_of_peft(tmp_path: Path) -> None:
    first, second = ensemble_of("resnet", "resnet"), ensemble_of("resnet", "resnet")
    second.load_state_dict(first.state_dict())
    name = "branches.1.backbone.layer1.0.conv2"
    add(first, targets=(name,))
    save_adapter(first, tmp_path)
    stored = json.loads((tmp_path / "adapter_config.json").read_text())
    assert stored["target_modules"] == ["extractor_list.1.model.layer1.0.conv2"]
    load_adapter(second, tmp_path)
    x = images()
    torch.testing.assert_close(second(x), first(x), atol=1e-6, rtol=0)
    assert {key.split(".lora_")[0] for key in second.state_dict() if ".lora_" in key} == {name}


def test_an_adapter_of_some_towers_is_loaded_back_and_others_are_refused(tmp_path: Path) -> None:
    ensemble = ensemble_of("plain pooled", "lite")
    add(ensemble, targets=("qkv",))
    save_adapter(ensemble, tmp_path)
    load_adapter(ensemble, tmp_path, "again")
    with pytest.raises(ValueError, match=r"wrong adapter: .* it tunes 1 branches, this ensemble has 2"):
        load_adapter(ensemble_of("plain pooled", "swin"), tmp_path)


def test_a_head_is_no_layer_of_a_tower(tmp_path: Path) -> None:
    metric = DreamSim(Ensemble([tiny_branches()[0]]), fold=False)
    metric.attach_head(8)
    metric.attach_adapter(rank=2, targets=("fc1",))
    assert metric.ensemble.head is not None and type(metric.ensemble.head.fc1) is nn.Linear
    metric.save_adapter(tmp_path)
    metric.load_adapter(tmp_path, "again")


# adapters that are chosen for a call


@pytest.fixture(params=["efficientnet", "resnet", "convnext", "swin", "siglip", "plain pooled"])
def rated(request: pytest.FixtureRequest) -> DreamSim:
    """A metric of one tower of each kind, beside a plain Vision Transformer, with two adapters and one of the latter only."""
    ensemble = Ensemble([SMALL[request.param], tiny_branches()[0]]).double().eval()
    metric = DreamSim(ensemble, fold=False)
    add(ensemble, "one", 2)
    add(ensemble, "two", 3)
    add(ensemble, "plain", 1, ("branches.1.backbone.blocks.0.attn.qkv",))
    return metric


def one_by_one(metric: DreamSim, x: Tensor, names: list[str | None]) -> Tensor:
    rows = []
    for name, image in zip(names, x, strict=True):
        metric.set_adapter(name)
        rows.append(metric.embed(image[None]))
    return torch.cat(rows)


def test_each_image_has_its_adapter_in_every_tower(rated: DreamSim) -> None:
    x, names = images(6), [*NAMES, "plain"]
    expected = one_by_one(rated, x, names)
    rated.set_adapter("two")
    torch.testing.assert_close(rated.embed(x, adapters=names), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(rated.embed(x[:1], adapters=names)[:1], expected[:1], atol=1e-12, rtol=0)
    for name in ("one", "plain"):
        rated.set_adapter(name)
        alone = rated.embed(x)
        rated.set_adapter("two")
        torch.testing.assert_close(rated.embed(x, adapters=name), alone, atol=1e-12, rtol=0)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(rated(x, x.detach().flip(-1), adapters=names).sum(), x)
    for i, name in enumerate(names):
        rated.set_adapter(name)
        z = x.detach()[i : i + 1].requires_grad_()
        (alone,) = torch.autograd.grad(rated(z, z.detach().flip(-1)).sum(), z)
        torch.testing.assert_close(gradient[i : i + 1], alone, atol=1e-11, rtol=1e-8)


@pytest.mark.parametrize("spatial", [False, True], ids=["vectors", "maps"])
def test_layers_and_maps_have_adapters_chosen_for_a_call(spatial: bool) -> None:
    plain = replace(tiny_branches()[0], layers=(0, 1), spatial=spatial)
    convolutional = replace(SMALL["resnet"], layers=(1, 3), spatial=spatial)
    metric = DreamSim(Ensemble([plain, convolutional]), fold=False).double()
    add(metric.ensemble, "one", 2)
    add(metric.ensemble, "two", 3)
    x = images()
    expected = one_by_one(metric, x, NAMES)
    assert (expected[1] - expected[0]).abs().max() > 1e-6
    metric.set_adapter(None)
    torch.testing.assert_close(metric.embed(x, adapters=NAMES), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(metric.embed(x, adapters="two")[2], expected[2], atol=1e-12, rtol=0)


def test_layers_that_are_not_read_are_not_tuned() -> None:
    for config in (replace(tiny_branches()[0], layers=(0,)), replace(SMALL["resnet"], layers=(1, 2))):
        metric = DreamSim(Ensemble([config]), fold=False)
        metric.attach_adapter(rank=2)
        metric.embed(images(1).float()).cumsum(-1).sum().backward()
        trained = {key: p for key, p in metric.named_parameters() if p.requires_grad}
        assert trained and all(p.grad is not None for p in trained.values())


def state(metric: DreamSim) -> list[object]:
    layers = [module for module in metric.modules() if hasattr(module, "lora_A")]
    switches = [(layer.active_adapters, layer.disable_adapters) for layer in layers]
    return [
        *switches,
        [module.training for module in metric.modules()],
        [parameter.requires_grad for parameter in metric.parameters()],
    ]


def test_a_chosen_adapter_leaves_no_trace_also_after_an_exception(rated: DreamSim) -> None:
    rated.set_adapter("two", trainable=True)
    rated.train()
    before = state(rated)
    rated.embed(images(), adapters=NAMES)
    assert state(rated) == before
    convolutional = rated.ensemble.branches[0]

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    hook = next(m for n, m in convolutional.named_modules() if "lora_B" in n and not list(m.children()))
    handle = hook.register_forward_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        rated.embed(images(), adapters=["one", "two", None, "one", "two"])
    handle.remove()
    assert state(rated) == before


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is")
def test_chosen_adapters_act_without_dropout_and_pass_gradients_to_their_weights() -> None:
    metric = DreamSim(ensemble_of("resnet"), fold=False)
    for name in ("one", "two"):
        attach_adapter(metric.ensemble, 2, dropout=0.9, name=name)
    for key, parameter in metric.named_parameters():
        if ".lora_" in key:
            nn.init.normal_(parameter, std=0.1)
            parameter.requires_grad_(True)
    metric.train()
    x = images(2, 32)
    together = metric.embed(x, adapters=["one", "two"])
    torch.testing.assert_close(metric.embed(x, adapters=["one", "two"]), together, atol=0, rtol=0)
    weights = {key: p for key, p in metric.named_parameters() if ".lora_B.one." in key}
    gradients = torch.autograd.grad(
        (together[0] * torch.arange(together.shape[1])).sum(), list(weights.values()), allow_unused=True
    )
    assert all(g is not None and g.abs().max() > 0 for g in gradients)
    others = [p for key, p in metric.named_parameters() if ".two." in key]
    unrelated = torch.autograd.grad(metric.embed(x, adapters="one").sum(), others, allow_unused=True)
    assert all(g is None for g in unrelated)


def test_gradients_to_images_are_those_of_finite_differences() -> None:
    ensemble = ensemble_of("efficientnet")
    add(ensemble, "one", 2)
    add(ensemble, "two", 2)
    metric = DreamSim(ensemble, fold=False, resize=False)
    x = images(2, 32)[:, :, :16, :16].contiguous().requires_grad_()
    y = images(2, 16)

    def distance(coefficients: Tensor) -> Tensor:
        return metric.compare(x.detach() + 0.1 * coefficients.view(2, 1, 1, 1) * y, y, adapters=["one", "two"])

    assert torch.autograd.gradcheck(distance, torch.zeros(2, dtype=torch.float64, requires_grad=True), atol=1e-7)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is")
def test_adapters_of_convolutions_are_chosen_inside_transforms() -> None:
    ensemble = ensemble_of("resnet")
    add(ensemble, "one", 2)
    add(ensemble, "two", 2)
    metric, x = DreamSim(ensemble, fold=False), images()
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(metric(leaf, x.flip(-1), adapters=NAMES).sum(), leaf)
    gradient = torch.func.grad(lambda z: metric(z, x.flip(-1), adapters=NAMES).sum())(x)
    torch.testing.assert_close(gradient, expected, atol=1e-12, rtol=1e-8)
    rows = torch.vmap(lambda z: metric.embed(z[None], adapters=["one", None]))(x)
    torch.testing.assert_close(rows[:, 0], metric.embed(x, adapters="one"), atol=1e-12, rtol=0)


def test_a_merged_adapter_is_not_silently_unmerged() -> None:
    metric = DreamSim(ensemble_of("resnet"), fold=False)
    add(metric.ensemble)
    next(module for module in metric.modules() if hasattr(module, "merge")).merge()  # type: ignore[operator]
    for name in ("one", None):
        with pytest.raises(ValueError, match="while one is merged"):
            metric.embed(images(1), adapters=[name])


def test_a_target_and_its_guidance_follow_the_chosen_adapter() -> None:
    metric = DreamSim(ensemble_of("efficientnet"), fold=False)
    add(metric.ensemble, "one")
    add(metric.ensemble, "two")
    x, y = images(2), images(2)
    target = metric.target(y, adapters="one")
    metric.set_adapter("one")
    torch.testing.assert_close(target(x), metric(x, y), atol=1e-12, rtol=0)
    each = metric.target(y, adapters=["one", "two"])
    torch.testing.assert_close(each(x), metric(x, y, adapters=["one", "two"]), atol=1e-12, rtol=0)


# training mode


@pytest.mark.parametrize("kind", ["efficientnet", "resnet"])
def test_batch_norms_of_frozen_towers_keep_their_statistics(kind: str) -> None:
    metric = DreamSim(ensemble_of(kind), fold=False)
    metric.attach_adapter(rank=2, dropout=0.5)
    x = images(2)
    before = {key: value.clone() for key, value in metric.named_buffers()}
    plain = metric.eval().embed(x)
    metric.train()
    assert any(module.training for module in metric.modules() if isinstance(module, nn.Dropout))
    torch.testing.assert_close(metric.embed(x), plain, atol=1e-12, rtol=0)  # B = 0
    assert all(torch.equal(value, before[key]) for key, value in metric.named_buffers())
    metric.requires_grad_(True)
    metric.train()
    metric.embed(x)
    assert not all(torch.equal(value, before[key]) for key, value in metric.named_buffers())

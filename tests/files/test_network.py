"""Whether a host can be reached is checked once, quickly, and without changing settings of other libraries."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_hub import FakeHub, hub

from dreamsim_guidance.files import network
from dreamsim_guidance.metric.backbones import Branch, BranchConfig


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "_answers", {})
    for variable in ("HF_HUB_OFFLINE", "DREAMSIM_GUIDANCE_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "DREAMSIM_GUIDANCE_OFFLINE"])
def test_offline_follows_argument_then_variables(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not network.is_offline()
    monkeypatch.setenv(name, "1")
    assert network.is_offline() and not network.is_offline(False)
    monkeypatch.setenv(name, "0")
    assert not network.is_offline() and network.is_offline(True)


def test_a_host_is_asked_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    with hub() as server:
        assert network.reachable(server.url + "/some/file") and network.reachable(server.url)
        assert len(server.requests) == 1
    assert network.reachable(server.url)  # remembered
    monkeypatch.setattr(network, "_MEMORY", 0.0)
    assert not network.reachable(server.url)


def test_the_hub_is_not_asked_where_the_answer_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "reachable", lambda url: pytest.fail("nobody had to be asked"))
    assert network.hub_available(False) and not network.hub_available(True)
    monkeypatch.setenv("DREAMSIM_GUIDANCE_OFFLINE", "1")
    assert not network.hub_available()


RESNET = BranchConfig("resnet", "resnet18", feature="pooled", image_size=32, tag="a1_in1k")
OPEN_CLIP = BranchConfig("clip", "ViT-B-32", source="open_clip", feature="pooled", tag="openai")


@pytest.mark.parametrize("config", [RESNET, OPEN_CLIP], ids=["timm", "open_clip"])
@pytest.mark.parametrize("how", ["DREAMSIM_GUIDANCE_OFFLINE", "unreachable"])
def test_base_weights_that_are_unavailable_are_refused_at_once(
    config: BranchConfig, how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    if how == "unreachable":
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    else:
        monkeypatch.setenv(how, "1")
    before = (constants.HF_HUB_OFFLINE, logging.root.manager.disable, os.environ.get("HF_HUB_OFFLINE"))
    began = time.monotonic()
    reason = r"127\.0\.0\.1 cannot be reached" if how == "unreachable" else "downloading is off"
    with pytest.raises(FileNotFoundError, match=rf"needs the weights {config.architecture}\.\w+, .* \({reason}\)"):
        Branch(config, pretrained=True)
    assert time.monotonic() - began < 10
    assert before == (constants.HF_HUB_OFFLINE, logging.root.manager.disable, os.environ.get("HF_HUB_OFFLINE"))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_base_weights_are_read_from_the_cache_without_a_network(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import timm
    import torch
    from huggingface_hub import constants
    from safetensors.torch import save_file

    published = timm.create_model("resnet18", num_classes=1000)
    snapshot = tmp_path / "models--timm--resnet18.a1_in1k" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    state = published.state_dict()
    save_file(state, snapshot / name) if name.endswith("safetensors") else torch.save(state, snapshot / name)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("DREAMSIM_GUIDANCE_OFFLINE", "1")
    branch = Branch(RESNET, pretrained=True)
    assert torch.equal(branch.backbone.conv1.weight, published.conv1.weight)


SWITCHES = """
import ast, sys
from pathlib import Path
for file in map(Path, sys.argv[1:]):
    for node in ast.walk(ast.parse(file.read_text())):
        targets = node.targets if isinstance(node, ast.Assign) else []
        names = [ast.unparse(target) for target in targets]
        if isinstance(node, ast.Call):
            names.append(ast.unparse(node.func) + "()")
        if any(n.endswith(("HF_HUB_OFFLINE", "HF_HUB_OFFLINE']")) or n == "logging.disable()" for n in names):
            print(file, node.lineno)
"""


def test_nothing_switches_the_hub_or_the_logging_of_the_whole_process() -> None:
    root = Path(network.__file__).parents[2]
    files = [
        str(file)
        for folder in ("dreamsim_guidance", "losses", "recipes", "training")
        for file in (root / folder).rglob("*.py")
    ]
    run = subprocess.run([sys.executable, "-c", SWITCHES, *files], capture_output=True, text=True, check=True)
    assert run.stdout == ""


def test_the_hubs_own_server_counts_as_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    server: FakeHub
    with hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        assert network.hub_available()

"""What `gpu.py` measures: the original package, ours in its ways and precisions, and other perceptual losses."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from official_format import small, write_official

from dreamsim_guidance import DreamSim
from dreamsim_guidance.checkpoints.official import load_official

Distance = Callable[[Tensor], Tensor]
NARROW: dict[str, Any] = {"depth": 12, "dim": 32, "projection": 24}
DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Side:
    """One implementation in one precision.

    kind: "original", or how ours runs: "one by one", "stacked", "captured" (stacked, in a CUDA graph).
    precision: of the weights, or "autocast" for weights in float32 under autocast to bfloat16.
    """

    kind: str
    precision: str

    def __str__(self) -> str:
        return f"{self.kind}, {self.precision}"


@contextmanager
def precision(name: str, device: str) -> Iterator[None]:
    """The settings of PyTorch that belong to a precision."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest" if name == "float32" else "high")
    try:
        with torch.autocast(device, torch.bfloat16, enabled=name == "autocast"):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


class Sides:
    """Builds the sides with the same random weights, in the original's file format; each model once.

    folder: for the files. device: where the models are. narrow: towers 32 wide instead of 768.
    """

    def __init__(self, folder: Path, device: str, narrow: bool) -> None:
        self.folder, self.device, self.narrow = folder, device, narrow
        self._models: dict[tuple[str, str], Any] = {}

    def model(self, kind: str, dtype: str) -> Any:
        """The metric or the original's model. kind: "original", "one by one" or "stacked". dtype: a name of `DTYPES`."""
        dtype = {"tf32": "float32", "autocast": "float32"}.get(dtype, dtype)
        if not self._models:
            write_official(self.folder, "ensemble", **(NARROW if self.narrow else {}))
        if (kind, dtype) not in self._models:
            self._models[kind, dtype] = self._original() if kind == "original" else self._ours(kind, DTYPES[dtype])
        return self._models[kind, dtype]

    def forget(self) -> None:
        """Free the models, all but the one in the CPU's memory that others are copied from."""
        self._models = {key: model for key, model in self._models.items() if key[0] == "loaded"}

    def target(self, side: Side, references: Tensor, **options: Any) -> Distance:
        """The distance to fixed references; the original embeds them in each call, as it has no other way."""
        if side.kind == "original":
            model = self.model("original", side.precision)
            return lambda images: model(images, references)
        kind = "stacked" if side.kind == "captured" else side.kind
        options |= {"capture": True} if side.kind == "captured" else {}
        with precision(side.precision, self.device):
            return self.model(kind, side.precision).target(references, **options)

    def step(self, side: Side, images: Tensor, references: Tensor, **options: Any) -> Callable[[], Tensor]:
        """A guidance step: the gradient of the distance to fixed references with respect to the images."""
        return self.gradient(side, self.target(side, references, **options), images)

    def gradient(self, side: Side, distance: Distance, images: Tensor) -> Callable[[], Tensor]:
        def step() -> Tensor:
            leaf = images.detach().requires_grad_()
            with precision(side.precision, self.device):
                return torch.autograd.grad(distance(leaf).sum(), leaf)[0]

        return step

    def training_step(self, side: Side, images: Tensor, others: Tensor) -> Callable[[], Tensor]:
        """A step of a training loss: both pictures are new in each step, and the first gets the gradient."""
        model = self.model("stacked" if side.kind == "captured" else side.kind, side.precision)
        return self.gradient(side, lambda leaf: model(leaf, others), images)

    def _ours(self, kind: str, dtype: torch.dtype) -> DreamSim:
        loaded = self._models.get(("loaded", ""))
        if loaded is None:  # reading and folding full-size weights takes longer than copying them
            loaded = self._models["loaded", ""] = self._loaded()
        ensemble = copy.deepcopy(loaded.ensemble)
        return DreamSim(ensemble, device=self.device, dtype=dtype, stacked=kind == "stacked")

    def _loaded(self) -> DreamSim:
        if not self.narrow:
            return DreamSim("ensemble", weights=self.folder, stacked=False)
        files = load_official(small("ensemble", **NARROW), weights=self.folder, progress=False)
        metric = DreamSim(files.ensemble, stacked=False)
        assert files.adapter is not None
        metric.load_adapter(files.adapter)
        return metric.fold()

    def _original(self) -> nn.Module:
        import dreamsim

        if self.narrow:
            from original_package import make_narrow

            make_narrow(SimpleNamespace(setattr=setattr))  # type: ignore[arg-type]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own
            return dreamsim.dreamsim(device=self.device, cache_dir=str(self.folder), dreamsim_type="ensemble")[0]


# Other perceptual losses, with random weights: their speed does not depend on them.


def _lpips(net: str) -> nn.Module:
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's, about lpips' arguments
        return lpips.LPIPS(net=net, pnet_rand=True, pretrained=False, verbose=False)


def _dists() -> nn.Module:
    import torchvision
    from DISTS_pytorch import DISTS

    vgg = torchvision.models.vgg16
    with patch.object(torchvision.models, "vgg16", lambda pretrained: vgg(weights=None)):
        return DISTS(load_weights=False)


def _dino_perceptual() -> nn.Module:
    import transformers
    from dino_perceptual import DINOPerceptual

    configuration = transformers.DINOv3ViTConfig(  # that of facebook/dinov3-vitb16-pretrain-lvd1689m
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, patch_size=16
    )
    network = partial(transformers.AutoModel.from_config, configuration)
    with patch.object(transformers.AutoModel, "from_pretrained", lambda name: network()):
        return DINOPerceptual(model_size="B")


PEERS: dict[str, Callable[[], nn.Module]] = {
    "LPIPS-VGG (lpips)": partial(_lpips, "vgg"),
    "LPIPS-Alex (lpips)": partial(_lpips, "alex"),
    "DISTS (DISTS-pytorch)": _dists,
    "dino-perceptual (DINOv3 ViT-B/16)": _dino_perceptual,
}


def peer_distance(name: str, device: str) -> Callable[[Tensor, Tensor], Tensor]:
    """A peer as a distance of images in [0, 1]. Raises ImportError if its package is missing."""
    model: Any = PEERS[name]().to(device).eval().requires_grad_(False)
    if name.startswith("DISTS"):
        return lambda x, y: model(x, y, require_grad=True)
    return lambda x, y: model(2 * x - 1, 2 * y - 1)

"""The baselines of the paper's table: pixel metrics, LPIPS, DISTS, and the cosine of un-tuned features.

    psnr, ssim, ms-ssim             pixels at their own size (see `pixel_differences`)
    lpips                           AlexNet, at the pictures' own size
    dists                           VGG16, at 256 x 256
    st-lpips                        shift-tolerant LPIPS, AlexNet, at the pictures' own size; works offline, not in the table
    dino, mae                       ViT-B/16, class token before the last norm, 224 x 224
    clip, open_clip                 ViT-B/16, image embedding (OpenAI's; LAION-400M), 224 x 224
    resnet50                        ImageNet classifier's pooled features, 224 x 224

Sizes and tokens are those of the original's evaluation; features are compared by 1 - cos. Networks come from
torchmetrics, timm and open_clip with their published weights.

Zhang et al., CVPR 2018 (LPIPS); Ding et al., TPAMI 2020 (DISTS); Caron et al., ICCV 2021 (DINO); He et al., CVPR 2022
(MAE); Radford et al., ICML 2021 (CLIP); Cherti et al., CVPR 2023 (OpenCLIP); He et al., CVPR 2016 (ResNet).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from dreamsim_guidance.evaluation.metrics.pair_metric import Compare
from dreamsim_guidance.evaluation.metrics.pixel_differences import ms_ssim, mse, psnr, ssim
from dreamsim_guidance.evaluation.metrics.weights_access import (
    MetricUnavailableError,
    torchmetrics,
    torchvision_weights,
)
from dreamsim_guidance.losses import LPIPS
from dreamsim_guidance.metric.backbones import CLIP_MEAN, CLIP_STD, Branch, BranchConfig
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.metric.variants import BRANCHES

__all__ = ["BASELINES", "COMPARES", "TOWERS", "build_compare", "build_tower"]

TOWERS: dict[str, BranchConfig] = {
    "dino": BRANCHES["dino_vitb16"],
    "clip": BRANCHES["clip_vitb16"],
    "open_clip": BranchConfig(
        "open_clip_vitb16",
        "ViT-B-16",
        source="open_clip",
        feature="pooled",
        mean=CLIP_MEAN,
        std=CLIP_STD,
        tag="laion400m_e31",
    ),
    "mae": BRANCHES["mae_vitb16"],
    "resnet50": BranchConfig("resnet50", "resnet50", feature="pooled", tag="tv_in1k"),
}


def build_tower(name: str, device: str) -> DreamSim:
    """Return the cosine metric of a tower's features. Raises MetricUnavailableError if its weights cannot be obtained."""
    config = TOWERS[name]
    try:
        branch = Branch(config, pretrained=True)
    except FileNotFoundError as error:
        reason = str(error).removeprefix(f"branch '{config.name}' ")
        raise MetricUnavailableError(f"{name} {reason}") from error
    except (OSError, RuntimeError) as error:  # open_clip raises RuntimeError if a download fails
        weights = f"{config.architecture}.{config.tag}"
        raise MetricUnavailableError(
            f"{name} needs the weights {weights}, which cannot be loaded: {' '.join(str(error).split())[:200]}"
        ) from error
    return DreamSim([branch], device=device, normalize_embeds=False)


def build_compare(name: str, device: str) -> tuple[Compare, int | None]:
    """Return the function on images, and the side of the square they are resized to. Raises as `build_tower`."""
    build, size = COMPARES[name]
    return build(device), size


def _lpips(device: str) -> Compare:
    module = torchmetrics("lpips", "torchmetrics.image.lpip")
    from torchvision.models import AlexNet_Weights

    torchvision_weights("lpips", AlexNet_Weights.DEFAULT.url)
    network: Any = module.LearnedPerceptualImagePatchSimilarity(net_type="alex").net.to(device).eval()

    def compare(x: Tensor, y: Tensor) -> Tensor:
        _check_size("lpips", x)
        return network(x, y, normalize=True).reshape(len(x))

    return compare


def _dists(device: str) -> Compare:
    module = torchmetrics("dists", "torchmetrics.functional.image.dists")
    from torchvision.models import VGG16_Weights

    torchvision_weights("dists", VGG16_Weights.DEFAULT.url)
    network: Any = module.DISTSNetwork().to(device).eval()
    return lambda x, y: network(x, y).reshape(len(x))


def _shift_tolerant(device: str) -> Compare:
    try:
        loss = LPIPS(network="shift-tolerant").to(device)
    except ImportError as error:
        raise MetricUnavailableError(str(error)) from error
    return loss


def _check_size(name: str, x: Tensor) -> None:
    if min(x.shape[-2:]) < 32:
        raise ValueError(f"{name} needs pictures of at least 32 x 32 pixels, got {x.shape[-2]} x {x.shape[-1]}.")


COMPARES: dict[str, tuple[Callable[[str], Compare], int | None]] = {
    "mse": (lambda device: mse, 64),
    "psnr": (lambda device: psnr, None),
    "ssim": (lambda device: ssim, None),
    "ms-ssim": (lambda device: ms_ssim, None),
    "lpips": (_lpips, None),
    "dists": (_dists, 256),
    "st-lpips": (_shift_tolerant, None),
}
"""How to build each on a device, and the side of the square it sees; None for the picture's own size."""

BASELINES = ("psnr", "ssim", "ms-ssim", "lpips", "dists", "dino", "clip", "open_clip", "mae", "resnet50")
"""The baselines of the paper's table."""

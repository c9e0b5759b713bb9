"""Names for the shapes and ranges of the tensors that modules exchange.

Images are RGB in [0, 1], batch first. Distances are one value per image; larger means more different.
"""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

Image = Float[Tensor, "b 3 h w"]
"""RGB images in [0, 1]."""

AnyImage = Float[Tensor, "_ 3 _ _"]
"""RGB images in [0, 1] whose batch and size are independent of the other arguments."""

Squares = Mapping[int, AnyImage]
"""The same images squashed to squares of several sizes, by the side of the square in pixels."""

Mask = Float[Tensor, "_ 1 _ _"]
"""Region of interest in [0, 1]; 1 counts, 0 is left out."""

Map = Float[Tensor, "_ _ _ _"]
"""One vector for each position, `(b, channels, rows, columns)`."""

Embedding = Float[Tensor, "b d"]
"""One vector per image."""

Distance = Float[Tensor, " b"]
"""One value per image; 0 means equal, larger means more different."""

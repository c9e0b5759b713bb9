"""Autoencoders of the TAESD family, read from the weights of their encoder and decoder: TAESD, TAESD3, TAEF1, TAEF2.

The files are plain state dicts of sequences of layers, and their names and shapes determine the network. TAEF2, the tiny
autoencoder of FLUX.2's latents, has blocks with a normalised side branch that diffusers' `AutoencoderTiny` lacks:

    x <- x + branch(x),   y = relu(conv(x) + x)

Bohan, Tiny AutoEncoder for Stable Diffusion, https://github.com/madebyollin/taesd (MIT).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["TinyAutoencoder", "read_tiny_autoencoder"]


class TinyAutoencoder(nn.Module):
    """An encoder and a decoder of the TAESD family, with `encode` and `decode` as diffusers' autoencoders have them.

    encoder, decoder: the published state dicts, with names such as "3.conv.0.weight".

    Images are in [-1, 1]. The latents are those of the files: of FLUX.2 as its autoencoder gives them for TAEF2, of the others
    as their samplers scale them. Raises ValueError for weights of another structure.
    """

    def __init__(self, encoder: Mapping[str, Tensor], decoder: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.encoder = _sequence(encoder, decoder=False)
        self.decoder = _sequence(decoder, decoder=True)
        self.config = SimpleNamespace(scaling_factor=1.0)

    def encode(self, images: Float[Tensor, "b 3 h w"]) -> Any:
        """An object whose `latents` are `(b, c, h / 8, w / 8)`."""
        return SimpleNamespace(latents=self.encoder(images / 2 + 0.5))

    def decode(self, latents: Float[Tensor, "b c h w"], return_dict: bool = True) -> Any:
        """An object whose `sample` are the images; a tuple of them without `return_dict`."""
        images = 2 * self.decoder(latents) - 1
        return SimpleNamespace(sample=images) if return_dict else (images,)


def read_tiny_autoencoder(
    encoder: str | os.PathLike[str], decoder: str | os.PathLike[str] | None = None
) -> TinyAutoencoder:
    """Read an autoencoder in float32, frozen, from its two files, such as taef2_encoder.pth and taef2_decoder.pth.

    encoder: file of the encoder, .pth or .safetensors; or a folder with one file of each, `*_encoder.*` and `*_decoder.*`.

    Nothing in the files is executed. Raises OSError if one is missing, ValueError for weights of another structure.
    """
    if decoder is None:
        folder = Path(encoder)
        files = [
            sorted(f for f in folder.glob(f"*_{part}.*") if f.suffix in _ENDINGS) for part in ("encoder", "decoder")
        ]
        if not all(len(matches) == 1 for matches in files):
            raise FileNotFoundError(
                f"'{folder}' must hold one file *_encoder.pth and one *_decoder.pth (or .safetensors), got "
                f"{', '.join(file.name for matches in files for file in matches) or 'none'}."
            )
        (encoder,), (decoder,) = files
    try:
        network = TinyAutoencoder(_weights(Path(encoder)), _weights(Path(decoder)))
    except OSError:
        raise
    except Exception as error:
        raise ValueError(
            f"'{encoder}' and '{decoder}' are not the encoder and decoder of a tiny autoencoder of the TAESD family: {error}"
        ) from error
    return network.float().requires_grad_(False).eval()


_ENDINGS = (".pth", ".safetensors")


def _weights(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    return torch.load(file, map_location="cpu", weights_only=True)


class _Clamp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x / 3).tanh() * 3


class _Block(nn.Module):
    def __init__(self, before: int, after: int, branch: bool) -> None:
        super().__init__()
        first, *others = (nn.Conv2d(before if i == 0 else after, after, 3, padding=1) for i in range(3))
        self.conv = nn.Sequential(first, nn.ReLU(), others[0], nn.ReLU(), others[1])
        self.skip = nn.Conv2d(before, after, 1, bias=False) if before != after else nn.Identity()
        wide = 4 * before
        self.pool = (
            nn.Sequential(
                nn.Conv2d(before, wide, 1, bias=False),
                nn.GroupNorm(4, wide),
                nn.ReLU(),
                nn.Conv2d(wide, before, 1, bias=False),
            )
            if branch
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return (self.conv(x) + self.skip(x)).relu()


def _sequence(state: Mapping[str, Tensor], decoder: bool) -> nn.Sequential:
    """The layers of a state dict. Layers without weights are numbered too: the clamp, a ReLU, and upsampling."""
    shapes: dict[int, dict[str, Tensor]] = {}
    for name, value in state.items():
        place, _, rest = name.partition(".")
        shapes.setdefault(int(place), {})[rest] = value
    layers: list[nn.Module] = []
    for number in range(max(shapes) + 1):
        weights = shapes.get(number)
        if weights is None:
            layers.append(_Clamp() if number == 0 else nn.ReLU() if number == 2 else nn.Upsample(scale_factor=2))
        elif "conv.0.weight" in weights:
            after, before = weights["conv.0.weight"].shape[:2]
            layers.append(_Block(before, after, "pool.0.weight" in weights))
        else:
            after, before = weights["weight"].shape[:2]
            # in an encoder, exactly the layers that halve the resolution have no bias
            stride = 1 if decoder or "bias" in weights else 2
            layers.append(nn.Conv2d(before, after, 3, stride, 1, bias="bias" in weights))
    sequence = nn.Sequential(*layers)
    sequence.load_state_dict(dict(state))
    return sequence

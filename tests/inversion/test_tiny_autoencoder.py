"""Tiny autoencoders of the TAESD family from their files: the layers that the weights imply, and files of other kinds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import save_file
from torch import Tensor

from dreamsim_guidance import Latents, invert
from dreamsim_guidance.data.photographs import photograph
from dreamsim_guidance.inversion.tiny_autoencoder import TinyAutoencoder, read_tiny_autoencoder
from dreamsim_guidance.losses import MSE
from dreamsim_guidance.preprocess import resize


def published(part: str, vae: AutoencoderTiny) -> dict[str, Tensor]:
    """The weights of diffusers' autoencoder under the names of the published files, which also number the clamp."""
    shift = 1 if part == "decoder" else 0
    state = getattr(vae, part).layers.state_dict()
    return {f"{int(name.partition('.')[0]) + shift}.{name.partition('.')[2]}": value for name, value in state.items()}


def small() -> AutoencoderTiny:
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 2),
        num_decoder_blocks=(2, 1, 1),
        latent_channels=4,
    ).eval()


def with_branch(state: dict[str, Tensor], block: int, channels: int = 8) -> dict[str, Tensor]:
    """The weights with the side branch of TAEF2 in one block."""
    wide = 4 * channels
    branch = {
        "0.weight": torch.randn(wide, channels, 1, 1) / 3,
        "1.weight": torch.rand(wide),
        "1.bias": torch.rand(wide),
        "3.weight": torch.randn(channels, wide, 1, 1) / 6,
    }
    return {**state, **{f"{block}.pool.{name}": value for name, value in branch.items()}}


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_it_is_the_autoencoder_of_diffusers(tmp_path: Path, ending: str) -> None:
    vae = small()
    for part in ("encoder", "decoder"):
        state = {name: value.contiguous() for name, value in published(part, vae).items()}
        file = tmp_path / f"taesd_{part}.{ending}"
        torch.save(state, file) if ending == "pth" else save_file(state, file)
    ours = read_tiny_autoencoder(tmp_path)
    x = 2 * torch.rand(2, 3, 16, 24) - 1
    with torch.no_grad():
        latents = vae.encode(x).latents
        assert latents.shape == (2, 4, 4, 6)
        torch.testing.assert_close(ours.encode(x).latents, latents)
        torch.testing.assert_close(ours.decode(latents).sample, vae.decode(latents).sample)
        torch.testing.assert_close(ours.decode(latents, return_dict=False)[0], vae.decode(latents).sample)


def test_half_precision_files_are_read_in_float32_and_frozen(tmp_path: Path) -> None:
    for part in ("encoder", "decoder"):
        state = published(part, small())
        torch.save({name: value.half() for name, value in state.items()}, tmp_path / f"taesd_{part}.pth")
    parameters = list(read_tiny_autoencoder(tmp_path).parameters())
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in parameters)


def test_the_branch_of_taef2_is_added_before_the_block() -> None:
    vae = small()
    encoder, decoder = (published(part, vae) for part in ("encoder", "decoder"))
    block = max(int(name.partition(".")[0]) for name in encoder if "conv.0" in name)
    state = with_branch(encoder, block)
    plain, ours = TinyAutoencoder(encoder, decoder), TinyAutoencoder(state, decoder)
    x = torch.rand(1, 8, 4, 4)
    hidden = torch.nn.functional.conv2d(x, state[f"{block}.pool.0.weight"])
    normed = torch.nn.functional.group_norm(hidden, 4, state[f"{block}.pool.1.weight"], state[f"{block}.pool.1.bias"])
    side = torch.nn.functional.conv2d(normed.relu(), state[f"{block}.pool.3.weight"])
    torch.testing.assert_close(ours.encoder[block](x), plain.encoder[block](x + side))
    zero = {**state, f"{block}.pool.3.weight": torch.zeros(8, 32, 1, 1)}
    torch.testing.assert_close(TinyAutoencoder(zero, decoder).encoder[block](x), plain.encoder[block](x))


def test_its_latents_are_inverted() -> None:
    vae = small()
    ours = TinyAutoencoder(published("encoder", vae), published("decoder", vae))
    with torch.no_grad():
        photo = (ours.decode(torch.randn(1, 4, 4, 4)).sample / 2 + 0.5).clamp(0, 1)
    result = invert(MSE(photo), Latents(ours, photo), steps=30, progress=False)
    assert result.loss < 0.9 * result.history["loss"][0]


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"must hold one file \*_encoder.pth and one \*_decoder.pth.*got none"):
        read_tiny_autoencoder(tmp_path)
    torch.save(published("encoder", small()), tmp_path / "a_encoder.pth")
    with pytest.raises(FileNotFoundError, match=r"got a_encoder\.pth"):
        read_tiny_autoencoder(tmp_path)
    for content in ({"weight": torch.zeros(1)}, {"0.other": torch.zeros(1)}, [1], {"0.weight": torch.zeros(2, 2)}):
        torch.save(content, tmp_path / "a_decoder.pth")
        with pytest.raises(ValueError, match="are not the encoder and decoder of a tiny autoencoder"):
            read_tiny_autoencoder(tmp_path)
    (tmp_path / "a_decoder.pth").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="are not the encoder and decoder"):
        read_tiny_autoencoder(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_tiny_autoencoder(tmp_path / "a_encoder.pth", tmp_path / "none.pth")


@pytest.mark.weights
@pytest.mark.skipif(
    "TAEF2" not in os.environ, reason="TAEF2 must name the folder of taef2_encoder.pth and taef2_decoder.pth"
)
def test_taef2_reproduces_a_photograph() -> None:
    vae = read_tiny_autoencoder(os.environ["TAEF2"])
    image = _cat()
    with torch.no_grad():
        again = vae.decode(vae.encode(2 * image - 1).latents).sample / 2 + 0.5
    assert -10 * float(MSE()(again.clamp(0, 1), image).log10()) == pytest.approx(32.26, abs=0.1)


def _cat() -> Tensor:
    """The central square of the photograph of the cat, 256 pixels wide."""
    image = photograph("chelsea")
    left = (image.shape[-1] - image.shape[-2]) // 2
    return resize(image[..., left : left + image.shape[-2]], (256, 256)).clamp(0, 1)

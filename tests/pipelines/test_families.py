"""In every family of pipelines the distance falls with the strength, and strength zero changes nothing."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from tiny_pipelines import FAMILIES, build
from torch import Tensor

from dreamsim_guidance.guidance import DPS, MPGD, TFG, Method, guide
from dreamsim_guidance.pipelines.decoder import Decoder

STRENGTHS: dict[str, tuple[float, ...]] = {
    # A random denoiser predicts almost no noise, so the clean estimates have 10 to 150 standard deviations; the gradient
    # of the decoder there is smaller by the same factor.
    **dict.fromkeys([family for family in FAMILIES if family.startswith(("sd-", "sdxl"))], (1.0, 5.0, 25.0)),
    **dict.fromkeys(["sd", "lcm", "animatediff", "modular-sdxl", "qwen-image", "pixart-sigma"], (1.0, 5.0, 25.0)),
    **dict.fromkeys(["sd-v", "sd-img2img", "sdxl-refiner", "sdxl-img2img", "sdxl-inpaint"], (0.3, 1.0, 3.0)),
    "pixart-alpha": (10.0, 100.0, 1000.0),
}
DEFAULT_STRENGTHS = (0.1, 0.3, 1.0)
PIXELS = ("ddpm", "ddpm-learned-variance", "ddim")


@pytest.mark.parametrize("method", [MPGD, TFG, DPS])
@pytest.mark.parametrize("family", FAMILIES)
def test_distance_falls_with_strength(family: str, method: type[Method]) -> None:
    tiny = build(family)
    loss = tiny.loss()
    distances = [float(loss(tiny.call()).mean())]
    for strength in STRENGTHS.get(family, DEFAULT_STRENGTHS):
        with guide(tiny.pipe, loss, method(strength=strength)) as log:
            distances.append(float(loss(tiny.call()).mean()))
        assert log.final["distance"] == pytest.approx([distances[-1]], rel=1e-4)
    assert all(more < less for less, more in pairwise(distances)), distances
    assert distances[-1] < (0.996 if family == "pixart-alpha" else 0.985) * distances[0], distances


@pytest.mark.parametrize("family", FAMILIES)
def test_strength_zero_gives_exactly_the_unguided_images(family: str) -> None:
    tiny = build(family)
    unguided, loss = tiny.call(steps=3), tiny.loss(steps=3)
    for method in (MPGD(strength=0.0), TFG(strength=0.0, recurrence=2)):
        with guide(tiny.pipe, loss, method) as log:
            assert torch.equal(tiny.call(steps=3), unguided)
        assert len(log.entries) >= 1 and not any(entry.guided for entry in log.entries)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in PIXELS])
def test_the_decoder_computes_the_tensor_that_the_pipeline_decodes(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[float] = []
    check = Decoder.check

    def spy(self: Decoder, decoded: Tensor, candidates: list[Tensor], offset: int) -> None:
        inputs = [self.vae_input(x.detach())[offset : offset + len(decoded)] for x in candidates]
        errors = [(x - decoded).abs() / (1 + decoded.abs()) for x in inputs if x.shape == decoded.shape]
        shares.append(max(float((error < 1e-6).float().mean()) for error in errors))
        check(self, decoded, candidates, offset)

    monkeypatch.setattr(Decoder, "check", spy)
    tiny = build(family)
    with guide(tiny.pipe, tiny.loss(steps=2)):
        tiny.call(batch=2, steps=2)
    assert shares, "the pipeline's own decoding was not seen"
    pasted = family in ("sd-inpaint-4", "sdxl-inpaint")  # the known half is pasted over the last step's result
    assert min(shares) >= (0.4 if pasted else 1.0)


@pytest.mark.parametrize(
    "family", ["sd", "sd-inpaint-4", "lcm", "sd3", "flux-dev", "flux2", "qwen-image", "animatediff"]
)
def test_decoding_that_differs_from_the_pipeline_is_an_error(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Decoder.vae_input

    def scaled(self: Decoder, x0: Tensor) -> Tensor:
        return 1.05 * original(self, x0)

    monkeypatch.setattr(Decoder, "vae_input", scaled)
    tiny = build(family)
    unguided, loss = tiny.call(), tiny.loss()
    with pytest.raises(RuntimeError, match=r"Pass decode="), guide(tiny.pipe, loss):
        tiny.call()
    assert torch.equal(tiny.call(), unguided)


def test_latents_of_an_unknown_layout_are_refused_with_a_request_for_decode() -> None:
    tiny = build("flux-dev")
    unpack = staticmethod(lambda latents, tokens: latents)
    unknown_pipeline: Any = type("UnknownPipeline", (type(tiny.pipe),), {"_unpack_latents": unpack})
    tiny.pipe.__class__ = unknown_pipeline
    with pytest.raises(ValueError, match=r"packs its latents.*pass decode="), guide(tiny.pipe, tiny.loss):
        tiny.call()


def test_a_decode_function_can_unpack_latents_itself() -> None:
    tiny = build("flux-dev")
    tiny.pipe.vae.decoder.conv_out.weight.data.mul_(0.2)  # values inside the bounds, which `decode` does not apply
    loss = tiny.loss()

    def decode(x0: Tensor) -> Tensor:
        vae = tiny.pipe.vae
        latents = tiny.pipe._unpack_latents(x0, 32, 32, tiny.pipe.vae_scale_factor)
        return vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor).sample / 2 + 0.5

    with guide(tiny.pipe, loss):
        with_decoder = tiny.call()
    with guide(tiny.pipe, loss, decode=decode):
        with_function = tiny.call()
    assert torch.allclose(with_decoder, with_function, atol=1e-5)


@pytest.mark.parametrize(
    ("decode", "message"),
    [
        (lambda x0: x0.detach()[:, :3], "decode must be differentiable"),
        (lambda x0: x0[:1, :3], r"got \(1, 3, 8, 8\) of \(2, 4, 8, 8\)"),
        (lambda x0: torch.cat([x0, x0])[:, :3], r"got \(4, 3, 8, 8\) of \(2, 4, 8, 8\)"),
        (lambda x0: x0[0], r"got \(4, 8, 8\)"),
    ],
)
def test_a_decode_function_without_gradient_or_with_a_wrong_shape_is_refused(decode: Any, message: str) -> None:
    tiny = build("sd")
    with pytest.raises(ValueError, match=message), guide(tiny.pipe, tiny.loss(), decode=decode):
        tiny.call(batch=2)

"""Guidance works with half precision, LoRA, compilation, offloading, checkpointing, nested guides and threads."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from tiny_networks import tiny_autoencoder
from tiny_pipeline import TinyPipeline, picture, squared_distance
from tiny_pipelines import build
from torch import Tensor

from dreamsim_guidance.guidance import DPS, MPGD, Method, guide

METHODS = (MPGD(strength=5.0), DPS(strength=5.0))
both = pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)


def check_guidance(tiny: TinyPipeline, method: Method, **options: Any) -> Tensor:
    """Check that guidance brings images closer and leaves later unguided runs as they were; returns the guided images."""
    loss, unguided = tiny.loss(), tiny.call()
    with guide(tiny.pipe, loss, method, **options) as log:
        guided = tiny.call()
    assert guided.isfinite().all() and log.skipped == 0
    assert float(loss(guided).mean()) < float(loss(unguided).mean())
    assert torch.equal(tiny.call(), unguided)
    return guided


# Precision.


@both
@pytest.mark.filterwarnings("ignore:`upcast_vae` is deprecated:FutureWarning")  # diffusers' SDXL pipeline calls it
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["sd-v", "sdxl", "sd3", "flux-dev"])
def test_half_precision(family: str, dtype: torch.dtype, method: Method) -> None:
    tiny = build(family)
    tiny.pipe.to(dtype)
    check_guidance(tiny, method)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_half_precision_gradients_neither_vanish_nor_overflow(scale: float) -> None:
    """Scaling the loss and dividing the strength by the same factor changes nothing."""
    tiny = build("sd-v")
    tiny.pipe.to(torch.float16)
    loss = tiny.loss()
    for kind in (MPGD, DPS):
        with guide(tiny.pipe, loss, kind(strength=2.0)):
            unscaled = tiny.call()
        with guide(tiny.pipe, lambda images: loss(images) * scale, kind(strength=2.0 / scale)) as log:
            scaled = tiny.call()
        assert log.skipped == 0
        assert (scaled - unscaled).abs().max() < 2e-2


# Changes that users make to a pipeline.


@both
def test_lora(method: Method) -> None:
    from peft import LoraConfig

    tiny = build("sd")
    plain = tiny.call()
    tiny.pipe.unet.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_v"]))
    assert not torch.equal(tiny.call(), plain)
    check_guidance(tiny, method)
    lora = [p for name, p in tiny.pipe.unet.named_parameters() if "lora" in name]
    assert lora and all(p.requires_grad for p in lora)


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)  # raised inside torch.compile
@pytest.mark.parametrize(("backend", "method"), [("eager", MPGD(strength=5.0)), ("aot_eager", DPS(strength=5.0))])
def test_compiled_denoiser(backend: str, method: Method) -> None:
    tiny = build("sd3")
    plain = check_guidance(tiny, method)
    torch.compiler.reset()
    tiny.pipe.transformer = torch.compile(tiny.pipe.transformer, backend=backend)
    assert torch.allclose(check_guidance(tiny, method), plain, atol=1e-4)
    torch.compiler.reset()


@both
@pytest.mark.parametrize("switch", ["attention slicing", "gradient checkpointing", "vae slicing", "vae tiling"])
def test_switches_of_the_pipeline(switch: str, method: Method) -> None:
    tiny = build("sd")
    plain = check_guidance(tiny, method)
    if switch == "attention slicing":
        tiny.pipe.enable_attention_slicing(1)
    elif switch == "gradient checkpointing":
        tiny.pipe.unet.enable_gradient_checkpointing()
    elif switch == "vae slicing":
        tiny.pipe.vae.enable_slicing()
    else:
        tiny.pipe.vae.enable_tiling()
    assert torch.allclose(check_guidance(tiny, method), plain, atol=1e-4)


@both
def test_checkpointing_changes_nothing_but_memory(method: Method) -> None:
    tiny = build("sd")
    assert torch.allclose(check_guidance(tiny, method), check_guidance(tiny, method, checkpointing=True), atol=1e-5)
    assert not tiny.pipe.unet.is_gradient_checkpointing


@both
def test_tiny_autoencoder_decodes_for_the_guidance(method: Method) -> None:
    tiny = build("sd")
    vae, unguided = tiny_autoencoder(), tiny.call()
    reference = vae.decode(torch.randn(1, 4, 8, 8)).sample.detach() / 2 + 0.5
    with guide(tiny.pipe, squared_distance(reference), method, vae=vae) as log:
        guided = tiny.call()
    assert log.entries[-1].distance[0] < log.entries[0].distance[0]
    assert not torch.equal(guided, unguided)
    assert log.final["distance"] == pytest.approx([float((guided - reference).square().mean())], rel=1e-4)
    assert torch.equal(tiny.call(), unguided)


@both
@pytest.mark.parametrize("family", ["sd-v", "flux-dev"])
def test_offloading_hooks_stay_and_nothing_is_moved_for_the_guidance(family: str, method: Method) -> None:
    """`enable_model_cpu_offload` needs an accelerator; hooks of the same kind count how often they would load a module."""
    from accelerate.hooks import ModelHook, add_hook_to_module

    class Counting(ModelHook):
        calls = 0

        def pre_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return args, kwargs

    tiny = build(family)
    plain = check_guidance(tiny, method)
    denoiser, decoder = Counting(), Counting()
    add_hook_to_module(tiny.denoiser, denoiser)
    add_hook_to_module(tiny.pipe.vae.decoder, decoder)
    with guide(tiny.pipe, tiny.loss(), method):
        denoiser.calls = decoder.calls = 0
        guided = tiny.call()
    assert torch.allclose(guided, plain, atol=1e-6)
    assert (denoiser.calls, decoder.calls) == (4, 1)  # guidance adds no call that would load a module
    assert tiny.pipe.vae.decoder._hf_hook is decoder


# Nested guides, and guides in several threads.


def test_nested_guides_act_together_and_are_removed_one_by_one() -> None:
    tiny = build("sd-v")
    left, right, unguided = tiny.loss(1), tiny.loss(2), tiny.call()
    with guide(tiny.pipe, left, MPGD(strength=1.0)) as outer:
        with guide(tiny.pipe, right, MPGD(strength=1.0)) as inner:
            both = tiny.call()
        outer_only = tiny.call()
    assert len(outer.entries) == len(inner.entries) == 4
    assert float(right(both)) < float(right(outer_only)) and float(left(outer_only)) < float(left(unguided))
    assert torch.equal(tiny.call(), unguided)


def test_threads_guide_their_own_pipelines_and_wait_for_a_shared_one() -> None:
    def work(tiny: TinyPipeline, seed: int, results: dict[int, Tensor]) -> None:
        arguments = tiny.inputs(1)
        for method in (MPGD(strength=5.0), DPS(strength=5.0)):
            with guide(tiny.pipe, losses[seed], method):
                generator = torch.Generator().manual_seed(seed)
                images = tiny.pipe(**arguments, generator=generator, num_inference_steps=4, output_type="pt").images
            results[seed] = images

    for pipes in ([build("sd-v")] * 2, [build("sd-v") for _ in range(2)]):
        losses = [squared_distance(picture(seed, 1)) for seed in range(2)]
        expected: dict[int, Tensor] = {}
        for seed in range(2):
            work(pipes[seed], seed, expected)
        results: dict[int, Tensor] = {}
        threads = [threading.Thread(target=work, args=(pipes[seed], seed, results)) for seed in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(torch.equal(results[seed], expected[seed]) for seed in range(2))
        assert "step" not in vars(pipes[0].pipe.scheduler)


@both
def test_inference_mode_is_refused(method: Method) -> None:
    tiny = build("sd-v")
    loss = tiny.loss()
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"), guide(tiny.pipe, loss, method):
        tiny.call()
    check_guidance(tiny, method)

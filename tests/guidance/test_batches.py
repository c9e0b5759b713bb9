"""In a batch each image is guided as if it were alone, and images of one prompt share its reference."""

from __future__ import annotations

import pytest
import torch
from tiny_pipeline import squared_distance
from tiny_pipelines import build

from dreamsim_guidance.guidance import DPS, MPGD, Method, guide

both = pytest.mark.parametrize(
    "method", [MPGD(strength=5.0), DPS(strength=5.0)], ids=lambda method: type(method).__name__
)


@both
@pytest.mark.parametrize("family", ["sd", "sd3", "flux-true-cfg"])
def test_each_image_of_a_batch_is_guided_as_if_alone(family: str, method: Method) -> None:
    tiny = build(family)
    loss = tiny.loss()

    def seeded(*seeds: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    with guide(tiny.pipe, loss, method):
        together = tiny.call(seed=None, batch=2, generator=seeded(3, 4))
        alone = tiny.call(seed=None, batch=1, generator=seeded(3))
    assert torch.allclose(together[:1], alone, atol=2e-5)


def test_several_images_for_each_prompt_share_its_reference() -> None:
    tiny = build("sd")
    references = torch.cat([tiny.target(5), tiny.target(6)])
    with guide(tiny.pipe, squared_distance(references), MPGD(strength=20.0)) as log:
        images = tiny.call(batch=2, num_images_per_prompt=3)
    with guide(
        tiny.pipe, squared_distance(references.repeat_interleave(3, 0)), MPGD(strength=20.0), images_per_reference=1
    ):
        assert torch.allclose(tiny.call(batch=2, num_images_per_prompt=3), images, atol=1e-6)
    assert len(images) == 6
    expected = (images - references.repeat_interleave(3, 0)).square().flatten(1).mean(1)
    assert log.final["distance"] == pytest.approx(expected.tolist(), rel=1e-4)


def test_a_loss_may_have_a_reference_for_each_image_of_a_prompt() -> None:
    tiny = build("sd")
    references = torch.cat([tiny.target(5), tiny.target(6), tiny.target(7), tiny.target(8)])
    with guide(tiny.pipe, squared_distance(references), MPGD(strength=20.0)) as log:
        images = tiny.call(batch=2, num_images_per_prompt=2)
    expected = (images - references).square().flatten(1).mean(1)
    assert log.final["distance"] == pytest.approx(expected.tolist(), rel=1e-4)
    three = squared_distance(references[:3])
    with pytest.raises(ValueError, match=r"2 images, one of each prompt's 2, and with all 4"), guide(tiny.pipe, three):
        tiny.call(batch=2, num_images_per_prompt=2)


def test_one_reference_serves_all_prompts() -> None:
    tiny = build("sd")
    reference = tiny.target(5)
    with guide(tiny.pipe, lambda images: (images - reference).square().flatten(1).mean(1)) as log:
        tiny.call(batch=2, num_images_per_prompt=2)
    assert [len(entry.distance) for entry in log.entries] == [4] * 5

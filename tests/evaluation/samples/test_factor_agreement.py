import math

import pytest
import torch

from dreamsim_guidance.data.scenes.drawing import draw
from dreamsim_guidance.data.scenes.pocket_scenes import draw_pocket_scenes, pocket_scene
from dreamsim_guidance.data.scenes.scene import sample_scene, scene_generator
from dreamsim_guidance.data.scenes.variations import vary
from dreamsim_guidance.evaluation.samples.factor_agreement import agreement_by_factor, factor_agreement
from dreamsim_guidance.evaluation.samples.frechet import frechet_distance
from dreamsim_guidance.evaluation.samples.scene_judge import JUDGED, SceneJudge, factor_classes, load_judge


@pytest.fixture(scope="module")
def judge() -> SceneJudge:
    return load_judge()


def pictures(count: int, size: int = 32) -> torch.Tensor:
    return draw_pocket_scenes(count, size, "test", 5000)[1].float() / 255


def scenes(count: int) -> list:
    return [pocket_scene(5000 + i, "test") for i in range(count)]


def test_the_frechet_distance_of_gaussians_is_the_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(20_000, 3, generator=generator, dtype=torch.float64)
    noise = (noise - noise.mean(0)) @ torch.linalg.cholesky(torch.linalg.inv(noise.T.cov()))  # covariance exactly 1
    a, b = noise * torch.tensor([1.0, 2.0, 3.0]), noise * torch.tensor([2.0, 2.0, 5.0]) + 1.5
    assert frechet_distance(a, b) == pytest.approx(3 * 1.5**2 + 1 + 0 + 4, rel=1e-9)


def test_the_frechet_distance_is_symmetric_and_zero_for_the_same_set() -> None:
    a, b = torch.randn(50, 6), torch.randn(70, 6) @ torch.randn(6, 6)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)
    assert frechet_distance(a, a.flip(0)) == pytest.approx(0, abs=1e-9)
    turn = torch.linalg.qr(torch.randn(6, 6)).Q
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(frechet_distance(a, b), rel=1e-4)  # float32 features


def test_the_frechet_distance_agrees_with_the_matrix_root() -> None:
    from scipy.linalg import sqrtm

    a, b = torch.randn(40, 5, dtype=torch.float64), 2 * torch.randn(40, 5, dtype=torch.float64) + 1
    covariances = [x.T.cov().numpy() for x in (a, b)]
    root = sqrtm(covariances[0] @ covariances[1]).real
    expected = (a.mean(0) - b.mean(0)).square().sum().item() + (covariances[0] + covariances[1] - 2 * root).trace()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)


def test_fewer_pictures_than_features_are_no_obstacle() -> None:
    assert math.isfinite(frechet_distance(torch.randn(4, 30), torch.randn(5, 30)))


def test_bad_features_are_refused() -> None:
    with pytest.raises(ValueError, match="at least two pictures for a covariance, got 1"):
        frechet_distance(torch.randn(1, 3), torch.randn(4, 3))
    with pytest.raises(ValueError, match="must be finite"):
        frechet_distance(torch.full((4, 3), math.nan), torch.randn(4, 3))


def test_every_scene_has_a_class_in_every_factor() -> None:
    drawn = [sample_scene(scene_generator(i)) for i in range(300)]
    for name, classes in factor_classes(drawn).items():
        assert set(classes.tolist()) == set(range(len(JUDGED[name]))), name


def test_the_judge_reads_held_out_scenes(judge: SceneJudge) -> None:
    assert {"shape", "colour", "style", "background_colour"} <= set(judge.readable)
    assert factor_agreement(pictures(100), scenes(100), judge).mean() > 0.8


def test_the_judge_reads_larger_pictures_too(judge: SceneJudge) -> None:
    assert factor_agreement(pictures(100, 64), scenes(100), judge).mean() > 0.8


def test_other_scenes_agree_less(judge: SceneJudge) -> None:
    agreement_with_itself, others = (
        factor_agreement(pictures(60), scenes(60)),
        factor_agreement(pictures(60), scenes(60)[::-1]),
    )
    assert agreement_with_itself.mean() > others.mean() + 0.3


def test_agreement_follows_the_share_of_factors_that_were_changed(judge: SceneJudge) -> None:
    generator = scene_generator(0)
    few = [vary(scene, ("shape",), 1.0, generator) for scene in scenes(40)]
    many = [vary(scene, ("shape", "colour", "style", "background"), 1.0, generator) for scene in scenes(40)]
    agreement = [
        factor_agreement(torch.cat([draw(scene, 32) for scene in changed]), scenes(40)) for changed in (few, many)
    ]
    assert factor_agreement(pictures(40), scenes(40)).mean() > agreement[0].mean() > agreement[1].mean()


def test_a_picture_agrees_with_itself_in_everything() -> None:
    assert torch.equal(factor_agreement(pictures(5), pictures(5)), torch.ones(5))


def test_one_reference_serves_for_all() -> None:
    images, scene = pictures(4), scenes(1)[0]
    assert torch.equal(factor_agreement(images, scene), factor_agreement(images, [scene] * 4))
    assert torch.equal(factor_agreement(images, images[:1]), factor_agreement(images, images[:1].expand(4, 3, 32, 32)))


def test_the_share_is_over_the_readable_factors(judge: SceneJudge) -> None:
    by_factor = agreement_by_factor(pictures(6), scenes(6), judge)
    assert tuple(by_factor) == judge.readable
    mean = torch.stack(list(by_factor.values())).float().mean(0)
    assert torch.equal(mean, factor_agreement(pictures(6), scenes(6)))


def test_the_result_of_an_image_does_not_depend_on_its_batch(judge: SceneJudge) -> None:
    images = pictures(4)
    assert torch.allclose(judge.features(images)[1:2], judge.features(images[1:2]), atol=1e-4)


def test_a_wrong_number_of_references_is_refused() -> None:
    with pytest.raises(ValueError, match="one for each of the 4 images is needed, got 3"):
        factor_agreement(pictures(4), scenes(3))


def test_an_unknown_factor_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown factor 'taste'; known: shape, colour"):
        SceneJudge(readable=("taste",))


def test_the_judge_does_not_depend_on_the_default_dtype(judge: SceneJudge) -> None:
    images = torch.rand(2, 3, 32, 32)
    torch.set_default_dtype(torch.float64)
    try:
        features = load_judge().features(images)
    finally:
        torch.set_default_dtype(torch.float32)
    assert features.dtype == torch.float32
    assert torch.equal(features, judge.features(images))

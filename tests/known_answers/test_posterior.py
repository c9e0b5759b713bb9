"""Posteriors, scores and distances in closed form agree with numerical integrals, autograd and sampling."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from dreamsim_guidance.known_answers.exact_pipelines import SAMPLERS, ExactDenoiser, exact_pipeline, final_state
from dreamsim_guidance.known_answers.gaussian_mixture import GaussianMixture, gaussian, random_mixture
from dreamsim_guidance.known_answers.posterior import (
    Energy,
    LinearEnergy,
    QuadraticEnergy,
    errors,
    image_loss,
    sampling_floor,
    wasserstein,
)

ENERGIES = [
    LinearEnergy(torch.tensor([0.8, -0.5], dtype=torch.float64)),
    QuadraticEnergy(torch.tensor([[1.0, 0.5]], dtype=torch.float64), torch.tensor([0.7], dtype=torch.float64), 0.4),
]


def plane() -> GaussianMixture:
    """Three components in two dimensions, close enough to overlap."""
    return random_mixture(2, (0.2, 0.5, 0.3), apart=0.8, correlation=0.7, seed=3)


def density(mixture: GaussianMixture, a: float = 1.0, s: float = 0.0) -> MixtureSameFamily:
    """The distribution of `a x0 + s eps`, by torch."""
    spread = a**2 * mixture.covariances + s**2 * torch.eye(mixture.dimension, dtype=torch.float64)
    return MixtureSameFamily(Categorical(mixture.weights), MultivariateNormal(a * mixture.means, spread))


@pytest.mark.parametrize("energy", ENERGIES, ids=["linear", "quadratic"])
def test_the_posterior_agrees_with_a_sum_over_a_fine_grid(energy: Energy) -> None:
    prior = plane()
    line = torch.linspace(-9, 9, 601, dtype=torch.float64)
    points = torch.cartesian_prod(line, line)
    weights = (density(prior).log_prob(points) - energy(points)).softmax(0)
    mean = weights @ points
    covariance = (weights[:, None] * (points - mean)).mT @ (points - mean)
    posterior = energy.posterior(prior)
    # a sum over a grid is exact up to rounding for a smooth function of which less than 1e-9 lies outside the grid
    torch.testing.assert_close(posterior.mean(), mean, atol=1e-6, rtol=0)
    torch.testing.assert_close(posterior.covariance(), covariance, atol=1e-6, rtol=0)
    # not only the first two moments: the log densities differ by a constant, the evidence
    difference = density(posterior).log_prob(points) - (density(prior).log_prob(points) - energy(points))
    near = weights > 1e-9
    assert float(difference[near].std()) < 1e-9


def test_a_scaled_energy_is_the_energy_times_its_strength() -> None:
    x = torch.randn(5, 2, dtype=torch.float64)
    for energy in ENERGIES:
        torch.testing.assert_close(energy.scaled(2.5)(x), 2.5 * energy(x))


@pytest.mark.parametrize(("a", "s"), [(1.0, 0.0), (0.9, 0.3), (0.1, 0.995), (1.0, 14.0), (0.0, 1.0)])
def test_the_responsibilities_are_those_of_torch_s_mixture(a: float, s: float) -> None:
    prior, x = plane(), torch.randn(50, 2, dtype=torch.float64)
    components = density(prior, a, s).component_distribution.log_prob(x[:, None])
    torch.testing.assert_close(prior.responsibilities(x, a, s), (prior.weights.log() + components).softmax(-1))


@pytest.mark.parametrize(("a", "s"), [(0.999, 0.04), (0.7, 0.714), (0.1, 0.995), (1.0, 14.0), (0.3, 0.7)])
def test_the_noise_is_the_score_of_the_noisy_density(a: float, s: float) -> None:
    prior = plane()
    x = (3 * torch.randn(20, 2, dtype=torch.float64)).requires_grad_()
    (score,) = torch.autograd.grad(density(prior, a, s).log_prob(x).sum(), x)
    denoised = prior.denoise(x.detach(), a, s)
    torch.testing.assert_close(denoised.noise, -s * score, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(a * denoised.x0 + s * denoised.noise, x.detach(), atol=1e-10, rtol=1e-10)


def test_the_jacobian_of_the_denoiser_is_the_covariance_of_x0_given_x_t() -> None:
    """Tweedie's second formula, on which guidance through the denoiser rests, checked for a Gaussian in closed form."""
    prior, a, s = random_mixture(3, seed=1), 0.6, 0.8
    x = torch.randn(1, 3, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x_t: prior.denoise(x_t, a, s).x0[0], x)[:, 0]
    precision = torch.linalg.inv(prior.covariances[0]) + (a / s) ** 2 * torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(s**2 / a * jacobian, torch.linalg.inv(precision))


def test_the_four_predictions_of_the_denoiser_agree() -> None:
    prior, x_t = random_mixture(12, (0.5, 0.5)), torch.randn(4, 3, 2, 2, dtype=torch.float64)
    predicted = {
        name: ExactDenoiser(prior, (3, 2, 2), name)(x_t, 300).sample for name in ("epsilon", "v_prediction", "sample")
    }
    a, s = ExactDenoiser(prior, (3, 2, 2)).level(300)
    assert a**2 + s**2 == pytest.approx(1)
    torch.testing.assert_close(a * predicted["sample"] + s * predicted["epsilon"], x_t)
    torch.testing.assert_close(a * predicted["epsilon"] - s * predicted["sample"], predicted["v_prediction"])
    flow = ExactDenoiser(prior, (3, 2, 2), "flow_prediction")
    assert flow.level(300) == (0.7, 0.3)
    x0, noise = prior.denoise(x_t.flatten(1), 0.7, 0.3)
    torch.testing.assert_close(flow(x_t, 300).sample.flatten(1), noise - x0)


def test_the_wasserstein_distance_is_that_of_normal_distributions() -> None:
    variance, other_variance = torch.tensor([[4.0]]).double(), torch.tensor([[9.0]]).double()
    mean, other_mean = torch.zeros(1).double(), torch.full((1,), 2.0).double()
    assert wasserstein(mean, variance, other_mean, other_variance) == pytest.approx(5**0.5)
    a, b = plane(), random_mixture(2, seed=8)
    forward = wasserstein(a.mean(), a.covariance(), b.mean(), b.covariance())
    backward = wasserstein(b.mean(), b.covariance(), a.mean(), a.covariance())
    assert forward == pytest.approx(backward) and forward > 0.1
    # 1e-7 is the root of rounding errors of about 1e-16
    assert wasserstein(a.mean(), a.covariance(), a.mean(), a.covariance()) < 1e-7


def test_the_error_of_exact_samples_falls_with_the_root_of_their_number() -> None:
    truth = random_mixture(12, (0.3, 0.7), seed=1)
    few, many = sampling_floor(truth, 500), sampling_floor(truth, 8000)
    # the root of 16, up to the spread of 20 repeats
    assert few.wasserstein / many.wasserstein == pytest.approx(4, rel=0.15)
    measured = errors(truth.sample(8000, torch.Generator().manual_seed(5)), truth)
    assert measured.wasserstein < 1.5 * many.wasserstein and measured.weights < 4 * many.weights


def test_errors_show_a_wrong_mean_a_wrong_covariance_and_a_lost_component() -> None:
    truth = random_mixture(6, (0.3, 0.7), apart=3.0, seed=1)
    samples = truth.sample(4000, torch.Generator().manual_seed(5))
    assert errors(samples + 0.5, truth).mean == pytest.approx(0.5, abs=0.1)
    centre = samples.mean(0)
    assert errors((samples - centre) * 1.5 + centre, truth).covariance == pytest.approx(1.25, abs=0.1)
    one_component = gaussian(truth.means[1], truth.covariances[1]).sample(500, torch.Generator().manual_seed(5))
    assert errors(one_component, truth).weights == pytest.approx(0.3, abs=0.02)
    assert errors(torch.full((3, 6), math.nan), truth).wasserstein == math.inf


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_unguided_sampling_recovers_the_prior(sampler: str) -> None:
    prior = random_mixture(4, (0.3, 0.7), seed=1)
    steps = (5, 40) if sampler in ("dpm++2m", "unipc") else (5, 100)  # second-order and first-order samplers
    few, many = (errors(_sampled(prior, sampler, n), prior).wasserstein for n in steps)
    floor = sampling_floor(prior, 2000).wasserstein
    # first-order samplers are not yet at the floor after 100 steps: ancestral ones lack about 3 % of each standard deviation
    assert many < 2 * floor and many < few / 2


def test_every_prediction_type_gives_the_same_samples() -> None:
    prior = random_mixture(4, seed=1)
    noise, v, x0 = (_sampled(prior, "dpm++2m", 10, name) for name in ("epsilon", "v_prediction", "sample"))
    # states are float32, and the first step divides by a = 0.006
    torch.testing.assert_close(v, noise, atol=1e-3, rtol=0)
    torch.testing.assert_close(x0, noise, atol=1e-3, rtol=0)


def test_the_final_state_is_not_clamped_and_the_scheduler_is_restored() -> None:
    prior = random_mixture(4, seed=1)
    pipe, arguments = exact_pipeline(prior, (1, 2, 2), "ddpm")
    before = dict(vars(pipe.scheduler))
    with final_state(pipe.scheduler) as states:
        images = pipe(batch_size=50, num_inference_steps=10, **arguments).images
    assert float(states[0].abs().max()) > 1.2
    torch.testing.assert_close((states[0] / 2 + 0.5).clamp(0, 1), images)
    assert "step" in before or "step" not in vars(pipe.scheduler)


def test_the_loss_on_images_is_the_energy_per_element() -> None:
    x0 = torch.randn(3, 1, 1, 2, dtype=torch.float64)
    for energy in ENERGIES:
        torch.testing.assert_close(2 * image_loss(energy, x0 / 2 + 0.5), energy(x0.flatten(1)))


def test_impossible_priors_energies_and_samplers_are_refused(unchecked: None) -> None:
    eye = torch.eye(2)[None]
    with pytest.raises(ValueError, match=r"weights \(k,\), means \(k, d\) and covariances \(k, d, d\) are needed"):
        GaussianMixture(torch.ones(2), torch.zeros(1, 2), eye)
    with pytest.raises(ValueError, match="positive and sum to 1"):
        GaussianMixture(torch.full((1,), 0.5), torch.zeros(1, 2), eye)
    with pytest.raises(ValueError, match="positive definite"):
        GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.tensor([[[1.0, 2.0], [2.0, 1.0]]]))
    with pytest.raises(ValueError, match="correlation must lie in"):
        random_mixture(4, correlation=1.0)
    with pytest.raises(ValueError, match="sigma must be a number above 0"):
        QuadraticEnergy(torch.eye(2), torch.zeros(2), 0.0)
    with pytest.raises(ValueError, match="must have the prior's 4 elements"):
        exact_pipeline(random_mixture(4), (3, 2, 2))
    with pytest.raises(ValueError, match="unknown sampler 'heun'; known: ddim"):
        exact_pipeline(random_mixture(4), (1, 2, 2), "heun")
    with pytest.raises(ValueError, match="unknown prediction 'score'"):
        exact_pipeline(random_mixture(4), (1, 2, 2), "ddim", "score")
    with pytest.raises(ValueError, match="two or more samples"):
        errors(torch.zeros(1, 4), random_mixture(4))


def _sampled(prior: GaussianMixture, sampler: str, steps: int, prediction: str = "epsilon") -> Tensor:
    pipe, arguments = exact_pipeline(prior, (1, 2, 2), sampler, prediction)
    with final_state(pipe.scheduler) as states:
        pipe(2000, num_inference_steps=steps, generator=torch.Generator().manual_seed(1), **arguments)
    return states[0].flatten(1)

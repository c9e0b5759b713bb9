import pytest
import torch
from torch import Tensor

from dreamsim_guidance.training.vote_losses import Kind, VoteLoss, VoteLossConfig

D_A, D_B = torch.tensor([0.2, 0.5, 0.30]), torch.tensor([0.4, 0.1, 0.32])
N_A, N_B = torch.tensor([3.0, 0.0, 2.0]), torch.tensor([1.0, 6.0, 2.0])


def loss(kind: Kind, d_a: Tensor = D_A, d_b: Tensor = D_B, **options: float) -> Tensor:
    return VoteLoss(VoteLossConfig(kind, **options))(d_a, d_b, N_A, N_B)


def test_the_hinge_is_the_originals_formula() -> None:
    y = torch.tensor([-1.0, 1.0])  # the original: target 1, right is nearer, becomes +1, and 0 becomes -1
    expected = (0.05 - (D_A - D_B)[:2] * y).clamp(min=0)
    torch.testing.assert_close(loss("hinge")[:2], expected)


def test_the_hinge_of_equal_votes_is_the_mean_of_both_sides() -> None:
    z = float(D_A[2] - D_B[2])
    assert float(loss("hinge")[2]) == pytest.approx(0.5 * (max(0, 0.05 - z) + max(0, 0.05 + z)))


def test_the_logistic_loss_is_the_cross_entropy_with_the_share_of_votes() -> None:
    p = torch.sigmoid((D_A - D_B) / 0.1)
    share = N_B / (N_A + N_B)
    expected = -(share * p.log() + (1 - share) * (1 - p).log())
    torch.testing.assert_close(loss("logistic", temperature=0.1), expected)


def test_bradley_terry_is_the_likelihood_of_the_votes_under_worths() -> None:
    worth_a, worth_b = (-D_A / 0.1).exp(), (-D_B / 0.1).exp()
    total = worth_a + worth_b
    expected = -(N_A * (worth_a / total).log() + N_B * (worth_b / total).log())
    torch.testing.assert_close(loss("bradley_terry", temperature=0.1), expected)


def test_bradley_terrys_temperature_is_learned_towards_that_of_the_votes() -> None:
    true = 0.07
    z = torch.linspace(-0.3, 0.3, 41)
    share = torch.sigmoid(z / true)
    learned = VoteLoss(VoteLossConfig("bradley_terry", temperature=0.5))
    optimiser = torch.optim.Adam(learned.parameters(), lr=0.05)
    for _ in range(300):
        optimiser.zero_grad()
        learned(z, torch.zeros_like(z), 100 * (1 - share), 100 * share).mean().backward()
        optimiser.step()
    assert learned.temperature == pytest.approx(true, rel=0.02)


@pytest.mark.parametrize("kind", ["hinge", "logistic", "bradley_terry"])
def test_losses_fall_as_the_chosen_one_comes_nearer(kind: Kind) -> None:
    d_a = D_A.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(kind, d_a, D_A + 0.01)[0], d_a)
    assert slope[0] > 0  # three of four people took a


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "hing"}, "unknown loss 'hing'; known: hinge"),
        ({"margin": -1.0}, "margin must be a number from 0 on"),
        ({"temperature": 0.0}, "temperature must be a positive number"),
    ],
)
def test_odd_settings_are_refused(options: dict[str, object], message: str, unchecked: None) -> None:
    with pytest.raises(ValueError, match=message):
        VoteLossConfig(**options)  # type: ignore[arg-type]


def test_only_the_hinge_has_no_temperature() -> None:
    assert VoteLoss(VoteLossConfig("hinge")).temperature is None
    assert VoteLoss(VoteLossConfig("logistic", temperature=0.2)).temperature == 0.2
    assert VoteLoss(VoteLossConfig("bradley_terry", temperature=0.2)).temperature == pytest.approx(0.2)

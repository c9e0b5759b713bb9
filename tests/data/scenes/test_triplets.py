import pytest
import torch

from dreamsim_guidance.data.scenes.scene import factor_distance
from dreamsim_guidance.data.scenes.triplets import MARGIN, agreement, draw_triplets, sample_triplets


def test_triplets_know_their_distances_and_keep_the_margin():
    for triplet in sample_triplets(30, "val"):
        assert triplet.distance_a == factor_distance(triplet.reference, triplet.a)
        assert triplet.distance_b == factor_distance(triplet.reference, triplet.b)
        assert abs(triplet.distance_a - triplet.distance_b) >= MARGIN
        assert triplet.b_is_nearer == (triplet.distance_b < triplet.distance_a)
        assert len({triplet.reference.seed, triplet.a.seed, triplet.b.seed}) == 3


def test_a_triplet_depends_on_its_number_only():
    assert sample_triplets(3, "test", first=5) == sample_triplets(8, "test")[5:]


def test_splits_have_other_triplets():
    references = [t.reference for split in ("train", "val", "test") for t in sample_triplets(20, split)]
    assert len(set(references)) == len(references)


def test_answers_are_balanced():
    answers = [t.b_is_nearer for t in sample_triplets(400, "val")]
    assert 0.4 < sum(answers) / len(answers) < 0.6


def test_pictures_come_in_three_batches():
    reference, a, b = draw_triplets(sample_triplets(4, "val"), size=32)
    assert reference.shape == a.shape == b.shape == (4, 3, 32, 32)


def test_agreement_counts_right_wrong_and_ties():
    near, far = torch.tensor([0.1, 0.3, 0.2, 0.2]), torch.tensor([0.2, 0.1, 0.2, 0.1])
    result = agreement(near, far, torch.tensor([False, False, True, True]))
    assert result.share == pytest.approx((1 + 0 + 0.5 + 1) / 4)
    assert result.low <= result.share <= result.high and result.count == 4


def test_the_interval_of_a_fair_coin_covers_one_half():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 1000, generator=generator)
    result = agreement(a, b, torch.rand(1000, generator=generator) < 0.5)
    assert result.low < 0.5 < result.high
    assert 0.05 < result.high - result.low < 0.07

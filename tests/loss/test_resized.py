"""`loss.resized`: the same loss with its references in another size, and nothing else."""

import torch

from dreamsim_guidance.loss import Loss
from dreamsim_guidance.losses import L1, MSE, TotalVariation
from dreamsim_guidance.preprocess import resize
from dreamsim_guidance.schedule import Linear


def test_references_are_resized_in_sums_with_their_names_and_weights() -> None:
    photo, images = torch.rand(1, 3, 12, 10), torch.rand(2, 3, 6, 5)
    loss = Linear(2, 0, steps=4) * MSE(photo) + TotalVariation().named("smooth") + L1(photo).named("colour")
    fitted = loss.resized((6, 5))
    small = resize(photo, (6, 5))
    assert fitted.weights == loss.weights and fitted.at(2).weights == loss.at(2).weights
    assert torch.equal(fitted(images), 2 * MSE(small)(images) + TotalVariation()(images) + L1(small)(images))


def test_a_loss_of_this_size_or_without_a_reference_is_returned_itself() -> None:
    photo = torch.rand(1, 3, 6, 5)
    for loss in (
        MSE(photo),
        MSE(photo) + 2 * TotalVariation(),
        TotalVariation(),
        Loss.of(lambda x: x.flatten(1).mean(1)),
    ):
        assert loss.resized((6, 5)) is loss

import pytest
import torch

from dreamsim_guidance.data.photographs import HELD_OUT, photograph, random_crop, training_photographs


def test_bundled_photographs_need_no_download(monkeypatch):
    import socket

    monkeypatch.setattr(socket, "socket", lambda *a, **k: pytest.fail("a download was tried"))
    assert photograph("astronaut").shape == (1, 3, 512, 512)
    assert len(training_photographs()) >= 5


def test_held_out_photographs_are_not_trained_on():
    assert not set(HELD_OUT) & set(training_photographs())


def test_crops_are_square_in_range_and_reproducible():
    image = photograph("coffee")
    crops = [random_crop(image, 64, torch.Generator().manual_seed(i)) for i in (1, 1, 2)]
    assert crops[0].shape == (1, 3, 64, 64)
    assert torch.equal(crops[0], crops[1]) and not torch.equal(crops[0], crops[2])
    assert crops[0].min() >= 0 and crops[0].max() <= 1


def test_the_error_for_an_unknown_photograph_lists_the_bundled_ones():
    with pytest.raises(ValueError, match="no photograph 'dog' is installed; there are: astronaut"):
        photograph("dog")

import torch

from dreamsim_guidance.training.augmentation import Augmentation


def test_augmented_pictures_differ_and_stay_in_range() -> None:
    augmentation = Augmentation(degrees=10.0, brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1, blur=0.5)
    images = torch.rand(4, 3, 32, 32)
    augmented = augmentation(images)
    assert augmented.shape == images.shape and augmented.min() >= 0 and augmented.max() <= 1
    assert (augmented - images).abs().max() > 0.05
    torch.manual_seed(5)
    first = augmentation(images)
    torch.manual_seed(5)
    torch.testing.assert_close(augmentation(images), first)

import pytest
import torch

from dreamsim_guidance.data.scenes.factors import FactorTable
from dreamsim_guidance.data.scenes.scene import factor_distance, sample_scene, scene_generator
from dreamsim_guidance.data.scenes.variations import random_variation


def test_the_table_agrees_with_factor_distance():
    scenes = []
    for number in range(6):
        generator = scene_generator(number, "val")
        first = sample_scene(generator)
        scenes += [first, *(random_variation(first, generator) for _ in range(4))]
    index = torch.randperm(len(scenes))
    distances = FactorTable(scenes).distances(index)
    for i, a in enumerate(index.tolist()):
        for j, b in enumerate(index.tolist()):
            assert distances[i, j].item() == pytest.approx(factor_distance(scenes[a], scenes[b]), abs=1e-5)

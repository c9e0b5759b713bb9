from dataclasses import replace

import pytest
import torch

from dreamsim_guidance.data.photographs import PHOTOGRAPHS
from dreamsim_guidance.data.scenes.captions import caption, colour_name, tokenise, vocabulary
from dreamsim_guidance.data.scenes.scene import sample_scene, scene_generator

SCENE = replace(
    sample_scene(scene_generator(0, "val")),
    shape="star",
    colour=(0.0, 0.9, 0.9),
    count=3,
    layout="row",
    scale=1.25,
    texture="stripes",
    background="checks",
    background_colour=(2 / 3, 0.9, 0.9),
    style="neon",
    rotation=0.1,
    perspective=(0.9, 0.0),
)


@pytest.mark.parametrize("manner", ["sentence", "tags"])
def test_a_full_caption_names_every_factor(manner):
    for seed in range(10):
        words = caption(SCENE, scene_generator(seed), manner, keep=1.0)
        assert "stars" in words and "red" in words and "three" in words and "blue" in words
        assert "huge" in words or "very large" in words
        assert "in a row" in words or "side by side" in words
        assert "striped" in words or "lined" in words
        assert "checked" in words or "tiled" in words
        assert "neon" in words or "glowing" in words
        assert "leaning right" in words or "tilted to the right" in words
        assert "nearer on the left" in words or "turned to the right" in words


def test_captions_are_deterministic_and_have_many_phrasings():
    assert caption(SCENE, scene_generator(1)) == caption(SCENE, scene_generator(1))
    assert len({caption(SCENE, scene_generator(i), keep=1.0) for i in range(100)}) > 50


def test_words_are_dropped_but_never_the_shape():
    lengths = set()
    for i in range(50):
        text = caption(SCENE, scene_generator(i), "tags", keep=0.5)
        assert "stars" in text
        lengths.add(len(text.split()))
    assert len(lengths) > 5


@pytest.mark.parametrize("manner", ["sentence", "tags"])
def test_a_caption_mentions_only_what_it_is_asked_for(manner):
    for i in range(20):
        words = caption(SCENE, scene_generator(i), manner, keep=1.0, mention=("colour", "layout"))
        assert "red" in words and "thing" in words and ("row" in words or "side by side" in words)
        assert not set(words.replace(",", "").split()) & {"star", "stars", "three", "blue", "striped", "neon", "huge"}


def test_every_word_of_every_caption_is_in_the_vocabulary_and_fits():
    texts = []
    for i in range(500):
        generator = scene_generator(i, "val")
        scene = sample_scene(generator)
        texts += [caption(scene, generator, "sentence", keep=1.0), caption(scene, generator, "tags", keep=1.0)]
    texts += [f"a photograph of {name}" for name in PHOTOGRAPHS]
    tokens = tokenise(texts, length=40)
    assert tokens.max() <= len(vocabulary())
    assert (tokens > 0).sum(1).max() <= 28  # the length of the text tower


def test_an_unknown_word_is_named():
    with pytest.raises(ValueError, match="unknown word 'dog' in 'a dog'"):
        tokenise(["a dog"])


def test_colours_have_names():
    assert colour_name((0.0, 1.0, 1.0)) == "red"
    assert colour_name((0.99, 1.0, 1.0)) == "red"
    assert colour_name((2 / 3, 1.0, 0.4)) == "dark blue"
    assert colour_name((1 / 3, 0.3, 1.0)) == "pale green"
    assert colour_name((0.5, 0.0, 1.0)) == "white"


def test_tokens_are_padded_with_zero():
    tokens = tokenise(["red stars", "three red stars"], length=4)
    assert tokens.shape == (2, 4) and tokens.dtype == torch.long
    assert (tokens == 0).sum(1).tolist() == [2, 1]

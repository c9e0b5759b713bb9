"""Embeddings on disk: when they are reused, when they are computed again, and what survives a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TOLERANCE

from dreamsim_guidance import DreamSim, save_image
from dreamsim_guidance.evaluation.metrics import embedding_metric
from dreamsim_guidance.evaluation.metrics.embedding_cache import EmbeddingCache
from dreamsim_guidance.evaluation.metrics.embedding_metric import EmbeddingMetric
from dreamsim_guidance.pocket import load_factor_metric

Pairs = list[tuple[Path, Path]]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    pictures = [tmp_path / "images" / f"{i}.png" for i in range(8)]
    for file in pictures:
        save_image(torch.rand(1, 3, 12, 12), file)
        os.utime(file, (1e9, 1e9))  # written long ago, so that size and time stand for the content
    return pictures


@pytest.fixture
def cache(tmp_path: Path) -> EmbeddingCache:
    return EmbeddingCache(tmp_path / "cache")


@pytest.fixture
def forwards(metric: DreamSim) -> Callable[[], int]:
    """The number of images that went through the metric since the last call."""
    batches: list[int] = []
    metric.ensemble.register_forward_pre_hook(lambda module, arguments: batches.append(len(arguments[0])))

    def count() -> int:
        total = sum(batches)
        batches.clear()
        return total

    return count


def chunks(cache: EmbeddingCache) -> list[Path]:
    return sorted(cache.folder.glob("*/*.npz"))


def test_a_second_set_over_the_same_pictures_costs_no_forward_pass(
    metric: DreamSim, files: list[Path], cache: EmbeddingCache, forwards: Callable[[], int]
) -> None:
    first = EmbeddingMetric("m", metric, cache)
    distances = first.distances([(files[0], file) for file in files[1:]], progress=False)
    assert forwards() == 8 and first.work is not None and first.work.computed == 8
    again = EmbeddingMetric("m", metric, EmbeddingCache(cache.folder))
    other = again.distances([(files[i], files[7]) for i in range(7)], progress=False)
    assert forwards() == 0 and again.work is not None and (again.work.computed, again.work.needed) == (0, 8)
    assert again.work.per_second is None and str(again.work) == "8 images, all from the cache"
    assert other[0] == distances[6]


def test_without_a_cache_each_picture_is_embedded_once(
    metric: DreamSim, files: list[Path], forwards: Callable[[], int]
) -> None:
    EmbeddingMetric("m", metric).distances([(a, b) for a in files for b in files], progress=False)
    assert forwards() == 8


def test_content_counts_not_names(
    metric: DreamSim, files: list[Path], cache: EmbeddingCache, forwards: Callable[[], int], tmp_path: Path
) -> None:
    files[1].write_bytes(files[0].read_bytes())
    EmbeddingMetric("m", metric, cache).distances([(files[0], files[1])], progress=False)
    assert forwards() == 1
    copy = tmp_path / "bläue 青 $x$.png"
    copy.write_bytes(files[0].read_bytes())
    EmbeddingMetric("m", metric, EmbeddingCache(cache.folder)).distances([(copy, files[0])], progress=False)
    assert forwards() == 0
    save_image(torch.rand(1, 3, 12, 12), files[0])
    distances = EmbeddingMetric("m", metric, EmbeddingCache(cache.folder)).distances([(copy, files[0])], progress=False)
    assert forwards() == 1 and distances[0] > 0


def test_files_that_did_not_change_are_not_read_again(
    files: list[Path], cache: EmbeddingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = cache.digests(files, progress=False)
    monkeypatch.setattr("dreamsim_guidance.evaluation.metrics.embedding_cache.sha256", lambda file: 1 / 0)
    assert EmbeddingCache(cache.folder).digests(files, progress=False) == before
    os.utime(files[3], (2e9, 2e9))
    with pytest.raises(ZeroDivisionError):
        EmbeddingCache(cache.folder).digests(files, progress=False)


def test_other_weights_and_other_treatment_have_another_key(metric: DreamSim, cache: EmbeddingCache) -> None:
    key = EmbeddingMetric("m", metric, cache).key
    assert EmbeddingMetric("other name", metric, cache).key == key
    metric.normalize_embeds = False
    assert EmbeddingMetric("m", metric, cache).key != key
    metric.normalize_embeds = True
    next(metric.parameters()).data[0] += 1e-3
    assert EmbeddingMetric("m", metric, cache).key != key


def test_each_adapter_has_a_key_of_its_own(cache: EmbeddingCache) -> None:
    metric = load_factor_metric()
    keys = []
    for adapter in (None, "people", "colour", "layout"):
        metric.set_adapter(adapter)
        keys.append(EmbeddingMetric("m", metric, cache).key)
    assert len(set(keys)) == 4


@pytest.mark.parametrize("damage", ["cut", "changed", "emptied", "of another kind"])
def test_a_damaged_chunk_is_noticed_and_its_pictures_embedded_again(
    damage: str,
    metric: DreamSim,
    files: list[Path],
    cache: EmbeddingCache,
    forwards: Callable[[], int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    pairs = [(files[0], file) for file in files[1:]]
    before = EmbeddingMetric("m", metric, cache).distances(pairs, progress=False)
    forwards()
    (chunk,) = chunks(cache)
    content = bytearray(chunk.read_bytes())
    with np.load(chunk) as stored:
        digests, rows = stored["digests"], stored["rows"]
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "changed":
        content[content.index(rows[5, 7].tobytes()) + 2] ^= 0x40
    elif damage == "emptied":
        content = bytearray()
    else:
        np.savez(chunk, digests=digests, rows=rows[:3])
        content = bytearray(chunk.read_bytes())
    chunk.write_bytes(content)
    distances = EmbeddingMetric("m", metric, EmbeddingCache(cache.folder)).distances(pairs, progress=False)
    np.testing.assert_array_equal(distances, before)
    assert forwards() == 8 and "is damaged" in caplog.text
    EmbeddingMetric("m", metric, EmbeddingCache(cache.folder)).distances(pairs, progress=False)
    assert forwards() == 0


def test_after_damage_to_the_list_of_files_they_are_read_again(files: list[Path], cache: EmbeddingCache) -> None:
    before = cache.digests(files, progress=False)
    for text in ("{", "[]", '{"x": 3}', json.dumps({str(files[0]): [1, 2, "zz"]})):
        (cache.folder / "files.json").write_text(text)
        assert EmbeddingCache(cache.folder).digests(files, progress=False) == before


def test_a_folder_that_cannot_be_written_is_a_warning(
    metric: DreamSim, files: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    distances = EmbeddingMetric("m", metric, EmbeddingCache(tmp_path / "file")).distances([(files[0], files[1])], False)
    assert distances[0] > 0 and "the embeddings are not kept" in caplog.text


def test_an_interrupted_run_keeps_what_it_had(
    metric: DreamSim,
    files: list[Path],
    cache: EmbeddingCache,
    forwards: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pairs = [(files[0], file) for file in files[1:]]
    rows = EmbeddingMetric._rows
    calls: list[int] = []

    def stop(self: EmbeddingMetric, batch: torch.Tensor) -> object:
        calls.append(len(batch))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return rows(self, batch)

    monkeypatch.setattr(EmbeddingMetric, "_rows", stop)
    with pytest.raises(KeyboardInterrupt):
        EmbeddingMetric("m", metric, cache, batch=2).distances(pairs, progress=False)
    assert forwards() == 4
    EmbeddingMetric("m", metric, EmbeddingCache(cache.folder), batch=2).distances(pairs, progress=False)
    assert forwards() == 4


KILLED = """
import os, signal, sys
from pathlib import Path
from dreamsim_guidance import DreamSim
from dreamsim_guidance.evaluation.metrics import embedding_metric
from dreamsim_guidance.evaluation.metrics.embedding_cache import EmbeddingCache
from dreamsim_guidance.evaluation.metrics.embedding_metric import EmbeddingMetric

embedding_metric._KEPT_IMAGES = 2
rows, calls = EmbeddingMetric._rows, []

def die(self, batch):
    calls.append(batch)
    if len(calls) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return rows(self, batch)

EmbeddingMetric._rows = die
model, cache, *files = map(Path, sys.argv[1:])
EmbeddingMetric("m", DreamSim(model), EmbeddingCache(cache), batch=2).directions(files, progress=False)
"""


def test_a_killed_run_goes_on_where_it_was(
    metric: DreamSim, files: list[Path], cache: EmbeddingCache, forwards: Callable[[], int], tmp_path: Path
) -> None:
    model = tmp_path / "m.safetensors"
    metric.save(model, source="test", licence="none")
    command = [sys.executable, "-c", KILLED, str(model), str(cache.folder), *map(str, files)]
    process = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert len(chunks(cache)) == 3
    resumed = EmbeddingMetric("m", metric, cache)
    directions = resumed.directions(files, progress=False)
    assert forwards() == 2
    np.testing.assert_allclose(
        directions, EmbeddingMetric("m", metric).directions(files, progress=False), atol=TOLERANCE[torch.float32]
    )


def test_embeddings_are_written_to_disk_periodically(
    metric: DreamSim, files: list[Path], cache: EmbeddingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_metric, "_KEPT_IMAGES", 3)
    EmbeddingMetric("m", metric, cache, batch=2).directions(files, progress=False)
    assert len(chunks(cache)) == 2  # after 4 of 8, and at the end

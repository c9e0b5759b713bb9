"""How many actors a job takes on a cluster."""

import sys

import pytest

from dreamsim_guidance.retrieval import embed_on_ray
from dreamsim_guidance.retrieval.ray_engine.cluster import Sizes, connected, sizes_for


@pytest.mark.parametrize(
    ("resources", "workers", "gpus", "expected"),
    [
        ({"CPU": 8.0, "GPU": 4.0}, None, None, Sizes(4, 1.0)),
        ({"CPU": 8.0, "GPU": 2.0}, None, 0.5, Sizes(4, 0.5)),
        ({"CPU": 4.0, "GPU": 8.0}, None, None, Sizes(3, 1.0)),  # one processor reads
        ({"CPU": 8.0}, None, None, Sizes(7, 0.0)),
        ({"CPU": 8.0, "GPU": 4.0}, None, 0, Sizes(7, 0.0)),
        ({"CPU": 8.0}, 2, None, Sizes(2, 0.0)),
    ],
)
def test_actors_fill_the_gpus_or_the_processors(resources, workers, gpus, expected):
    assert sizes_for(resources, workers, gpus) == expected


@pytest.mark.parametrize(
    ("resources", "workers", "gpus", "message"),
    [
        ({"CPU": 2.0}, 2, None, "2 workers need 3 processors"),
        ({"CPU": 1.0}, None, None, "1 workers need 2 processors"),
        ({"CPU": 8.0, "GPU": 2.0}, 3, 1, "need more than the 2 GPUs"),
        ({"CPU": 8.0}, 1, 1, "need more than the 0 GPUs"),
        ({"CPU": 8.0}, 0, None, "workers must be at least 1"),
        ({"CPU": 8.0}, 1, -1, "GPUs at least 0"),
    ],
)
def test_a_job_that_would_wait_for_ever_is_refused(resources, workers, gpus, message):
    with pytest.raises(ValueError, match=message):
        sizes_for(resources, workers, gpus)


def test_impossible_sizes_are_refused_before_ray_starts():
    with pytest.raises(ValueError, match="workers must be at least 1"), connected(None, 0, None):
        raise AssertionError("not reached")


@pytest.mark.parametrize("package", ["ray", "lance_ray"])
def test_a_missing_package_is_an_error_with_the_command(package, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "dreamsim-guidance\[scale\]"'):
        embed_on_ray(tmp_path, tmp_path / "index", "pocket")
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"rows": 0}])
def test_batches_and_files_have_at_least_one_picture(wrong, tmp_path):
    with pytest.raises(ValueError, match="batch and rows must be at least 1"):
        embed_on_ray(tmp_path, tmp_path / "index", "pocket", **wrong)
    assert not (tmp_path / "index").exists()

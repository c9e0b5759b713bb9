"""The job that embeds sources into an index: what it embeds, what it leaves, and what it refuses."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from collections_of_pictures import (
    age,
    as_nobody,
    content,
    open_to_all,
    picture_bytes,
    table_of,
    write_pictures,
    write_shard,
)

from dreamsim_guidance import DreamSim
from dreamsim_guidance.metric.ensemble import Ensemble
from dreamsim_guidance.retrieval import Index, embed
from dreamsim_guidance.retrieval.progress import Summary
from dreamsim_guidance.retrieval.sources.piece import Picture

pytest.importorskip("lancedb")


def counts(summary: Summary) -> tuple[int, int, int, int]:
    """Embedded, copies, broken, already there."""
    return summary.embedded, summary.copies, len(summary.broken), summary.present


def test_broken_members_of_an_unchanged_shard_are_not_counted_as_there(metric: DreamSim, tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "s.tar", {"a.png": picture_bytes(1), "b.png": b"text", "c.png": b""})
    assert counts(embed(shard, tmp_path / "index", metric, progress=False)) == (1, 0, 2, 0)
    assert counts(embed(shard, tmp_path / "index", metric, progress=False)) == (0, 0, 2, 1)


def test_a_second_run_embeds_nothing_and_does_not_open_the_files(
    metric: DreamSim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_pictures(tmp_path / "pictures", range(5))
    assert counts(embed(source, tmp_path / "index", metric, progress=False)) == (5, 0, 0, 0)
    before = table_of(tmp_path / "index")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a picture is read again")

    monkeypatch.setattr("dreamsim_guidance.retrieval.reading.read_bytes", refuse)
    assert counts(embed(source, tmp_path / "index", metric, progress=False)) == (0, 0, 0, 5)
    assert table_of(tmp_path / "index") == before


def test_files_that_were_just_written_are_compared_by_content(metric: DreamSim, tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "pictures", range(3))
    for file in source.iterdir():
        file.touch()
    assert counts(embed(source, tmp_path / "index", metric, progress=False)) == (3, 0, 0, 0)
    (source / "000.png").write_bytes(picture_bytes(8))
    assert counts(embed(source, tmp_path / "index", metric, progress=False)) == (1, 0, 0, 2)


def test_another_source_adds_to_the_index(metric: DreamSim, tmp_path: Path) -> None:
    first, second = write_pictures(tmp_path / "a", range(3)), write_pictures(tmp_path / "b", range(2, 6))
    embed(first, tmp_path / "index", metric, progress=False)
    assert counts(embed(second, tmp_path / "index", progress=False, metric=metric)) == (3, 1, 0, 0)
    index = Index.open(tmp_path / "index")
    assert len(index) == 7 and index.description.sources == (str(first), str(second))


def test_equal_contents_are_embedded_once_and_have_one_vector(metric: DreamSim, tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "pictures", [1, 2])
    for name in ("copy", "another", "000"):
        (source / f"{name}.png").write_bytes(picture_bytes(1))
    write_shard(tmp_path / "shard.tar", {"x.png": picture_bytes(2), "y.png": picture_bytes(3)})
    summary = embed([source, tmp_path / "shard.tar"], tmp_path / "index", metric, progress=False)
    assert counts(summary) == (3, 4, 0, 0)
    rows = content(tmp_path / "index")
    assert rows["001.png"] == rows["copy.png"] == rows["another.png"] == rows["000.png"] != rows["002.png"]
    assert rows["x.png"] == rows["002.png"]


def test_a_changed_file_is_replaced(metric: DreamSim, tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "pictures", range(4))
    embed(source, tmp_path / "index", metric, progress=False)
    before = content(tmp_path / "index")
    (source / "001.png").write_bytes(picture_bytes(7))
    (source / "002.png").write_bytes(b"broken by now")
    assert counts(embed(source, tmp_path / "index", metric, progress=False)) == (1, 0, 1, 2)
    after = content(tmp_path / "index")
    assert after["000.png"] == before["000.png"] and after["001.png"] != before["001.png"] and "002.png" not in after
    (source / "002.png").write_bytes(picture_bytes(2))
    assert counts(embed(source, tmp_path / "index", metric, progress=False)) == (1, 0, 0, 3)
    assert content(tmp_path / "index")["002.png"] == before["002.png"]
    assert Index.open(tmp_path / "index").broken == {}


def test_a_touched_file_is_not_embedded_again(metric: DreamSim, tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "pictures", range(3))
    embed(source, tmp_path / "index", metric, progress=False)
    before = table_of(tmp_path / "index")
    age(source)
    assert counts(embed(source, tmp_path / "index", metric, progress=False)) == (0, 0, 0, 3)
    assert table_of(tmp_path / "index") == before


def test_a_changed_shard_replaces_what_it_held(metric: DreamSim, tmp_path: Path) -> None:
    shard = tmp_path / "shard.tar"
    write_shard(shard, {f"{i}.png": picture_bytes(i) for i in range(3)})
    assert counts(embed(shard, tmp_path / "index", metric, progress=False)) == (3, 0, 0, 0)
    assert counts(embed(shard, tmp_path / "index", metric, progress=False)) == (0, 0, 0, 3)
    write_shard(shard, {"1.png": picture_bytes(1), "2.png": picture_bytes(9), "new.png": b"nothing"})
    summary = embed(shard, tmp_path / "index", metric, progress=False)
    assert counts(summary) == (1, 0, 1, 1) and summary.removed == 1
    assert set(content(tmp_path / "index")) == {"1.png", "2.png"}
    assert counts(embed(shard, tmp_path / "index", metric, progress=False))[2] == 1  # listed again, and not read


def test_a_shard_that_is_cut_short_counts_as_broken_and_does_not_stop_the_job(metric: DreamSim, tmp_path: Path) -> None:
    shard, index = tmp_path / "a.tar", tmp_path / "index"
    write_shard(shard, {f"{i}.png": picture_bytes(i) for i in range(8)})
    whole = shard.read_bytes()
    os.truncate(shard, len(whole) // 2)
    age(shard)
    source = write_pictures(tmp_path / "pictures", [20])
    summary = embed([shard, source], index, metric, progress=False)
    assert 1 < summary.embedded < 9 and summary.broken.keys() == {str(shard)}
    assert "damaged or cut short" in summary.broken[str(shard)]
    again = embed([shard, source], index, metric, progress=False)
    assert again.embedded == 0 and again.broken == summary.broken and again.present == summary.embedded
    shard.write_bytes(whole)
    age(shard)
    repaired = embed([shard, source], index, metric, progress=False)
    assert repaired.embedded == 9 - summary.embedded and not repaired.broken and Index.open(index).broken == {}


def test_a_shard_that_cannot_be_fetched_is_tried_again(
    metric: DreamSim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    for i in (1, 2):
        shard = write_shard(tmp_path / "s.tar", {f"{i}.png": picture_bytes(i)})
        fsspec.filesystem("memory").pipe(f"/fetched/{i}.tar", shard.read_bytes())
    from dreamsim_guidance.retrieval.sources import shards

    opened = shards.open_container

    def fails(source: str) -> object:
        if source.endswith("1.tar"):
            raise KeyError("the server says no")  # file systems behind URLs raise errors of their own
        return opened(source)

    monkeypatch.setattr(shards, "open_container", fails)
    summary = embed("memory://fetched/{1,2}.tar", tmp_path / "index", metric, progress=False)
    assert summary.embedded == 1 and "the server says no" in summary.broken["memory://fetched/1.tar"]
    monkeypatch.setattr(shards, "open_container", opened)
    assert counts(embed("memory://fetched/{1,2}.tar", tmp_path / "index", metric, progress=False)) == (1, 0, 0, 1)
    assert Index.open(tmp_path / "index").broken == {}


def test_pictures_that_are_gone_stay_unless_they_are_pruned(metric: DreamSim, tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "pictures", range(4))
    write_shard(tmp_path / "shard.tar", {"x.png": picture_bytes(9)})
    embed([source, tmp_path / "shard.tar"], tmp_path / "index", metric, progress=False)
    (source / "001.png").unlink()
    (tmp_path / "shard.tar").unlink()
    assert embed(source, tmp_path / "index", metric, progress=False).removed == 0
    assert len(Index.open(tmp_path / "index")) == 5
    assert embed(source, tmp_path / "index", metric, prune=True, progress=False).removed == 2
    assert set(content(tmp_path / "index")) == {"000.png", "002.png", "003.png"}


def test_many_sources_workers_and_batches_give_the_same_rows(metric: DreamSim, tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "pictures", range(11))
    embed(source, tmp_path / "one", metric, batch=1, workers=1, progress=False)
    embed([source, *source.iterdir()], tmp_path / "many", metric, batch=4, workers=3, progress=False)
    one, many = table_of(tmp_path / "one"), table_of(tmp_path / "many")
    assert one.keys() == many.keys()
    for path, row in one.items():
        assert row[:-1] == many[path][:-1]
        a, b = (np.frombuffer(vector, np.float32) for vector in (row[-1], many[path][-1]))  # type: ignore[call-overload]
        np.testing.assert_allclose(a, b, atol=2e-4)  # batches round differently, by a step of float16 at most
    assert Index.open(tmp_path / "one").paths == sorted(one)


def test_another_metric_or_reading_is_refused_and_changes_nothing(metric: DreamSim, tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "pictures", range(2))
    embed(source, tmp_path / "index", metric, progress=False)
    before = (tmp_path / "index" / "index.json").read_text()
    metric.ensemble.branches[0].backbone.pos_embed.data += 1e-3  # type: ignore[union-attr, operator]
    with pytest.raises(ValueError, match="was made by 'dreamsim' with other weights or preprocessing"):
        embed(source, tmp_path / "index", metric, progress=False)
    with pytest.raises(ValueError, match="reads pictures 'upright', not 'original'"):
        embed(source, tmp_path / "index", metric, reading="original", progress=False)
    with pytest.raises(ValueError, match="compares pairs of pictures and has no embedding"):
        embed(source, tmp_path / "new", "mse", progress=False)
    assert (tmp_path / "index" / "index.json").read_text() == before and len(Index.open(tmp_path / "index")) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ('{"format": ', "is not JSON"),
        ("[1, 2]", "damaged or not of an index"),
        ('{"format": "dreamsim-guidance index", "version": 99}', "version 99 of the format"),
        ('{"format": "dreamsim-guidance index", "version": 1}', "is damaged"),
        ("\0" * 3_000_000, "bytes of JSON"),
    ],
)
def test_a_damaged_description_is_refused(text: str, message: str, metric: DreamSim, tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "pictures", range(2))
    embed(source, tmp_path / "index", metric, progress=False)
    (tmp_path / "index" / "index.json").write_text(text)
    for attempt in (
        lambda: embed(source, tmp_path / "index", metric, progress=False),
        lambda: Index.open(tmp_path / "index"),
    ):
        with pytest.raises(ValueError, match=message):
            attempt()


def test_numbers_in_the_description_must_fit_the_table(metric: DreamSim, tmp_path: Path) -> None:
    embed(write_pictures(tmp_path / "pictures", range(2)), tmp_path / "index", metric, progress=False)
    file = tmp_path / "index" / "index.json"
    for change, message in (({"dimension": 7}, "is not of this index"), ({"dimension": -1}, "damaged")):
        changed = json.loads(file.read_text()) | change
        file.write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=message):
            Index.open(tmp_path / "index")


def test_a_folder_that_is_no_index_is_refused(metric: DreamSim, tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "pictures", range(2))
    with pytest.raises(FileExistsError, match="holds other files and no index"):
        embed(source, source, metric, progress=False)
    with pytest.raises(FileNotFoundError, match="is not an index"):
        Index.open(source)
    with pytest.raises(FileNotFoundError, match="is not an index"):
        Index.open(tmp_path / "nowhere")
    assert sorted(file.name for file in source.iterdir() if not file.name.startswith(".")) == ["000.png", "001.png"]


@pytest.mark.parametrize("part", ["_versions", "data"])
def test_damaged_tables_are_an_error(part: str, metric: DreamSim, tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "pictures", range(2))
    embed(source, tmp_path / "index", metric, progress=False)
    for file in (tmp_path / "index" / "pictures.lance" / part).iterdir():
        os.truncate(file, 10)
    with pytest.raises(OSError, match="cannot be read"):
        embed(source, tmp_path / "index", metric, progress=False)
    with pytest.raises(OSError, match="cannot be read"):
        Index.open(tmp_path / "index").vectors()


@contextmanager
def little_space(bytes_left: int) -> Iterator[None]:
    """Files may not grow beyond a size: what a full disk does, for a process that may not fill one."""
    handler, limit = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_an_error_and_the_next_run_goes_on(metric: DreamSim, tmp_path: Path) -> None:
    first = write_pictures(tmp_path / "a", range(2))
    embed(first, tmp_path / "index", metric, progress=False)
    second = write_pictures(tmp_path / "b", range(2, 60))
    with little_space(2000), pytest.raises(OSError, match="cannot be written"):
        embed(second, tmp_path / "index", metric, progress=False)
    assert len(Index.open(tmp_path / "index")) == 2
    assert counts(embed(second, tmp_path / "index", metric, progress=False)) == (58, 0, 0, 0)
    assert len(Index.open(tmp_path / "index")) == 60


def test_a_folder_that_cannot_be_written_is_an_error(metric: DreamSim, tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "pictures", range(2))
    embed(source, tmp_path / "index", metric, progress=False)
    with open_to_all(tmp_path), as_nobody():
        for place in (tmp_path / "locked", tmp_path / "index"):
            with pytest.raises(PermissionError):
                embed([source, source / "000.png"], place, metric, progress=False)


def test_a_file_in_place_of_the_index_is_an_error(metric: DreamSim, tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "pictures", range(2))
    (tmp_path / "file").write_text("text")
    with pytest.raises(OSError):
        embed(source, tmp_path / "file", metric, progress=False)


def test_two_jobs_on_one_index_are_refused(metric: DreamSim, tmp_path: Path) -> None:
    from filelock import FileLock

    source = write_pictures(tmp_path / "pictures", range(2))
    (tmp_path / "index").mkdir()
    with (
        FileLock(tmp_path / "index" / ".embed.lock"),
        pytest.raises(ValueError, match="another job is writing the index"),
    ):
        embed(source, tmp_path / "index", metric, progress=False)
    assert counts(embed(source, tmp_path / "index", metric, progress=False)) == (2, 0, 0, 0)


def test_embeddings_that_are_not_finite_stop_the_job(tiny_ensemble: Ensemble, tmp_path: Path) -> None:
    metric = DreamSim(tiny_ensemble)
    source = write_pictures(tmp_path / "pictures", range(2))
    embed(source, tmp_path / "index", metric, progress=False)
    next(metric.parameters()).data.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        embed(source, tmp_path / "other", metric, progress=False)


def test_a_spatial_metric_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="compares pairs"):
        embed(write_pictures(tmp_path / "pictures", [1]), tmp_path / "index", "photographs_spatial", progress=False)


def test_the_total_is_estimated_from_the_shards_read_so_far() -> None:
    from dreamsim_guidance.retrieval.progress import Estimate
    from dreamsim_guidance.retrieval.reading import Finished, Present
    from dreamsim_guidance.retrieval.sources.files import Files
    from dreamsim_guidance.retrieval.sources.shards import Shard

    files = Files((Picture("/a.png"), Picture("/b.png")))
    assert Estimate([files]).total == 2
    estimate = Estimate([files, *(Shard(f"/{i}.tar", "") for i in range(4))])
    assert estimate.total is None
    estimate.take(Present("/a.png"))
    assert estimate.total is None
    totals = []
    for item in (
        Finished("/0.tar", "", 10, ()),
        Present("/1.tar", 20),
        Finished("/2.tar", "", 0, ()),
        Finished("/3.tar", "", 6, ()),
    ):
        estimate.take(item)
        totals.append(estimate.total)
    assert totals == [42, 62, 42, 38]

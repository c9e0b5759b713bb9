"""Embedding on a local Ray: the plain engine's index, also when a worker or the job itself is killed in the middle."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from dreamsim_guidance.retrieval import Index, embed, embed_on_ray
from dreamsim_guidance.retrieval.ray_engine.cluster import quiet
from dreamsim_guidance.retrieval.ray_engine.one_pass import Pass
from dreamsim_guidance.retrieval.tables import IndexFolder

ray = pytest.importorskip("ray")
pytest.importorskip("lance_ray")
pytest.importorskip("lancedb")

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc"),
]

FILES, SHARDS, MEMBERS = 24, 3, 16


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Ray on this machine, small and without a dashboard."""
    with pytest.MonkeyPatch.context() as patch, quiet():
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_worker_niceness", "0")  # other processes would starve them
        context = ray.init(
            address="local",
            num_cpus=4,
            include_dashboard=False,
            object_store_memory=120 * 2**20,
            log_to_driver=False,
            logging_level="ERROR",
        )
        yield context.address_info["address"]
        ray.shutdown()
    for _ in range(100):
        if not workers_of(os.getpid()):
            return
        time.sleep(0.1)
    raise AssertionError("processes of Ray are left over")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Files and shards, with copies across both, and broken pictures in both."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)

    def write(file: Path) -> Path:
        blocks = random.integers(0, 256, (9, 9, 3)).repeat(30, 0).repeat(30, 1)
        PILImage.fromarray(blocks.astype(np.uint8)).save(file)
        return file

    for i in range(FILES):
        write(folder / f"{i:02d}.png")
    shutil.copy(folder / "00.png", folder / "copy.png")
    (folder / "broken.png").write_bytes(b"not a picture")
    member = folder / "member.jpg"
    for shard in range(SHARDS):
        with tarfile.open(folder / f"shard-{shard}.tar", "w") as archive:
            for i in range(MEMBERS):
                archive.add(write(member), f"{i:02d}.jpg")
            archive.add(folder / "01.png", "same.png")  # in every shard, and among the files
            archive.add(folder / "broken.png", "broken.png")
    member.unlink()
    long_ago = time.time() - 3600
    for file in folder.iterdir():
        os.utime(file, (long_ago, long_ago))
    return [str(folder), f"{folder}/shard-{{0..{SHARDS - 1}}}.tar"]


@pytest.fixture(scope="module")
def plain(sources: list[str], tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("plain") / "index"
    embed(sources, folder, "pocket", progress=False)
    return Index.open(folder)


def assert_same_index(index: Index, expected: Index) -> None:
    """The same rows but for their order; vectors to the last bit of float16, because batches differ."""
    assert index.table.schema == expected.table.schema
    ours, theirs = (i.table.to_arrow().sort_by("path") for i in (index, expected))
    assert ours.drop_columns(["vector"]).to_pylist() == theirs.drop_columns(["vector"]).to_pylist()
    ours, theirs = (np.array(rows.column("vector").to_pylist()) for rows in (ours, theirs))
    np.testing.assert_allclose(ours, theirs, atol=2**-12)
    ours, theirs = (i.broken_table.to_arrow().sort_by("path").to_pylist() for i in (index, expected))
    assert ours == theirs
    ours, theirs = (IndexFolder(i.folder) for i in (index, expected))
    assert ours.read_containers() == theirs.read_containers()
    assert ours.description == theirs.description


def assert_one_row_each(index: Index) -> None:
    """Every picture has one row, and equal contents have the same vector to the bit."""
    assert len(set(index.paths)) == len(index) == FILES + 1 + SHARDS * (MEMBERS + 1)
    vectors = index.vectors()
    for digest in set(index.digests):
        rows = [i for i, other in enumerate(index.digests) if other == digest]
        assert (vectors[rows] == vectors[rows[0]]).all()


def parents() -> dict[int, tuple[int, str]]:
    """The parent and the command line of every process."""
    processes = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat, command = ((entry / name).read_text(errors="replace") for name in ("stat", "cmdline"))
            except OSError:  # it has ended
                continue
            processes[int(entry.name)] = (int(stat.rpartition(")")[2].split()[1]), command)
    return processes


def workers_of(process: int, name: str = "ray::") -> list[int]:
    """Processes below `process` whose command line begins with `name`."""
    table = parents()

    def below(pid: int) -> bool:
        while pid in table and pid != process:
            pid = table[pid][0]
        return pid == process

    return [pid for pid, (_, command) in table.items() if command.startswith(name) and below(pid)]


def kill_a_busy_worker(killed: list[int]) -> None:
    """Wait until a process that embeds works on a batch, and kill it. Ray shows the method in the name of the process."""
    while not killed:
        busy = [pid for pid in workers_of(os.getpid(), "ray::MapWorker") if "submit" in parents().get(pid, (0, ""))[1]]
        for pid in busy[:1]:
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)


def test_reading_is_not_joined_with_embedding(
    cluster: str, sources: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = []
    stream = Pass._stream
    monkeypatch.setattr(Pass, "_stream", lambda *arguments: streams.append(stream(*arguments)) or streams[-1])
    embed_on_ray(sources[1:], tmp_path / "index", "pocket", workers=2, progress=False)
    stages = [line for line in streams[0].stats().splitlines() if line.startswith("Operator")]
    assert not [line for line in stages if "read_piece" in line and "EmbedPictures" in line], stages
    assert [line for line in stages if "read_piece" in line]


def test_a_killed_worker_loses_and_doubles_nothing(
    cluster: str, sources: list[str], plain: Index, tmp_path: Path
) -> None:
    killed: list[int] = []
    watcher = threading.Thread(target=kill_a_busy_worker, args=(killed,), daemon=True)
    watcher.start()
    summary = embed_on_ray(sources, tmp_path / "index", "pocket", workers=2, batch=4, rows=4, progress=False)
    watcher.join(10)
    assert killed
    index = Index.open(tmp_path / "index")
    assert_one_row_each(index)
    assert_same_index(index, plain)
    assert summary.embedded == FILES + SHARDS * MEMBERS
    assert summary.copies == 1 + SHARDS
    assert len(summary.broken) == 1 + SHARDS
    for again in (embed, embed_on_ray):  # neither engine finds anything to do
        later = again(sources, tmp_path / "index", progress=False)
        assert (later.embedded, later.copies, later.broken) == (0, 0, summary.broken)
        assert later.present == FILES + 1 + SHARDS * (MEMBERS + 1)


SCRIPT = """
import os
import signal
import sys

from dreamsim_guidance.retrieval import embed_on_ray
from dreamsim_guidance.retrieval.ray_engine import one_pass

commit = one_pass.commit_fragments


def commit_and_die(folder, fragments):
    commit(folder, fragments)
    os.kill(os.getpid(), signal.SIGKILL)


one_pass.commit_fragments = commit_and_die
one_pass.COMMIT_SECONDS = 0.0
to, address, *sources = sys.argv[1:]
embed_on_ray(sources, to, "pocket", address=address, workers=2, batch=4, rows=4, progress=False)
"""


@pytest.mark.slow
def test_a_killed_job_resumes(cluster: str, sources: list[str], plain: Index, tmp_path: Path) -> None:
    index = tmp_path / "index"
    job = subprocess.run([sys.executable, "-c", SCRIPT, str(index), cluster, *sources])
    assert job.returncode == -signal.SIGKILL
    committed = len(Index.open(index))
    assert 0 < committed < len(plain)
    summary = embed_on_ray(sources, index, "pocket", workers=2, batch=4, rows=4, progress=False)
    assert summary.embedded == FILES + SHARDS * MEMBERS - committed
    assert_one_row_each(Index.open(index))
    assert_same_index(Index.open(index), plain)

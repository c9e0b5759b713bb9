"""Several processes that embed one collection together."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from collections_of_pictures import content, picture_bytes, write_pictures, write_shard

from dreamsim_guidance import DreamSim
from dreamsim_guidance.retrieval import Index, embed
from dreamsim_guidance.retrieval.claims import Claims

pytest.importorskip("lancedb")


def launch(words: list[str], processes: int = 2) -> list[tuple[int, str, str]]:
    """Run one command on several processes together; the exit code, stdout and stderr of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "dreamsim_guidance", *words],
            env={**os.environ, **shared, "RANK": str(i), "LOCAL_RANK": str(i)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(processes)
    ]
    try:
        outputs = [process.communicate(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, out, err) for process, (out, err) in zip(started, outputs, strict=True)]


def test_two_processes_embed_each_content_once(metric: DreamSim, tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "pictures", range(150))  # three pieces
    for i in range(150, 190):
        (source / f"{i}.png").write_bytes(picture_bytes(i - 150))  # copies of pictures in other pieces
    for name in ("aaa.png", "zzz.png"):
        (source / name).write_bytes(b"not a picture at all")
    for name in ("a", "b", "c"):
        write_shard(tmp_path / f"{name}.tar", {f"{name}{i}.png": picture_bytes(200 + i) for i in range(5)})
    metric.save(tmp_path / "m.safetensors", source="test", licence="none")
    shards = str(tmp_path / "{a,b,c}.tar")
    words = ["embed", str(source), shards, "--to", str(tmp_path / "index"), "--metric", str(tmp_path / "m.safetensors")]
    (first, out, err), (second, nothing, _) = launch(words)
    assert (first, second, nothing) == (0, 0, ""), err
    assert "embedded 155, copies 50, broken 2, already there 0" in out
    together = content(tmp_path / "index")
    embed([source, shards], tmp_path / "alone", DreamSim(tmp_path / "m.safetensors"), progress=False)
    alone = content(tmp_path / "alone")
    assert {name: row[:4] for name, row in together.items()} == {name: row[:4] for name, row in alone.items()}
    a, b = Index.open(tmp_path / "index"), Index.open(tmp_path / "alone")
    assert a.broken == b.broken and len(a.broken) == 2
    first_vectors, second_vectors = (dict(zip(x.paths, x.vectors(), strict=True)) for x in (a, b))
    assert all(abs(first_vectors[path] - second_vectors[path]).max() < 2e-4 for path in first_vectors)
    again = embed([source, shards], tmp_path / "index", DreamSim(tmp_path / "m.safetensors"), progress=False)
    assert (again.embedded, again.copies, again.present, len(again.broken)) == (0, 0, 205, 2)


def test_a_digest_is_claimed_by_one_process(tmp_path: Path) -> None:
    a, b = Claims(tmp_path / "claims.sqlite"), Claims(tmp_path / "claims.sqlite")
    assert a.claim("x") and not b.claim("x") and b.claim("y") and not a.claim("y")
    assert a.claim("x") and a.mine("x") and not b.mine("x")
    a.mark_broken("x", "not a picture")
    assert b.reason("x") == "not a picture" and b.reason("y") is None
    a.close(), b.close()
    single = Claims()
    assert single.claim("x") and single.claim("x") and single.mine("x") and single.reason("x") is None
    single.close()


def test_processes_on_several_machines_are_refused(
    metric: DreamSim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="several machines"):
        embed(write_pictures(tmp_path / "pictures", [1]), tmp_path / "index", metric, progress=False)

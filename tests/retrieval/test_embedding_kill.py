"""Jobs that are killed at any moment: the next one goes on, and the index becomes what one job would have made."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from collections_of_pictures import content, picture_bytes, write_pictures, write_shard

from dreamsim_guidance import DreamSim
from dreamsim_guidance.retrieval import Index, embed

pytest.importorskip("lancedb")


FEW = ("before index.json 1", "after write 2", "after seconds 0.1")
MANY = (
    *("after index.json 1", "before write 1", "after write 1", "before write 3", "before delete 1", "before compact 1"),
    *(f"after seconds {seconds}" for seconds in (0.02, 0.05, 0.2, 0.4)),
)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("moments", [FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"])
def test_killed_jobs_lose_nothing_and_write_nothing_twice(
    moments: tuple[str, ...], metric: DreamSim, tmp_path: Path
) -> None:
    write_pictures(tmp_path / "pictures", range(40))
    for i in (50, 51):
        (tmp_path / "pictures" / f"0{i}.png").write_bytes(picture_bytes(1))  # copies
    (tmp_path / "pictures" / "bad.png").write_bytes(b"text")
    write_shard(tmp_path / "shard.tar", {f"s{i}.png": picture_bytes(i) for i in (2, 60, 61, 62, 63)})
    metric.save(tmp_path / "model.safetensors", source="test", licence="none")
    script = Path(__file__).with_name("killed_jobs.py")
    run = subprocess.run(
        [sys.executable, str(script), str(tmp_path), *moments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    endings = [int(word) for word in run.stdout.split()]
    assert endings[-1] == 0 and set(endings) <= {-9, 0}, run.stderr
    # a fast machine is done before the seconds have passed, and there may be nothing to delete
    certain = [ending for moment, ending in zip(moments, endings, strict=False) if "seconds" not in moment]
    assert certain.count(-9) >= len(certain) - 1, endings
    sources = [tmp_path / "pictures", tmp_path / "shard.tar"]
    embed(sources, tmp_path / "whole", DreamSim(tmp_path / "model.safetensors"), workers=2, batch=2, progress=False)
    killed, whole = content(tmp_path / "index"), content(tmp_path / "whole")
    assert killed.keys() == whole.keys() and len(whole) == 47
    assert {name: row[:4] for name, row in killed.items()} == {name: row[:4] for name, row in whole.items()}
    a, b = Index.open(tmp_path / "index"), Index.open(tmp_path / "whole")
    first, second = (dict(zip(index.paths, index.vectors(), strict=True)) for index in (a, b))
    assert all(
        abs(first[path] - second[path]).max() < 2e-4 for path in first
    )  # batches of other pictures round otherwise
    assert a.broken == b.broken == {str(tmp_path / "pictures" / "bad.png"): "not a picture"}
    written = Counter((tmp_path / "writes.txt").read_text().split())
    assert set(written.values()) == {1}, "a picture was embedded again although it had been written"

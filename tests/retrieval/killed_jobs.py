"""Start embedding jobs in child processes and kill them, for `test_embedding_kill.py`.

    python killed_jobs.py FOLDER MOMENT ...

FOLDER holds `pictures`, `shard.tar` and `model.safetensors`. Each job runs in a fork of this process, which has everything
imported already, and is killed at a moment of its own, given as "before write 1", "after delete 2" or "after seconds 0.3". The
last job runs to its end. `writes.txt` lists the digest of every row that was embedded and written.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from dreamsim_guidance import DreamSim
from dreamsim_guidance.retrieval import description, embedding, tables


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(10)


def counted(function: Callable[..., object], event: str, moment: tuple[str, float]) -> Callable[..., object]:
    """The function, which ends the process before or after a certain call."""
    calls = 0

    def call(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if moment == (f"before {event}", calls):
            die()
        result = function(*arguments, **options)
        if moment == (f"after {event}", calls):
            die()
        return result

    return call


def job(folder: Path, metric: DreamSim, moment: tuple[str, float]) -> None:
    embedding._CHUNK_ROWS = 4  # many writes
    tables._add = counted(tables._add, "write", moment)  # type: ignore[assignment]
    tables._delete = counted(tables._delete, "delete", moment)  # type: ignore[assignment]
    tables.IndexFolder.compact = counted(tables.IndexFolder.compact, "compact", moment)  # type: ignore[method-assign]
    description.Description.write = counted(description.Description.write, "index.json", moment)  # type: ignore[method-assign]
    write = tables.IndexFolder.write

    def logged(self: tables.IndexFolder, rows: object = (), *arguments: object, **options: object) -> None:
        write(self, rows, *arguments, **options)  # type: ignore[arg-type]
        with (folder / "writes.txt").open("a") as log:
            log.writelines(f"{row.path}\n" for row in rows)  # type: ignore[attr-defined]

    tables.IndexFolder.write = logged  # type: ignore[method-assign, assignment]
    if moment[0] == "after seconds":
        run = embedding._Job.run

        def timed(*arguments: object) -> object:
            timer = threading.Timer(moment[1], die)
            timer.daemon = True
            timer.start()
            return run(*arguments)  # type: ignore[arg-type]

        embedding._Job.run = timed  # type: ignore[method-assign, assignment]
    embedding.embed(
        [folder / "pictures", folder / "shard.tar"], folder / "index", metric, workers=2, batch=2, progress=False
    )


def main(folder: Path, *moments: str) -> None:
    torch.set_num_threads(1)
    metric = DreamSim(folder / "model.safetensors")
    endings = []
    for text in [*moments, "never 0"]:
        event, _, number = text.rpartition(" ")
        child = os.fork()
        if child == 0:
            job(folder, metric, (event, float(number)))
            os._exit(0)
        endings.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(*endings)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])

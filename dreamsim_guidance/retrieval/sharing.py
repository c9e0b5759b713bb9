"""How the processes of one machine share a job: the list of its pieces, the claims to contents, the lock of the index."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, cast

from filelock import FileLock, Timeout

from dreamsim_guidance.files.names import printable
from dreamsim_guidance.processes import agreed, is_main, launched, process_state
from dreamsim_guidance.retrieval.claims import Claims

__all__ = ["from_main", "need_one_machine", "only_job", "shared_claims"]

T = TypeVar("T")


def need_one_machine() -> None:
    """Raise ValueError if a launcher started the processes of this job on several machines."""
    world, local = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if launched() and "LOCAL_WORLD_SIZE" in os.environ and local != world:
        raise ValueError(
            f"{world} processes on several machines cannot share this job, {local} of them are here; start it on one machine."
        )


def from_main(work: Callable[[], T]) -> T:
    """What `work` returns on the main process, on all processes. Raises what it raises."""
    if not launched():
        return work()
    from accelerate.utils import broadcast_object_list

    process_state()
    result = [agreed(lambda: work() if is_main() else None)]
    broadcast_object_list(result)
    return cast(T, result[0])


@contextmanager
def shared_claims() -> Iterator[Claims]:
    """The claims of a job, in a file of the temporary folder if several processes share it."""
    if not launched():
        yield Claims()
        return
    folder = Path(from_main(lambda: tempfile.mkdtemp(prefix="dreamsim-guidance-")))
    claims = agreed(lambda: Claims(folder / "claims.sqlite"))
    try:
        yield claims
    finally:
        claims.close()
        if is_main():
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def only_job(folder: Path) -> Iterator[None]:
    """Hold the lock of an index; raise ValueError if another job holds it."""
    folder_lock = FileLock(folder / ".embed.lock") if is_main() else None

    def acquire() -> None:
        if folder_lock is not None:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                folder_lock.acquire(blocking=False)
            except Timeout:
                raise ValueError(
                    f"another job is writing the index '{printable(folder)}'; wait until it has ended."
                ) from None

    agreed(acquire)
    try:
        yield
    finally:
        if folder_lock is not None:
            with contextlib.suppress(OSError):  # Windows does not remove open files
                Path(folder_lock.lock_file).unlink()
            folder_lock.release()

"""The cache's place, and locks that processes and threads wait for and that no killed process keeps."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dreamsim_guidance.files import cache
from dreamsim_guidance.files.cache import locked


def test_the_cache_is_argument_then_variable_then_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DREAMSIM_GUIDANCE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.cache_folder() == tmp_path / ".cache" / "dreamsim_guidance"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the XDG standard
    assert cache.cache_folder() == tmp_path / ".cache" / "dreamsim_guidance"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_folder() == tmp_path / "xdg" / "dreamsim_guidance"
    monkeypatch.setenv("DREAMSIM_GUIDANCE_CACHE", "~/weights")
    assert cache.cache_folder() == tmp_path / "weights"
    assert cache.cache_folder(tmp_path / "here") == tmp_path / "here"


def without_locks(monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    def flock(handle: int, operation: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", flock)


SYSTEMS = [None, errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP]
IDS = ["with locks", "ENOSYS", "ENOLCK", "ENOTSUP"]


@pytest.mark.filterwarnings("ignore:flock not supported")  # of filelock
@pytest.mark.parametrize("error", SYSTEMS, ids=IDS)
def test_threads_take_turns_and_leave_nothing(
    error: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if error is not None:
        without_locks(monkeypatch, error)
    inside, most, turns = 0, 0, 0

    def work() -> None:
        nonlocal inside, most, turns
        for _ in range(3):
            with locked(tmp_path / "deep" / "x"):
                inside += 1
                most, turns = max(most, inside), turns + 1
                time.sleep(0.002)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1 and turns == 12
    assert list((tmp_path / "deep").iterdir()) == []


@pytest.mark.filterwarnings("ignore:flock not supported")
@pytest.mark.parametrize("error", SYSTEMS, ids=IDS)
def test_an_error_inside_releases_the_lock(error: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if error is not None:
        without_locks(monkeypatch, error)
    for _ in range(2):
        with pytest.raises(KeyError), locked(tmp_path / "x"):
            raise KeyError("something")
    assert list(tmp_path.iterdir()) == []


HOLD = """
import errno, os, sys, time, warnings
from pathlib import Path
warnings.simplefilter("ignore")
if sys.argv[2] != "None":
    import fcntl
    def flock(*_): raise OSError(int(sys.argv[2]), "no locks")
    fcntl.flock = flock
from dreamsim_guidance.files.cache import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[3]))
"""


def holder(path: Path, error: int | None, seconds: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), str(error), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


@pytest.mark.filterwarnings("ignore:flock not supported")
@pytest.mark.parametrize("error", SYSTEMS, ids=IDS)
def test_another_process_is_waited_for_and_a_killed_one_is_not(
    error: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if error is not None:
        without_locks(monkeypatch, error)
    waiting = holder(tmp_path / "x", error, 0.4)
    began = time.monotonic()
    with locked(tmp_path / "x"):
        assert time.monotonic() - began > 0.2
    assert waiting.wait(10) == 0
    killed = holder(tmp_path / "x", error, 60)
    killed.send_signal(signal.SIGKILL)
    killed.wait(10)
    began = time.monotonic()
    with locked(tmp_path / "x"):
        assert time.monotonic() - began < 10
    for process in (waiting, killed):
        assert process.stdout is not None
        process.stdout.close()
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_locking_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_locks(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)), locked(tmp_path / "x"):
        pass

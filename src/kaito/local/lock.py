"""The lock of a Workspace on this machine: one engine at a time. The runner and its programs have one of their own."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kaito.local.home import Key, run_folder

LOCK = "engine.lock"
_READER_SECONDS = 0.5  # `engine_pid` of another process holds it for a moment


class AlreadyRunning(Exception):
    """Another process runs this Workspace. `pid` is its number, 0 where it could not be read."""

    def __init__(self, key: Key, pid: int) -> None:
        super().__init__(f"{key} is being run already" + (f" by process {pid}" if pid else ""))
        self.key = key
        self.pid = pid


class Deleted(ValueError):
    """The Workspace was deleted by another process while this one had it in hand."""

    def __init__(self, key: Key) -> None:
        super().__init__(f"{key} was deleted meanwhile")


@contextmanager
def engine_lock(key: Key) -> Iterator[None]:
    """Hold the Workspace: one engine process at a time. Raises AlreadyRunning at once, Deleted."""
    path = run_folder(key) / LOCK
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b") as file:
        give_up = time.monotonic() + _READER_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= give_up:
                    raise AlreadyRunning(key, engine_pid(key) or 0) from None
                time.sleep(0.02)
        if not _is_there(path, file.fileno()):
            raise Deleted(key)
        number = f"{os.getpid()}\n".encode()
        with suppress(OSError):  # on a full disk nobody can read who holds it, but it is held
            os.pwrite(file.fileno(), number, 0)
            os.ftruncate(file.fileno(), len(number))
        yield


def _is_there(path: Path, descriptor: int) -> bool:
    """Whether the file that was opened is still the one of this name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def engine_pid(key: Key) -> int | None:
    """The process that holds the Workspace now, None where nobody does (0 where its number cannot be read)."""
    path = run_folder(key) / LOCK
    try:
        with path.open("r") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = file.read().strip()
                return int(text) if text.isdigit() else 0
    except OSError:
        pass
    return None


def wait_for_start(key: Key, seconds: float) -> bool:
    """Whether an engine holds the Workspace within `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if engine_pid(key) is not None or (run_folder(key) / "status.json").exists():
            return True
        time.sleep(0.05)
    return False

"""The lock of a run folder: one runner at a time, and none while a program that it started still lives.

`flock` belongs to the open file, which every child inherits: it is free only when the last holder is gone, however
it ended. The file's text says who holds it, for people; only the lock itself decides.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

LOCK_FILE = "runner.lock"
_PAUSE_SECONDS = 0.05


class Locked(Exception):
    """Another runner, or a program that one left behind, works in the folder."""


class FolderLock:
    """A held lock. `descriptor` goes to every child. Closing it frees the folder once no child has it any more."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def acquire(cls, folder: Path, *, wait_seconds: float = 2.0) -> Self:
        """Raises Locked. A short wait covers a child that is just dying, and a reader of `is_locked`."""
        path = folder / LOCK_FILE
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        give_up = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= give_up:
                    os.close(descriptor)
                    raise Locked(_describe_holder(folder)) from None
                time.sleep(_PAUSE_SECONDS)
            except OSError:
                os.close(descriptor)
                raise
        return cls(descriptor)

    def name_holders(self, *, job: str, step: str = "", child: int = 0) -> None:
        """Say in the file who holds the lock. Raises OSError."""
        text = json.dumps({"runner": os.getpid(), "job": job, "step": step, "child": child}) + "\n"
        os.pwrite(self.descriptor, text.encode(), 0)
        os.ftruncate(self.descriptor, len(text))

    def close(self) -> None:
        os.close(self.descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def is_locked(folder: Path) -> bool:
    """Whether a runner or one of its programs is at work in the folder."""
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Shared, so that two who ask do not see each other.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _describe_holder(folder: Path) -> str:
    holder: dict[str, object] = {}
    with suppress(OSError, ValueError):
        read = json.loads((folder / LOCK_FILE).read_text(encoding="utf-8"))
        holder = read if isinstance(read, dict) else {}
    runner, child, step = (holder.get(key) for key in ("runner", "child", "step"))
    if not isinstance(runner, int):
        return f"the run folder {folder} is locked by another process"
    if not _lives(runner) and isinstance(child, int) and child:
        return (
            f"the run folder {folder} is locked: runner {runner} is gone, "
            f"but step {step!r}, which it started as process {child}, has not ended"
        )
    return f"the run folder {folder} is locked by process {runner}, the runner of job {holder.get('job')!r}"


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

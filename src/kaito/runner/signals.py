"""Waiting in the runner's main thread: until a signal, the end of a child, or a time, whichever is first.

Also what the kernel hands to a runner: orphans of its steps (it is a subreaper, and PID 1 in a Pod).
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

_PR_SET_CHILD_SUBREAPER = 36
_STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Signals:
    """SIGTERM, SIGINT and SIGHUP are counted in `stops`; SIGCHLD only ends a wait. Main thread only."""

    def __init__(self) -> None:
        self.stops = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in _STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup asked for SIGHUP to be ignored
                self._before[number] = signal.signal(number, self._count)
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        if sys.platform == "linux":
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(self._wakeup_before)
        for number, before in self._before.items():
            signal.signal(number, before)
        os.close(self._reader)
        os.close(self._writer)

    def _count(self, _number: int, _frame: FrameType | None) -> None:
        self.stops += 1

    def wait(self, seconds: float) -> None:
        """Return after at most `seconds`, at once when a signal arrives. Setting the clock changes nothing."""
        select.select([self._reader], [], [], max(0.0, seconds))
        with suppress(BlockingIOError):
            while os.read(self._reader, 512):
                pass


def reap_orphans(*, but: int = 0) -> None:
    """Collect the exit status of ended orphans. The child `but` is left to who started it."""
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None or ended.si_pid in {0, but}:
            return
        os.waitpid(ended.si_pid, os.WNOHANG)


def kill_strays(*, patience_seconds: float = 10.0) -> list[int]:
    """Kill every child of this process and theirs, also those that left their process group. Returns survivors.

    For the moment between two steps: whoever lives then was left behind, and would hold the folder's lock.
    """
    give_up = time.monotonic() + patience_seconds
    while True:
        reap_orphans()
        left = _children()
        if not left or time.monotonic() >= give_up:
            return left
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _children() -> list[int]:
    """The living children of this process, orphans given to it included."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = entry.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        # pid (name) state ppid …, and the name may hold anything, brackets and spaces too.
        fields = text.rpartition(")")[2].split()
        if len(fields) > 1 and fields[1] == str(os.getpid()) and fields[0] != "Z":
            found.append(int(entry.parent.name))
    return found

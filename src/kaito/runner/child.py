"""One process of a step: start it, watch it, stop it. Whether it is started again is decided in `steps`.

The watch knows two clocks, both monotonic: a deadline, and the silence since the child's last *word* (growth of its
progress, its result, the metrics or its log).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kaito.contract import Step
from kaito.failure import ConfigFailure, TemporaryFailure
from kaito.program import PARENT_VARIABLE, PROGRESS_VARIABLE, RESERVE_VARIABLE, RESULT_VARIABLE
from kaito.runner.cgroup import count_oom_kills
from kaito.runner.files import read_tail
from kaito.runner.lock import FolderLock
from kaito.runner.reserve import RESERVE_FILE
from kaito.runner.signals import Signals, kill_strays, reap_orphans

LOG_LIMIT = 64 * 1024 * 1024
LOG_KEPT = 8 * 1024 * 1024
_UNKILLABLE_SECONDS = 60.0

Cause = Literal["ended", "stalled", "deadline", "stopped"]


@dataclass(frozen=True, slots=True)
class Timing:
    """The runner's own intervals, in seconds. A step's timeout and stall limit come with the step."""

    backoff_seconds: float = 5.0
    killed_backoff_seconds: float = 1.0  # after a signal: there is nobody whom a longer pause would help
    backoff_limit_seconds: float = 300.0
    grace_seconds: float = 120.0  # from SIGTERM to SIGKILL: time to save
    stall_grace_seconds: float = 10.0  # the same for a child that has been silent: it is not saving
    dump_seconds: float = 2.0  # from SIGUSR1 to SIGTERM: time to write the stacks
    look_seconds: float = 0.5


@dataclass(frozen=True, slots=True)
class StepFiles:
    """What a child writes and the runner watches."""

    log: Path
    progress: Path
    result: Path
    metrics: Path

    @classmethod
    def of(cls, folder: Path, step: str) -> StepFiles:
        return cls(
            log=folder / "logs" / f"{step}.log",
            progress=folder / "progress" / f"{step}.jsonl",
            result=folder / "progress" / f"{step}.result.json",
            metrics=folder / "metrics.jsonl",
        )


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process ended: its exit code (128 + n for signal n), and who brought it about.

    `out_of_memory`: killed by the kernel for want of memory. `log_start`: where in the log this process began.
    """

    code: int
    cause: Cause
    out_of_memory: bool
    log_start: int


class Child:
    """A running process, the leader of its own process group."""

    def __init__(self, process: subprocess.Popen[bytes], log_start: int) -> None:
        self.process = process
        self.log_start = log_start

    @classmethod
    def start(cls, step: Step, extra_argv: Sequence[str], folder: Path, header: str, *, lock_descriptor: int) -> Child:
        """Start a step's program. From the main thread: the death signal follows the thread that forks.

        Raises ConfigFailure if there is no such program, OSError if the folder cannot be written or no process made.
        """
        files = StepFiles.of(folder, step.name)
        for path in (files.log, files.progress):
            path.parent.mkdir(exist_ok=True)
        files.result.unlink(missing_ok=True)
        files.progress.write_bytes(b"")
        argv = [*step.argv, *extra_argv]
        if argv[0] == "python":
            argv[0] = sys.executable
        environment = {
            "PYTHONUNBUFFERED": "1",  # a line printed is a word heard
            **os.environ,
            **step.env,
            "PYTHONSAFEPATH": "1",  # the working directory holds a user's data, not modules
            PROGRESS_VARIABLE: str(files.progress),
            RESULT_VARIABLE: str(files.result),
            PARENT_VARIABLE: str(os.getpid()),
            RESERVE_VARIABLE: str(folder / RESERVE_FILE),
        }
        with files.log.open("ab") as log:
            if read_tail(files.log, 1) not in {b"", b"\n"}:
                log.write(b"\n")
            start = log.tell()
            log.write(header.encode() + b"\n")
            log.flush()
            try:
                process = subprocess.Popen(
                    argv,
                    cwd=folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    process_group=0,
                    pass_fds=(lock_descriptor,),
                )
            except (FileNotFoundError, PermissionError) as error:
                message = f"the program {argv[0]!r} of step {step.name!r} cannot be started: {error.strerror}"
                raise ConfigFailure(message, reason="JobInvalid") from error
        return cls(process, start)

    def has_ended(self) -> bool:
        """Without collecting its status: until then nobody else can have its pid or its group."""
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def signal_group(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def finish(self) -> int:
        """Kill what is left of the group, and what left the group. Returns the exit code, 128 + n for signal n.

        Raises TemporaryFailure for a process that SIGKILL does not end (stuck in the kernel: a dead disk or driver).
        """
        self.signal_group(signal.SIGKILL)
        try:
            code = self.process.wait(_UNKILLABLE_SECONDS)
        except subprocess.TimeoutExpired:
            raise _unkillable([self.process.pid]) from None
        survivors = kill_strays()
        if survivors:
            raise _unkillable(survivors)
        return 128 - code if code < 0 else code


def _unkillable(pids: list[int]) -> TemporaryFailure:
    names = ", ".join(str(pid) for pid in pids)
    return TemporaryFailure(
        f"process {names} does not end, not even by SIGKILL",
        "It hangs in the kernel, on a disk or a driver: the folder stays locked until it is gone.",
        reason="ProcessStuck",
    )


def run_child(
    step: Step,
    extra_argv: Sequence[str],
    folder: Path,
    header: str,
    *,
    signals: Signals,
    lock: FolderLock,
    job: str,
    timing: Timing,
    seconds_left: float,
) -> Ending:
    """Run a step's program once, until it ends, goes silent, is out of time, or the runner is told to stop.

    The process, its group and what it left behind are gone when this returns or raises.
    """
    oom_kills_before = count_oom_kills()
    child = Child.start(step, extra_argv, folder, header, lock_descriptor=lock.descriptor)
    try:
        lock.name_holders(job=job, step=step.name, child=child.process.pid)
        cause = _watch(child, step, StepFiles.of(folder, step.name), signals, timing, seconds_left)
    finally:
        code = child.finish()
    # A stop that ended the child after it went silent is a stop all the same.
    if signals.stops and cause != "deadline":
        cause = "stopped"
    killed = code == 128 + signal.SIGKILL and cause == "ended"
    oom_kills = count_oom_kills()
    out_of_memory = killed and oom_kills_before is not None and oom_kills is not None and oom_kills > oom_kills_before
    return Ending(code, cause, out_of_memory, child.log_start)


def _watch(child: Child, step: Step, files: StepFiles, signals: Signals, timing: Timing, seconds_left: float) -> Cause:
    deadline = time.monotonic() + seconds_left
    look = min(timing.look_seconds, step.stall_seconds / 4)
    word, silent, looked = _last_word(files), 0.0, time.monotonic()
    while not child.has_ended():
        if signals.stops:
            _terminate(child, signals, timing.grace_seconds)
            return "stopped"
        now = time.monotonic()
        newest = _last_word(files)
        if newest != word:
            word, silent = newest, 0.0
        else:
            # A gap far longer than a look means that the machine stood still, and the child with it.
            silent += min(now - looked, 4 * look)
        looked = now
        if silent >= step.stall_seconds:
            child.signal_group(signal.SIGUSR1)
            _wait(child, signals, timing.dump_seconds)
            _terminate(child, signals, timing.stall_grace_seconds)
            return "stalled"
        if now >= deadline:
            _terminate(child, signals, timing.grace_seconds)
            return "deadline"
        _bound_log(files.log)
        reap_orphans(but=child.process.pid)
        signals.wait(min(look, deadline - now))
    return "ended"


def _terminate(child: Child, signals: Signals, grace_seconds: float) -> None:
    """SIGTERM, and wait for the end. `Child.finish` kills what is still there."""
    child.signal_group(signal.SIGTERM)
    _wait(child, signals, grace_seconds)


def _wait(child: Child, signals: Signals, seconds: float) -> None:
    """Until the child's end, at most `seconds`; a second stop signal ends the patience."""
    give_up = time.monotonic() + seconds
    while not child.has_ended() and signals.stops < 2 and (left := give_up - time.monotonic()) > 0:
        signals.wait(min(left, 0.5))
        reap_orphans(but=child.process.pid)


def _last_word(files: StepFiles) -> tuple[tuple[int, int], ...]:
    return tuple(_size_and_time(path) for path in (files.progress, files.result, files.metrics, files.log))


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return (0, 0)
    return (found.st_size, found.st_mtime_ns)


def _bound_log(log: Path) -> None:
    """Keep a log that a child fills from filling the disk: its end goes to `STEP.log.1`, and it begins anew.

    The child appends to the open file, so it is emptied, not replaced; lines of that very moment may be lost.
    """
    if _size_and_time(log)[0] <= LOG_LIMIT:
        return
    kept = log.with_name(log.name + ".1")
    try:
        kept.write_bytes(read_tail(log, LOG_KEPT))
    except OSError:
        kept.unlink(missing_ok=True)  # a full disk: emptying the log is the remedy
    os.truncate(log, 0)

"""Several processes, one a GPU: starts them, watches them, and ends all when one ends badly."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from types import FrameType
from typing import Any

from kaito.failure import (
    ConfigFailure,
    DataFailure,
    DivergedFailure,
    ExitCode,
    Failure,
    ModelFailure,
    OutOfMemoryFailure,
    TemporaryFailure,
)
from kaito.program import PARENT_VARIABLE, PROGRESS_VARIABLE, RESULT_VARIABLE, Stopped
from kaito.tuning.collectives import LAUNCH_VARIABLE
from kaito.tuning.threads import available_cpus

POLL_SECONDS = 0.1
GRACE_SECONDS = 5.0  # for the other ranks, after one has failed

_FAILURES: dict[int, type[Failure]] = {
    int(kind.exit_code): kind
    for kind in (ConfigFailure, DataFailure, ModelFailure, OutOfMemoryFailure, DivergedFailure, TemporaryFailure)
}


def is_one_of_several() -> bool:
    """Whether this process was started by `launch`, as one of the ranks."""
    return "WORLD_SIZE" in os.environ


def processes(wished: int | None) -> int:
    """How many processes to start from here: 1 in one that was started so itself."""
    if is_one_of_several():
        return 1
    if wished is not None:
        return wished
    import torch

    return max(1, torch.cuda.device_count())


def launch(argv: list[str], count: int) -> dict[str, Any]:
    """Train with `count` processes, and give the first one's result. If memory runs out: once more, in half pieces."""
    code, result = _run_all(argv, count)
    if code == ExitCode.OUT_OF_MEMORY and "--micro-batch-divisor" not in argv:
        print("out of memory: all processes start again with half the micro-batch", flush=True)
        code, result = _run_all([*argv, "--micro-batch-divisor", "2"], count)
    if code == ExitCode.DONE:
        return result
    if code == ExitCode.STOPPED:
        raise Stopped
    if code < 0:  # killed from outside: end the same way, so that the runner sees what happened
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    message = str(result.get("message") or f"a training process ended with {code}")
    kind = _FAILURES.get(code, Failure)
    raise kind(message, str(result.get("hint", "")), reason=result.get("reason"))


def _run_all(argv: list[str], count: int) -> tuple[int, dict[str, Any]]:
    """Exit code and result: those of the first rank, or of the one that the others failed for."""
    with tempfile.TemporaryDirectory(prefix="kaito-ranks-") as folder:
        results = [Path(folder) / f"{index}.json" for index in range(count)]
        port, name = _free_port(), uuid.uuid4().hex
        children = [_start(argv, index, count, port, name, results[index]) for index in range(count)]

        def pass_on(number: int, _frame: FrameType | None) -> None:
            for child in children:
                if child.poll() is None:
                    child.send_signal(number)

        before = signal.signal(signal.SIGTERM, pass_on)
        try:
            failed = _wait(children)
        finally:
            signal.signal(signal.SIGTERM, before)
            for child in children:
                if child.poll() is None:
                    child.kill()
                    child.wait()
        chosen = failed if failed is not None else 0
        code = children[chosen].returncode
        return code, json.loads(results[chosen].read_bytes()) if results[chosen].exists() else {}


def _start(argv: list[str], index: int, count: int, port: int, name: str, result: Path) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        PARENT_VARIABLE: str(os.getpid()),
        RESULT_VARIABLE: str(result),
        LAUNCH_VARIABLE: name,
        "RANK": str(index),
        "LOCAL_RANK": str(index),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "OMP_NUM_THREADS": str(max(1, available_cpus() // count)),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    if index > 0:
        environment.pop(PROGRESS_VARIABLE, None)
    return subprocess.Popen([sys.executable, "-m", "kaito.tuning", *argv], env=environment)


def _wait(children: list[subprocess.Popen[bytes]]) -> int | None:
    """Wait for all; the others have a moment to end by themselves after one ended badly. The index of the cause."""
    deadline = float("inf")
    while any(child.poll() is None for child in children) and time.monotonic() < deadline:
        if deadline == float("inf") and any(child.poll() not in (None, 0) for child in children):
            deadline = time.monotonic() + GRACE_SECONDS
        time.sleep(POLL_SECONDS)
    return cause_of_the_end([child.poll() for child in children])


def cause_of_the_end(codes: list[int | None]) -> int | None:
    """The index of the process whose end the others' followed from; None where none ended badly.

    `codes`: exit codes, minus n for signal n, None for one that still runs. When one process is gone, its peers fail in
    the middle of an exchange: as a bug (1), or aborted by the library. So a kill counts first, and a code of our own.
    """
    ended = {index: code for index, code in enumerate(codes) if code}

    def order(index: int) -> tuple[int, int]:
        code = ended[index]
        if code in (ExitCode.BUG, -signal.SIGABRT):
            return 2, index
        return int(code >= 0), index

    return min(ended, key=order, default=None)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])

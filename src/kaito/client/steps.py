"""One step of a plan, run by hand in a folder to see what it finds: no runner, no second try, no record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kaito.contract import Step
from kaito.failure import ExitCode, Failure, TemporaryFailure
from kaito.hub.cache import CACHE_VARIABLE, default_cache
from kaito.program import PARENT_VARIABLE, PROGRESS_VARIABLE, RESULT_VARIABLE

_LOOK_SECONDS = 0.2
_GRACE_SECONDS = 10.0
_LINE_BYTES = 400  # more than a line of progress has

OnProgress = Callable[[str, int, int, str], None]
"""Step, done, total (0: not known) and unit (bytes, rows)."""


def run_step(step: Step, folder: Path, on_progress: OnProgress) -> Mapping[str, Any]:
    """Run the step's program in `folder`, which has what its arguments name; its result.

    Raises Failure with what the program says of its end. The program ends with this process, however that ends.
    """
    progress, result, log = (folder / f".{step.name}.{kind}" for kind in ("progress", "result", "log"))
    progress.touch()
    environment = {
        **os.environ,
        **step.env,
        "PYTHONSAFEPATH": "1",  # the working directory holds a user's data, not modules
        PROGRESS_VARIABLE: str(progress),
        RESULT_VARIABLE: str(result),
        PARENT_VARIABLE: str(os.getpid()),
        CACHE_VARIABLE: str(default_cache()),  # absolute: the program runs in `folder`
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *step.argv[1:]],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        while True:
            try:
                code = process.wait(_LOOK_SECONDS)
                break
            except subprocess.TimeoutExpired:
                if (seen := _last_progress(progress)) is not None:
                    on_progress(step.name, *seen)
    finally:
        _end(process)
    said = _read_result(result)
    if code == ExitCode.DONE:
        return said
    kind = TemporaryFailure if code == ExitCode.TEMPORARY else Failure
    message = said.get("message") or f"{step.name} ended with {code} without a word: {_last_line(log)}"
    raise kind(message, said.get("hint") or "", reason=said.get("reason"))


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_progress(path: Path) -> tuple[int, int, str] | None:
    """The newest whole line; None before there is one."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LINE_BYTES))
        lines = file.read().splitlines(keepends=True)
    try:
        value = json.loads(next(line for line in reversed(lines) if line.endswith(b"\n")))
        return int(value["done"]), int(value["total"]), str(value["unit"])
    except (StopIteration, ValueError, KeyError, TypeError):
        return None


def _read_result(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-1][:200] if lines else "its log is empty"

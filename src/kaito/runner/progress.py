"""Where a run is: read from `run.json`, the running step's progress file and the metrics. Read-only, bounded reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kaito.contract import Progress, Run, StepRun
from kaito.runner.child import StepFiles
from kaito.runner.files import read_json_lines
from kaito.runner.state import load_run

_TAIL_BYTES = 64 * 1024
CHECKPOINTS = "checkpoints"
_CHECKPOINT_PREFIX = "checkpoint-"
_ORDER = {"running": 3, "waiting": 2, "failed": 1, "done": 1, "pending": 1}


def read_progress(folder: Path) -> Progress:
    """The running step's, else the newest step's. An empty Progress where nothing ran.

    Raises RunUnreadable for a damaged `run.json`.
    """
    run = load_run(folder)
    found = None if run is None else _current_step(run)
    if found is None:
        return Progress()
    job, step, ran = found
    files = StepFiles.of(folder, step)
    reports = read_json_lines(files.progress, _TAIL_BYTES)  # of this attempt alone: it is emptied at each start
    since = ran.started or 0.0
    metrics = [line for line in read_json_lines(files.metrics, _TAIL_BYTES) if _number(line, "time", -1.0) >= since]
    if ran.ended is not None and ran.state in {"done", "failed"}:
        metrics = [line for line in metrics if _number(line, "time", 0.0) <= ran.ended]
    last = reports[-1] if reports else {}
    trained = _newest(metrics, "loss")
    return Progress(
        job=job,
        step=step,
        attempt=ran.attempt,
        state=ran.state,
        done=int(_number(last, "done", 0.0)),
        total=int(_number(last, "total", 0.0)),
        unit=str(last.get("unit", "")),
        epoch=_optional(trained, "epoch"),
        loss=_optional(trained, "loss"),
        eval_loss=_optional(_newest(metrics, "eval_loss"), "eval_loss"),
        tokens_per_second=_optional(trained, "tokens_per_second"),
        seconds_left=_seconds_left(reports) if ran.state == "running" else None,
        checkpoint=newest_checkpoint(folder),
        time=max((_number(line, "time", 0.0) for line in (*reports[-1:], *metrics[-1:])), default=ran.started),
    )


def newest_checkpoint(folder: Path) -> dict[str, Any] | None:
    """`{step, time}` of the complete checkpoint of the highest step. An incomplete one has a temporary name."""
    newest: dict[str, Any] | None = None
    for entry in (folder / CHECKPOINTS).glob(_CHECKPOINT_PREFIX + "*"):
        number = entry.name.removeprefix(_CHECKPOINT_PREFIX)
        if not number.isdecimal() or (newest is not None and int(number) <= newest["step"]):
            continue
        try:
            newest = {"step": int(number), "time": entry.stat().st_mtime}
        except FileNotFoundError:
            continue  # rotated away by the trainer just now
    return newest


def checkpoint_step(folder: Path) -> int:
    """The newest complete checkpoint's optimizer step, 0 without one."""
    newest = newest_checkpoint(folder)
    return 0 if newest is None else int(newest["step"])


def _current_step(run: Run) -> tuple[str, str, StepRun] | None:
    steps = [(job, name, ran) for job, record in run.jobs.items() for name, ran in record.steps.items()]
    begun = [entry for entry in steps if entry[2].state != "pending" or entry[2].started is not None]
    return max(begun, key=lambda entry: (_ORDER[entry[2].state], entry[2].started or 0.0), default=None)


def _newest(lines: Sequence[Mapping[str, Any]], key: str) -> Mapping[str, Any]:
    return next((line for line in reversed(lines) if key in line), {})


def _optional(line: Mapping[str, Any], key: str) -> float | None:
    value = line.get(key)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _number(line: Mapping[str, Any], key: str, otherwise: float) -> float:
    value = _optional(line, key)
    return otherwise if value is None else value


def _seconds_left(reports: Sequence[Mapping[str, Any]]) -> float | None:
    """From the pace of the newest reports, so that a slow start or a resume does not spoil it."""
    recent = reports[-100:]
    if len(recent) < 2:
        return None
    first, last = recent[0], recent[-1]
    seconds = _number(last, "time", 0.0) - _number(first, "time", 0.0)
    advanced = _number(last, "done", 0.0) - _number(first, "done", 0.0)
    left = _number(last, "total", 0.0) - _number(last, "done", 0.0)
    if seconds <= 0 or advanced <= 0 or left < 0:
        return None
    return left * seconds / advanced

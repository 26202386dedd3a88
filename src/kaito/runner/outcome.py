"""What a process's end means: its result, or why it failed, in words for a person. Reads files, decides nothing."""

from __future__ import annotations

import json
import math
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kaito.contract import Step
from kaito.failure import ExitCode, Failure
from kaito.runner.child import Ending, StepFiles
from kaito.runner.files import read_tail

RESULT_LIMIT = 256 * 1024
_TEXT_LIMIT = 2000
_DEPTH_LIMIT = 32
_LOG_LINES = 3
_LOG_BYTES = 600
_REASON = re.compile(r"[A-Z][A-Za-z0-9]{0,63}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """`code` is 0 only if the step is done. `reason` is a CamelCase word for a condition, empty when done."""

    code: int
    reason: str = ""
    message: str = ""
    hint: str = ""
    result: Mapping[str, Any] | None = None


def read_outcome(step: Step, ending: Ending, files: StepFiles) -> Outcome:
    """What a program's end says. A child that we ended ourselves is done all the same if it still exits 0."""
    log_tail = _last_lines(files.log, ending.log_start)
    if ending.code == ExitCode.DONE:
        return _read_success(files.result)
    if ending.cause == "stalled":
        message = f"No word for {step.stall_seconds:g} s, so it was ended; its stacks are in logs/{files.log.name}"
        return Outcome(ExitCode.TEMPORARY, "Stalled", message, "Look at the stacks: they say what it waited for.")
    if ending.cause == "deadline":
        message = f"Not done after {step.timeout_seconds:g} s, the step's limit. {log_tail}".rstrip()
        return Outcome(ExitCode.TEMPORARY, "DeadlineExceeded", message, "Allow it more time, or give it less to do.")
    if ending.out_of_memory:
        message = "The kernel killed it for want of memory (the cgroup's oom_kill counter rose)."
        hint = "Give it more memory, or lower per_device_train_batch_size or max_length."
        return Outcome(ExitCode.OUT_OF_MEMORY, "OutOfMemory", message, hint)
    said = _read_failure(files.result)
    if said is not None:
        return Outcome(ending.code, said["reason"] or _reason_of(ending.code), said["message"], said["hint"])
    message = f"{_describe_end(ending.code)}; its last words: {log_tail}" if log_tail else _describe_end(ending.code)
    return Outcome(ending.code, _reason_of(ending.code), message, f"logs/{files.log.name} has more.")


def _read_success(path: Path) -> Outcome:
    if not path.exists():
        return Outcome(ExitCode.DONE)
    value = _read_object(path)
    if value is None:
        message = f"It exited with 0, but its result is not a JSON object of at most {RESULT_LIMIT} bytes"
        return Outcome(ExitCode.BUG, "ResultInvalid", message, "This is a bug of the program.")
    note = value.get("note")  # what a person should know of a success: it becomes the step's message
    return Outcome(ExitCode.DONE, message=note[:_TEXT_LIMIT] if isinstance(note, str) else "", result=value)


def _read_failure(path: Path) -> dict[str, str] | None:
    """`{reason, message, hint}`, if that is what the program wrote: an odd one must not hide how it ended."""
    value = _read_object(path)
    if value is None or not isinstance(value.get("message"), str):
        return None
    reason, hint = value.get("reason"), value.get("hint")
    return {
        "reason": reason if isinstance(reason, str) and _REASON.fullmatch(reason) else "",
        "message": value["message"][:_TEXT_LIMIT],
        "hint": hint[:_TEXT_LIMIT] if isinstance(hint, str) else "",
    }


def _read_object(path: Path) -> dict[str, Any] | None:
    text = read_tail(path, RESULT_LIMIT + 1)
    if len(text) > RESULT_LIMIT:
        return None
    try:
        value = _cleaned(json.loads(text))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _cleaned(value: Any, depth: int = 0) -> Any:
    """The value with nothing in it that JSON or UTF-8 cannot carry on. Raises ValueError where it nests too deep."""
    if depth > _DEPTH_LIMIT:
        raise ValueError("nested too deep")
    if isinstance(value, dict):
        return {_cleaned(key): _cleaned(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list):
        return [_cleaned(inner, depth + 1) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None  # NaN and Infinity are no JSON
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # half a surrogate pair is no UTF-8
    return value


def _reason_of(code: int) -> str:
    kinds = {kind.exit_code: kind.reason for kind in Failure.__subclasses__()}
    if code in kinds:
        return kinds[ExitCode(code)]
    return "Killed" if _signal_name(code) else Failure.reason


def _describe_end(code: int) -> str:
    name = _signal_name(code)
    return f"It was ended by {name}" if name else f"It exited with {code}"


def _signal_name(code: int) -> str:
    try:
        return signal.Signals(code - 128).name
    except ValueError:
        return ""


def _last_lines(log: Path, start: int) -> str:
    """The last lines that this process wrote. `start` is that of its header line, which is not one of them."""
    text = read_tail(log, 8 * _LOG_BYTES, start=start).decode(errors="replace")
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip() and not line.startswith("--- ")]
    return " | ".join(lines[-_LOG_LINES:]).encode()[-_LOG_BYTES:].decode(errors="ignore")

"""The termination message: how a job ended, small enough for Kubernetes (4,096 bytes), and never cut JSON.

The whole story is one line on stdout, `KAITO_REPORT {…}`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kaito.runner.files import replace_text

TERMINATION_FILE = "termination.json"
TOTAL_LIMIT = 4096
STEP_LIMIT = 600
TEXT_LIMIT = 1000
_HINT_LIMIT = 400
_NAME_LIMIT = 100


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How a job ended. `step` is the one that decided it, empty if none did; `results` are those of the steps done."""

    exit_code: int
    step: str
    reason: str
    message: str
    hint: str = ""
    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def build_termination(end: JobEnd) -> bytes:
    """The message as JSON of at most 4,096 bytes: 600 a step's result, 1,000 message and hint together.

    Of a result too large, whole fields go, the largest first; then whole results. Texts are shortened.
    """
    hint = _shortened(end.hint, _HINT_LIMIT)
    value: dict[str, Any] = {
        "step": _shortened(end.step, _NAME_LIMIT),
        "reason": _shortened(end.reason, _NAME_LIMIT),
        "message": _shortened(end.message, TEXT_LIMIT - len(_encode(hint))),
        "hint": hint,
        "results": {step: _fitted(step, result) for step, result in end.results.items()},
    }
    results = value["results"]
    while len(_encode(value)) > TOTAL_LIMIT and results:
        del results[max(results, key=lambda step: len(_encode({step: results[step]})))]
    return _encode(value)


def write_termination(end: JobEnd, path: Path, *, whole: bool) -> None:
    """`whole` replaces the file; without it, it is written in place: Kubernetes' file is a mount. Raises OSError."""
    text = build_termination(end)
    if whole:
        replace_text(path, text.decode() + "\n")
    else:
        path.write_bytes(text)


def print_report(end: JobEnd) -> None:
    """Everything, as one log line."""
    report = {
        "exit_code": end.exit_code,
        "step": end.step,
        "reason": end.reason,
        "message": end.message,
        "hint": end.hint,
        "results": {step: dict(result) for step, result in end.results.items()},
    }
    with suppress(OSError, ValueError):  # whoever read the output may be gone
        print("KAITO_REPORT " + json.dumps(report), file=sys.stdout, flush=True)


def _encode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _fitted(step: str, result: Mapping[str, Any]) -> dict[str, Any]:
    kept = dict(result)
    while kept and len(_encode({step: kept})) > STEP_LIMIT:
        del kept[max(kept, key=lambda key: len(_encode({key: kept[key]})))]
    return kept


def _shortened(text: str, limit: int) -> str:
    """The text, or as much of its beginning as fits `limit` bytes of JSON, quotes included, with an ellipsis."""
    if len(_encode(text)) <= limit:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if len(_encode(text[:middle] + "…")) <= limit:
            low = middle
        else:
            high = middle - 1
    return text[:low] + "…"

"""JSON lines: one object on each line. A line that cannot be read is a Problem, and reading goes on behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from kaito.datasets.reading import BOM, INNER_BOM, LONGEST_LINE_BYTES, OnBad
from kaito.datasets.reading.strict_json import decode_value
from kaito.datasets.rows import Problem, Row, RowError, located
from kaito.failure import DataFailure

_BLANKS = " \t\r\n"
_ONE_A_LINE = "write one JSON object on each line"


def read_json_lines(stream: BinaryIO, name: str, report: OnBad) -> Iterator[Row]:
    """The rows of `stream`. `Row.line` counts LF alone: no other character ends a line."""
    number = 0
    while raw := stream.readline(LONGEST_LINE_BYTES + 1):
        number += 1
        if len(raw) > LONGEST_LINE_BYTES:
            _skip_line(stream, raw)
            rule = f"a line of more than {LONGEST_LINE_BYTES >> 20} MiB"
            report(Problem(name, number, "column 1", rule, _ONE_A_LINE))
            continue
        if number == 1:
            raw = raw.removeprefix(BOM)
            _require_one_line(raw, name)
        if not raw.strip():
            continue
        value = _parse_line(raw.rstrip(b"\r\n"))
        if isinstance(value, RowError):
            report(located(value, name, number))
        else:
            yield Row(name, number, value)


def _parse_line(raw: bytes) -> dict[str, Any] | RowError:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        return RowError("not UTF-8", f"column {error.start + 1}", "save the file as UTF-8")
    if raw.startswith(BOM):
        return INNER_BOM
    start = 0 if text[0] == "{" else len(text) - len(text.lstrip(_BLANKS))
    try:
        value, end = decode_value(text, start)
    except json.JSONDecodeError as error:
        if "\x00" in text:
            place = f"column {text.index(chr(0)) + 1}"
            return RowError("NUL bytes: the file is damaged", place, "fetch or copy the file again")
        return RowError(f"not JSON: {error.msg}", f"column {error.pos + 1}", _ONE_A_LINE)
    except RecursionError:
        return RowError("JSON nested beyond all bounds", "column 1", "mend this line")
    rest = text[end:].lstrip(_BLANKS)
    if rest:
        return RowError("more behind the JSON value", f"column {len(text) - len(rest) + 1}", _ONE_A_LINE)
    if isinstance(value, (dict, RowError)):
        return value
    return RowError("not a JSON object", f"column {start + 1}", 'write {"messages": […]} on each line')


def _require_one_line(first: bytes, name: str) -> None:
    """Refuse an object that was written over several lines, rather than each of its lines."""
    text = first.rstrip()
    if text.startswith(b"{") and text.endswith((b"{", b"[", b",", b":")):
        hint = f"{_ONE_A_LINE} (jq -c . does that), or all objects as one array"
        raise DataFailure(f"{name}:1: a JSON object written over several lines", hint)


def _skip_line(stream: BinaryIO, raw: bytes) -> None:
    while raw and not raw.endswith(b"\n"):
        raw = stream.readline(1 << 20)

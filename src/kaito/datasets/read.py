"""Rows of data files, one after the other, with the place of each. What a row means is `formats`'."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kaito.datasets.files import DataFile, Listing, list_files, scan_folder
from kaito.datasets.rows import Problem, Row, problem_failure
from kaito.failure import DataFailure

__all__ = ["DataFile", "Listing", "Row", "count_rows", "list_files", "read_rows", "scan_folder"]

LONGEST_LINE_BYTES = 64 << 20
LARGEST_ARRAY_BYTES = 1 << 30

_BATCH_ROWS = 512

OnBad = Callable[[Problem], None]


def read_rows(files: Sequence[DataFile], on_bad: OnBad | None = None) -> Iterator[Row]:
    """The rows of all files, in order. Nothing is kept: memory is that of a line, or of a parquet row group.

    A line that cannot be read goes to `on_bad` and reading goes on; without `on_bad` it raises DataFailure, as a
    damaged file always does.
    """
    report = on_bad or _raise_problem
    for file in files:
        if file.format == "parquet":
            yield from _read_parquet(file, report)
        elif file.format == "json":
            yield from _read_array(file, report)
        else:
            yield from _read_lines(file, report)


def count_rows(files: Sequence[DataFile]) -> int:
    """About how many rows the files have, without reading them as rows: for progress alone."""
    return sum(_count(file) for file in files)


def _count(file: DataFile) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if file.format == "parquet":
        try:
            return int(pq.read_metadata(file.path).num_rows)
        except (pa.ArrowException, OSError):
            return 0  # `read_rows` says what is wrong with it
    with file.path.open("rb") as chunks:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: chunks.read(1 << 20), b""))


def _raise_problem(problem: Problem) -> None:
    raise problem_failure(problem)


def _read_lines(file: DataFile, report: OnBad) -> Iterator[Row]:
    with file.path.open("rb") as lines:
        number = 0
        while raw := lines.readline(LONGEST_LINE_BYTES + 1):
            number += 1
            if len(raw) > LONGEST_LINE_BYTES:
                raise DataFailure(
                    f"{file.name}:{number}: a line of more than {LONGEST_LINE_BYTES >> 20} MiB",
                    "write one JSON object on each line",
                )
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            if not raw.strip():
                continue
            found = _parse_line(raw, file.name, number)
            if isinstance(found, Problem):
                report(found)
            else:
                yield Row(file.name, number, found)


def _parse_line(raw: bytes, name: str, number: int) -> dict[str, Any] | Problem:
    try:
        value = json.loads(raw.rstrip(b"\r\n").decode())
    except UnicodeDecodeError as error:
        column = f"column {error.start + 1}"
        return Problem(name, number, column, "not UTF-8", "save the file as UTF-8")
    except json.JSONDecodeError as error:
        remedy = "write one JSON object on each line"
        return Problem(name, number, f"column {error.colno}", f"not JSON: {error.msg}", remedy)
    except (ValueError, RecursionError):
        return Problem(name, number, "column 1", "JSON with a number or nesting beyond all bounds", "mend this line")
    if not isinstance(value, dict):
        return Problem(name, number, "column 1", "not a JSON object", 'write {"messages": […]} on each line')
    return value


def _read_array(file: DataFile, report: OnBad) -> Iterator[Row]:
    if file.bytes > LARGEST_ARRAY_BYTES:
        hint = "write it as JSON lines, one object on each line: these are read one by one"
        raise DataFailure(f"{file.name}: a JSON array of more than {LARGEST_ARRAY_BYTES >> 30} GiB", hint)
    try:
        text = file.path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataFailure(f"{file.name}: not UTF-8 at byte {error.start}", "save the file as UTF-8") from error
    decoder = json.JSONDecoder()
    line = 1
    counted = 0
    position = text.index("[") + 1
    separator = ""
    while True:
        position = _skip_blanks(text, position)
        if text[position : position + 1] == "]" and separator != ",":
            break
        line += text.count("\n", counted, position)
        counted = position
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            place = f"{file.name}:{error.lineno}: column {error.colno}"
            raise DataFailure(f"{place}: not JSON: {error.msg}", "mend the file, or write JSON lines") from error
        except (ValueError, RecursionError) as error:
            raise DataFailure(f"{file.name}:{line}: JSON beyond all bounds", "mend the file") from error
        if isinstance(value, dict):
            yield Row(file.name, line, value)
        else:
            report(Problem(file.name, line, "column 1", "not a JSON object", "write an array of objects"))
        position = _skip_blanks(text, position)
        separator = text[position : position + 1]
        if separator == ",":
            position += 1
        elif separator != "]":
            line += text.count("\n", counted, position)
            raise DataFailure(f"{file.name}:{line}: not JSON: ',' or ']' is missing", "fetch or write the file again")
    end = _skip_blanks(text, position + 1)
    if end < len(text):
        line = text.count("\n", 0, end) + 1
        raise DataFailure(f"{file.name}:{line}: text after the end of the JSON array", "write one array, or JSON lines")


def _skip_blanks(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _read_parquet(file: DataFile, report: OnBad) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(file.path) as table:
            for batch in table.iter_batches(batch_size=_BATCH_ROWS):
                for value in _plain_rows(batch):
                    number += 1
                    if value is None:
                        report(Problem(file.name, number, "text", "not UTF-8", "write strings as UTF-8"))
                    else:
                        yield Row(file.name, number, value)
    except (pa.ArrowException, OSError) as error:
        where = f" after row {number}" if number else ""
        reason = str(error).splitlines()[0][:200]
        raise DataFailure(
            f"{file.name}: damaged parquet{where}: {reason}", "fetch, copy or write the file again"
        ) from error


def _plain_rows(batch: Any) -> Iterator[dict[str, Any] | None]:
    """The rows of a record batch as plain values; None for one that holds broken UTF-8."""
    try:
        yield from batch.to_pylist()
        return
    except UnicodeDecodeError:
        pass  # row by row, to know which
    for start in range(batch.num_rows):
        try:
            yield batch.slice(start, 1).to_pylist()[0]
        except UnicodeDecodeError:
            yield None

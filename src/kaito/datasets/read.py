"""Rows of data files, one after the other, with the place of each. What a row means is `formats`'."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import BinaryIO

from kaito.datasets.files import DataFile, Kind
from kaito.datasets.reading import OnBad
from kaito.datasets.reading.columnar import count_arrow, count_parquet, read_arrow, read_parquet
from kaito.datasets.reading.csv_records import read_csv
from kaito.datasets.reading.gunzip import GzipError, gunzip, unpacked
from kaito.datasets.reading.json_array import read_json_array
from kaito.datasets.reading.json_lines import read_json_lines
from kaito.datasets.recognise import require_whole
from kaito.datasets.rows import Problem, Row, problem_failure
from kaito.failure import DataFailure, TemporaryFailure

_BUFFER_BYTES = 1 << 20
_SAMPLE_BYTES = 1 << 20
_PIECES, _PIECE_BYTES = 64, 16 << 10
_USUAL_ROW_BYTES = 1024

# `(open file, name, report) -> rows`. Each raises DataFailure for a file that is damaged.
Reader = Callable[[BinaryIO, str, OnBad], Iterator[Row]]

_READERS: dict[Kind, Reader] = {
    "jsonl": read_json_lines,
    "json": read_json_array,
    "csv": read_csv,
    "tsv": partial(read_csv, delimiter="\t"),
    "parquet": read_parquet,
    "arrow": read_arrow,
}
_COLUMNAR: dict[Kind, Callable[[BinaryIO], int]] = {"parquet": count_parquet, "arrow": count_arrow}


def read_rows(files: Sequence[DataFile], on_bad: OnBad | None = None) -> Iterator[Row]:
    """The rows of all files, in order. Nothing is kept: memory is that of a line, or of a few hundred records.

    A row that cannot be read goes to `on_bad` and reading goes on; without `on_bad` it raises DataFailure, as a
    damaged file always does. Raises TemporaryFailure where a file could be opened, but the disk fails.
    """
    report = on_bad or _raise_problem
    for file in files:
        yield from _read_file(file, report)


def count_rows(files: Sequence[DataFile]) -> int:
    """About how many rows the files have, at little cost: for progress and for the size of a sample.

    Text is counted in its beginning and in pieces all over it, and scaled by its size; where it is compressed in its
    beginning alone. What cannot be counted (parquet and Arrow in gzip, damaged files) has rows of a usual size.
    """
    return sum(_count(file) for file in files)


def _read_file(file: DataFile, report: OnBad) -> Iterator[Row]:
    last: Row | None = None
    try:
        with _open(file) as stream:
            for row in _READERS[file.kind](stream, file.name, report):
                last = row
                yield row
    except GzipError as error:
        raise DataFailure(f"{file.name}: {error}{_after(last)}", "fetch or copy the file again") from error
    except OSError as error:
        reason = f"{file.name}: cannot be read{_after(last)}: {error.strerror}"
        raise TemporaryFailure(reason, "check the disk or the volume that the file is on") from error


def _after(last: Row | None) -> str:
    return f"; the last good row is at line {last.line}" if last else ""


@contextmanager
def _open(file: DataFile) -> Iterator[BinaryIO]:
    with file.path.open("rb", buffering=_BUFFER_BYTES) as raw:
        if file.format == file.kind:
            yield raw
        elif file.kind in _COLUMNAR:
            with unpacked(raw, file.path, file.name) as inner:
                require_whole(inner, file.kind, file.name)
                yield inner
        else:
            yield gunzip(raw)


def _count(file: DataFile) -> int:
    usual = file.unpacked_bytes // _USUAL_ROW_BYTES
    try:
        if file.kind not in _COLUMNAR:
            return _estimate(file) or usual
        if file.format != file.kind:
            return usual
        with _open(file) as stream:
            return _COLUMNAR[file.kind](stream)
    except (DataFailure, GzipError, OSError):
        return usual


def _estimate(file: DataFile) -> int:
    is_plain = file.format == file.kind
    with file.path.open("rb") as raw:
        stream = raw if is_plain else gunzip(raw)
        sample = stream.read(_SAMPLE_BYTES)
        consumed = raw.tell()
        share = _share_of_lines(raw, file.bytes) if is_plain and consumed < file.bytes else 0
    rows = 0
    with suppress(DataFailure):  # the sample ends anywhere
        for _ in _READERS[file.kind](io.BytesIO(sample), file.name, lambda _: None):
            rows += 1
    lines = sample.count(b"\n")
    if share and lines:
        return round(rows / lines * share * file.bytes)
    return rows * file.bytes // max(consumed, 1)


def _share_of_lines(raw: BinaryIO, size: int) -> float:
    """Line ends by byte, in pieces all over the file: what is sorted by length begins unlike it ends."""
    found = 0
    for piece in range(_PIECES):
        raw.seek((2 * piece + 1) * size // (2 * _PIECES) - _PIECE_BYTES // 2)
        found += raw.read(_PIECE_BYTES).count(b"\n")
    return found / (_PIECES * _PIECE_BYTES)


def _raise_problem(problem: Problem) -> None:
    raise problem_failure(problem)

"""CSV and TSV: a header that names the columns, then one record a row. Every value is text; an empty field is null."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from kaito.datasets.reading import BOM, INNER_BOM, LONGEST_LINE_BYTES, OnBad
from kaito.datasets.rows import Problem, Row, RowError, located, shown
from kaito.failure import DataFailure

_DELIMITERS = ",\t;"
_LONGEST_NAME = 64
_MOST_WORDS = 5  # of a column's name: more are a sentence, so a row
_KEPT = "\0"  # before blanks that stay; no line that is read has one
_QUOTES = 'close each quote, and write a quote inside a field as ""'
_HEADER = "the first line must name the columns, as in: prompt,completion"
# The csv module's words, which are the same since Python 2, and ours.
_FAULTS = {
    "unexpected end of data": ("a quote is opened and never closed", _QUOTES),
    "expected after": ("text behind a closing quote", _QUOTES),
    "new-line character": ("CR inside a field that is not quoted", "end lines with LF or CR LF, and quote such fields"),
}


def read_csv(stream: BinaryIO, name: str, report: OnBad, delimiter: str = ",") -> Iterator[Row]:
    """The rows of `stream`. `Row.line` is the line on which a record begins: quoted fields may go over several.

    The delimiter is the one of comma, tab and semicolon that gives the header most columns; `delimiter` where two give
    as many. Raises DataFailure where there is no header, or nothing but a header.
    """
    csv.field_size_limit(LONGEST_LINE_BYTES)  # for the whole process: its default of 128 KiB suits no text
    lines = _Lines(stream, name)
    header = _header_line(lines, name)
    delimiter = _sniff(header, delimiter)
    names = _parse_names(header, delimiter, name, lines.number)
    spaced = any(column.startswith(" ") for column in names[1:])
    columns = [column.strip() for column in names]
    lines.split_at(delimiter, len(columns), spaced=spaced)
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=spaced, strict=True)
    records = 0
    while True:
        lines.begin_record()
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            records += 1
            report(located(_fault(error), name, lines.first))
            continue
        if lines.broken is None and _is_blank(fields, columns):
            continue
        records += 1
        if lines.broken is not None:
            report(lines.broken)
        elif lines.are_rows:
            rule = "a quote is opened, and closed rows later: each line of it would be a row of its own"
            remedy = 'write a quote that begins a field as """, the whole field in quotes; or write JSON lines'
            report(Problem(name, lines.first, "columns", rule, remedy))
        elif len(fields) == len(columns):
            if spaced:
                fields = [field.replace(_KEPT, "") for field in fields]
            yield Row(name, lines.first, {column: field or None for column, field in zip(columns, fields, strict=True)})
        else:
            report(located(_miscounted(fields, columns), name, lines.first))
    if not records:
        raise DataFailure(f"{name}: a header and no rows", "give at least one row, or remove the file")


class _Lines:
    """The lines of a CSV file as text, for the csv module: LF ends a line, whatever else is in it.

    `first` is the line on which the current record begins; `broken` says what is wrong with the record's bytes.
    `are_rows`: of tab-separated values, the record has several lines, and each has a row's number of fields: quotes
    mean nothing to the programs that write most such files, so these are rows that a stray quote has joined.
    """

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream = stream
        self._name = name
        self._bytes = 0
        self.number = 0
        self.first = 1
        self.broken: Problem | None = None
        self._delimiter = ""
        self._tabs = 0
        self._all_full = False
        self._indent: re.Pattern[str] | None = None

    def split_at(self, delimiter: str, columns: int, *, spaced: bool) -> None:
        """How the lines behind the header are split. `spaced`: one blank behind a delimiter belongs to the
        delimiter; the csv module drops all, so what is to stay begins with a mark."""
        self._delimiter = delimiter
        self._tabs = columns - 1 if delimiter == "\t" else 0
        if spaced:
            sign = re.escape(delimiter)
            self._indent = re.compile(rf'(?:^|(?<={sign} ))(?= +[^ "\r\n{sign}])')

    @property
    def are_rows(self) -> bool:
        return self._all_full and self.number > self.first

    def begin_record(self) -> None:
        self.first = self.number + 1
        self._bytes = 0
        self.broken = None
        self._all_full = self._tabs > 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        raw = self._stream.readline(LONGEST_LINE_BYTES + 1)
        if not raw:
            raise StopIteration
        self.number += 1
        self._bytes += len(raw)
        if self._bytes > LONGEST_LINE_BYTES:
            rule = f"a record of more than {LONGEST_LINE_BYTES >> 20} MiB, perhaps a quote that is never closed"
            raise DataFailure(f"{self._name}:{self.first}: {rule}", _QUOTES)
        if raw.startswith(BOM):
            if self.number > 1:
                self._break(INNER_BOM.rule, 0, INNER_BOM.remedy)
            raw = raw.removeprefix(BOM)
        if b"\x00" in raw:
            self._break("NUL bytes: the file is damaged", raw.index(b"\x00"), "fetch or copy the file again")
            raw = raw.replace(b"\x00", b"")
        try:
            line = raw.decode()
        except UnicodeDecodeError as error:
            self._break("not UTF-8", error.start, "save the file as UTF-8 (Excel: 'CSV UTF-8')")
            line = raw.decode(errors="replace")
        if self._all_full:
            is_begun = self.number == self.first or not line[:1].isspace()  # else code within a quoted field
            self._all_full = is_begun and line.count(self._delimiter) == self._tabs
        return line if self._indent is None else self._indent.sub(_KEPT, line)

    def _break(self, rule: str, index: int, remedy: str) -> None:
        self.broken = self.broken or Problem(self._name, self.number, f"column {index + 1}", rule, remedy)


def _header_line(lines: _Lines, name: str) -> str:
    header = next((line for line in lines if line.strip()), "")
    if lines.broken is not None:
        broken = lines.broken
        raise DataFailure(f"{name}:{broken.line}: {broken.column}: {broken.rule}", broken.remedy)
    return header


def _sniff(header: str, preferred: str) -> str:
    counts = {delimiter: len(_split(header, delimiter)) for delimiter in _DELIMITERS}
    return max(counts, key=lambda delimiter: (counts[delimiter], delimiter == preferred))


def _split(line: str, delimiter: str) -> Sequence[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True))
    except csv.Error:
        return ()


def _parse_names(header: str, delimiter: str, name: str, line: int) -> Sequence[str]:
    """The names of the columns. Texts of failures never quote them: without a header, they are a row."""
    place = f"{name}:{line}"
    if "\r" in header.rstrip("\r\n"):
        raise DataFailure(
            f"{place}: lines end with CR alone", "write the file with LF or CR LF at the end of each line"
        )
    names = _split(header, delimiter)
    if not names:
        raise DataFailure(f"{place}: the header's quotes do not match", _QUOTES)
    seen: set[str] = set()
    for number, column in enumerate(names, 1):
        text = column.strip()
        rule = ""
        if not text and number > 1:  # the first may be the index that pandas writes
            rule = "has no name"
        elif len(text) > _LONGEST_NAME or len(text.split()) > _MOST_WORDS or not text.isprintable():
            rule = "is no column's name"
        elif text in seen:
            rule = "has the name of an earlier one"
        if rule:
            raise DataFailure(f"{place}: no header: its field {number} {rule}", _HEADER)
        seen.add(text)
    if all(_is_number(column) for column in names):
        raise DataFailure(f"{place}: no header: its fields are numbers", _HEADER)
    return names


def _is_number(text: str) -> bool:
    return text.strip().lstrip("+-").replace(".", "", 1).isdecimal() or not text.strip()


def _is_blank(fields: Sequence[str], columns: Sequence[str]) -> bool:
    return not fields or (len(fields) == 1 and not fields[0].strip() and len(columns) > 1)


def _miscounted(fields: Sequence[str], columns: Sequence[str]) -> RowError:
    rule = f"{len(fields)} fields, and the header has {len(columns)}"
    if len(fields) < len(columns):
        return RowError(rule, shown(columns[len(fields)]) or "columns", "give each column a field, if an empty one")
    return RowError(rule, f"field {len(columns) + 1}", "quote the fields that hold the delimiter or a line break")


def _fault(error: csv.Error) -> RowError:
    for words, (rule, remedy) in _FAULTS.items():
        if words in str(error):
            return RowError(rule, "columns", remedy)
    return RowError(str(error), "columns", "mend this row")

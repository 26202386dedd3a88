"""One JSON array of objects, read object by object: memory is that of a chunk, or of the longest object."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from kaito.datasets.reading import LONGEST_LINE_BYTES, OnBad
from kaito.datasets.reading.strict_json import decode_value
from kaito.datasets.rows import Problem, Row, RowError, located
from kaito.failure import DataFailure

_CHUNK_BYTES = 1 << 20
_BLANKS = " \t\r\n"
_NO_BLANK = re.compile(r"[^ \t\r\n]")
# How far from the end of what is read the decoder may complain only because there is more to read: a word or an
# escape that is cut in two. (A string that is cut in two has a message of its own.)
_CUT_CHARACTERS = 16
_MEND = "mend the file, or write JSON lines"
_AGAIN = "fetch or write the file again"
_CUT_SHORT = "the JSON array is cut short"


def read_json_array(stream: BinaryIO, name: str, report: OnBad) -> Iterator[Row]:
    """The objects of the array. `Row.line` is the line on which an object begins.

    Values that are not objects go to `report`. What is no JSON ends the file: DataFailure with line and column.
    """
    text = _Text(stream, name)
    text.take("[")
    while (char := text.peek()) != "]" or text.last == ",":
        if char == "":
            raise text.failure(_CUT_SHORT, _AGAIN)
        line, column = text.place(text.at)
        value = text.take_value()
        if isinstance(value, RowError):
            report(located(value, name, line))
        elif isinstance(value, dict):
            yield Row(name, line, value)
        else:
            report(Problem(name, line, f"column {column}", "not a JSON object", "write an array of objects"))
        if text.peek() == "]":
            break
        text.take(",")
    text.take("]")
    if text.peek():
        raise text.failure("text after the end of the JSON array", "write one array, or JSON lines")


class _Text:
    """The text of a file, of which a part is held: `held[at:]` was read and not taken yet."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream = stream
        self._name = name
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._ended = False
        self._broken = False  # what follows `held` is not UTF-8
        self._counted = 0  # up to this index of `held`, lines are counted
        self._line = 1
        self._line_begin = 0  # the index of that line's first character: below 0 if it is no longer held
        self.held = ""
        self.at = 0
        self.last = ""  # the character that was taken last; "" after a value

    def place(self, index: int) -> tuple[int, int]:
        """Line and column, both from 1, of `held[index]`. Indices may only grow."""
        lines = self.held.count("\n", self._counted, index)
        if lines:
            self._line += lines
            self._line_begin = self.held.rindex("\n", self._counted, index) + 1
        self._counted = index
        return self._line, index - self._line_begin + 1

    def failure(self, rule: str, hint: str, index: int | None = None) -> DataFailure:
        line, column = self.place(self.at if index is None else index)
        return DataFailure(f"{self._name}:{line}: column {column}: {rule}", hint)

    def peek(self) -> str:
        """The next character that is no blank; "" at the end of the file."""
        while True:
            found = _NO_BLANK.search(self.held, self.at)
            if found:
                self.at = found.start()
                return found.group()
            self.at = len(self.held)
            if not self._read():
                return ""

    def take(self, char: str) -> None:
        found = self.peek()
        if found != char:
            rule = "not JSON: ',' or ']' is missing" if found else _CUT_SHORT
            raise self.failure(rule, _AGAIN)
        self.at += 1
        self.last = char

    def take_value(self) -> Any:
        """The JSON value that begins at `at`, or a RowError where it is one that is refused."""
        while True:
            try:
                value, end = decode_value(self.held, self.at)
            except json.JSONDecodeError as error:
                unterminated = error.msg.startswith("Unterminated string")
                offset = error.pos - self.at
                if (unterminated or error.pos >= len(self.held) - _CUT_CHARACTERS) and self._read():
                    continue
                index = self.at + offset
                if unterminated or not self.held[index:].strip(_BLANKS):
                    raise self.failure(_CUT_SHORT, _AGAIN, index) from error
                raise self.failure(f"not JSON: {error.msg}", _MEND, index) from error
            except RecursionError as error:
                raise self.failure("JSON nested beyond all bounds", _MEND) from error
            if end == len(self.held) and self._read():
                continue  # a number may go on
            self.at = end
            self.last = ""
            return value

    def _read(self) -> bool:
        """Let go of what was taken, and hold more: as much again as is held, so that long values cost no squares."""
        if self._ended:
            if self._broken:
                raise self.failure("not UTF-8", "save the file as UTF-8", len(self.held))
            return False
        if len(self.held) - self.at > LONGEST_LINE_BYTES:
            raise self.failure(f"a value of more than {LONGEST_LINE_BYTES >> 20} MiB", _MEND)
        self.place(self.at)
        self.held = self.held[self.at :]
        self._counted = 0
        self._line_begin -= self.at
        self.at = 0
        raw = self._stream.read(min(max(_CHUNK_BYTES, len(self.held)), LONGEST_LINE_BYTES + 1 - len(self.held)))
        self._ended = not raw
        try:
            self.held += self._decoder.decode(raw, final=self._ended)
        except UnicodeDecodeError as error:
            self.held += error.object[: error.start].decode()
            self._ended = self._broken = True
        return True

"""A row of training data, and what can be wrong with one. No file is opened here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kaito.failure import DataFailure

_LONGEST_NAME = 40
_MOST_WORDS = 5


@dataclass(frozen=True, slots=True)
class Row:
    """`line` counts from 1: the line of a text file, the row of a parquet file."""

    file: str
    line: int
    value: dict[str, Any]


class RowError(Exception):
    """A row that cannot be used. Texts name rules and columns, never what the row holds."""

    def __init__(self, rule: str, column: str, remedy: str) -> None:
        super().__init__(f"{column}: {rule}: {remedy}")
        self.rule = rule
        self.column = column
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Problem:
    """A RowError with its place. Printed as `file:line: column: rule: remedy`."""

    file: str
    line: int
    column: str
    rule: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}: {self.remedy}"

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def what(self) -> str:
        return f"{self.column}: {self.rule}"

    @property
    def kind(self) -> tuple[str, str, str, str]:
        """Equal for problems of one file that differ in their line alone."""
        return self.file, self.column, self.rule, self.remedy


def shown(name: object) -> str:
    """A name that the data have (of a column, of a key) for messages and logs; "…" for what may be more than a name: a
    sentence of a row that was taken for a header, or characters that a terminal obeys."""
    text = str(name)
    is_name = len(text) <= _LONGEST_NAME and len(text.split()) <= _MOST_WORDS and text.isprintable()
    return text if is_name else "…"


def require_characters(text: str, column: str) -> None:
    """Raises RowError for half of a surrogate pair: JSON can write one, UTF-8 and tokenizers cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowError("a broken character (half of a surrogate pair)", column, "mend the escape \\uD8xx") from error


def located(error: RowError, file: str, line: int) -> Problem:
    return Problem(file, line, error.column, error.rule, error.remedy)


def problem_failure(problem: Problem) -> DataFailure:
    return DataFailure(f"{problem.file}:{problem.line}: {problem.column}: {problem.rule}", problem.remedy)

"""A row of training data, and what can be wrong with one. No file is opened here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kaito.failure import DataFailure


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
        return f"{self.file}:{self.line}: {self.column}: {self.rule}: {self.remedy}"


def located(error: RowError, file: str, line: int) -> Problem:
    return Problem(file, line, error.column, error.rule, error.remedy)


def problem_failure(problem: Problem) -> DataFailure:
    return DataFailure(f"{problem.file}:{problem.line}: {problem.column}: {problem.rule}", problem.remedy)

"""What `kaito validate --data` shows: a bar while it looks, the numbers, and one row as it is trained."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from kaito.client.data import DataCheck, Example
    from kaito.client.steps import OnProgress
    from kaito.datasets.survey import Survey

_SHOWN_CHARACTERS = 4000
_OPEN, _CLOSE = "⟦", "⟧"
_STEPS = {"resolve": "base model", "fetch": "fetching the data", "check": "checking the rows"}
_PLAIN_WIDTH = 160


@contextmanager
def progress_bar() -> Iterator[OnProgress]:
    """Shows what is passed to what this yields; on a terminal alone, and nothing stays of it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _step, _done, _total, _unit: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[unit]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        tasks: dict[str, Any] = {}

        def show(step: str, done: int, total: int, unit: str) -> None:
            if step not in tasks:
                tasks[step] = progress.add_task(_STEPS.get(step, step), unit=unit)
            progress.update(tasks[step], completed=done, total=total or None)

        yield show


def problem_lines(check: DataCheck) -> list[str]:
    """What is wrong with the data files, `file:line: column: rule: remedy` where it is a row."""
    from kaito.datasets.report import describe_problems

    rows = [] if check.survey is None else list(describe_problems(check.survey))
    failures = [f"{failure.message}: {failure.hint}" if failure.hint else failure.message for failure in check.problems]
    return [*rows, *failures]


def as_json(check: DataCheck) -> dict[str, Any]:
    """`-o json`'s `data`: everything but what rows hold. The numbers are null where no row could be read."""
    from kaito.datasets.report import build_details, build_result

    found = check.survey
    numbers = None if found is None else build_result(found) | build_details(found)
    for repeated in ("first", "problems", "damaged"):
        (numbers or {}).pop(repeated, None)
    rows = [] if found is None else found.first
    return {
        "source": check.source,
        "model": check.model or None,
        "found": numbers,
        "problems": [
            {"file": row.file, "line": row.line, "column": row.column, "rule": row.rule, "remedy": row.remedy}
            for row in rows
        ],
        "failures": [
            {"reason": failure.reason, "message": failure.message, "hint": failure.hint} for failure in check.problems
        ],
    }


def print_check(name: str, check: DataCheck) -> None:
    """The numbers and the sample of one Workspace; nothing where no row could be read."""
    from rich.console import Console

    if check.survey is None:
        return
    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=_PLAIN_WIDTH)
    console.print(_table(name, check, check.survey))
    if check.example is not None:
        colours = console.is_terminal and not os.environ.get("NO_COLOR")
        console.print(_heading(check.example, colours), soft_wrap=True, markup=False)
        console.print(_sample(check.example, colours), soft_wrap=True)


def _table(name: str, check: DataCheck, found: Survey) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), title=f"Data of {name}", title_justify="left")
    for label, value in _numbers(check, found):
        table.add_row(label, escape(value))
    return table


def _numbers(check: DataCheck, found: Survey) -> Iterator[tuple[str, str]]:
    from kaito.datasets.report import describe_sample, name_repetitions, token_lengths, trained_share

    measured = found.measured
    about = "" if found.sample.is_everything else "about "
    yield "from", check.source
    if check.model:
        yield "base model", check.model
    yield "rows", f"{found.rows:,}" + (f", of which {found.bad:,} cannot be used" if found.bad else "")
    for name, rows in list(found.files.items())[:20]:
        yield "", f"{name}: {rows:,}"
    if len(found.files) > 20:
        yield "", f"… and {len(found.files) - 20} more files"
    yield "formats", ", ".join(f"{name} ({rows:,})" for name, rows in found.formats.most_common()) or "none"
    if measured.rows:
        how = "" if found.sample.is_everything else f", {describe_sample(found)}"
        lengths = ", ".join(f"{label} {length:,}" for label, length in token_lengths(found).items())
        yield "tokens in a row", lengths + how
        yield "trained", f"{trained_share(found):.0%} of the tokens"
        yield "cut at max_length", about + _part(found.of_all(measured.truncated), found.good)
        if measured.dropped:
            yield "left out for length", about + _part(found.of_all(measured.dropped), found.good)
        yield "nothing to learn", about + _part(found.of_all(measured.untrained), found.good)
    about = "" if found.repeats_are_exact else "about "
    where = "".join(f"; {place}" for place in name_repetitions(found))
    yield "repeated", about + _part(found.repeated, found.good) + where


def _part(rows: int, of: int) -> str:
    return f"{rows:,} rows ({rows / of:.1%})" if rows and of else "none"


def _heading(example: Example, colours: bool) -> str:
    how = "underlined" if colours else f"in {_OPEN}{_CLOSE}"
    return f"\n{example.file}:{example.line} as it is trained; what is learnt is {how}:\n"


def _sample(example: Example, colours: bool) -> Text:
    from rich.text import Text

    text = Text()
    left = _SHOWN_CHARACTERS
    for piece in example.pieces:
        shown = _printable(piece.text[:left])
        left -= len(piece.text)
        if not piece.trained:
            text.append(shown, style="dim" if colours else "")
        elif colours:
            text.append(shown, style="underline green")
        else:
            text.append(f"{_OPEN}{shown}{_CLOSE}")
        if left <= 0:
            break
    hidden = sum(len(piece.text) for piece in example.pieces) - _SHOWN_CHARACTERS
    if hidden > 0:
        text.append(f"… and {hidden:,} characters more")
    return text


def _printable(text: str) -> str:
    """Without what a terminal would obey: a row may hold anything."""
    return "".join(one if one.isprintable() or one in "\n\t" else f"\\x{ord(one):02x}" for one in text)

"""A Survey in words and numbers: the step's result, its log, the failure that it comes to. Never a row's text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kaito.datasets.survey import Survey
from kaito.failure import DataFailure, Failure

_RESULT_PROBLEMS = 3
_LONGEST_PROBLEM = 240
_LISTED_FILES = 50
_TELLING_ROWS = 1000  # of a smaller sample, what holds for every row may not hold for all


def build_result(found: Survey) -> dict[str, Any]:
    """The result of `preflight`. `truncated`, `dropped` and `untrained` are of all rows: scaled up, if of a sample.
    `note`, where there is one, is for the person who started the run."""
    note = {"note": _untemplated(found)} if found.untemplated else {}
    return {
        **note,
        "rows": found.rows,
        "bad": found.bad,
        "first": [shorten(line) for line in list(describe_problems(found))[:_RESULT_PROBLEMS]],
        "tokens": token_lengths(found),
        "truncated": found.of_all(found.measured.truncated),
        "dropped": found.of_all(found.measured.dropped),
        "untrained": found.of_all(found.measured.untrained),
    }


def build_details(found: Survey) -> dict[str, Any]:
    """What the full report has beside the result. `sample` is null where every row was measured."""
    return {
        "problems": list(describe_problems(found)),
        "damaged": [failure.message for failure in found.damaged],
        "files": dict(list(found.files.items())[:_LISTED_FILES]),
        "formats": dict(found.formats),
        "trained_share": round(trained_share(found), 4),
        "duplicates": found.repeated,
        "duplicates_exact": found.repeats_are_exact,
        "first_duplicates": list(name_repetitions(found)),
        "sample": None if found.sample.is_everything else {"rows": found.measured.rows, "seed": found.sample.seed},
    }


def token_lengths(found: Survey) -> dict[str, int]:
    measured = found.measured
    return {**{f"p{percent}": measured.percentile(percent) for percent in (50, 95, 99)}, "max": measured.longest}


def trained_share(found: Survey) -> float:
    """Of the tokens that are trained on, those that are labels."""
    return found.measured.trained / found.measured.tokens if found.measured.tokens else 0.0


def name_repetitions(found: Survey) -> Iterator[str]:
    names = list(found.files)
    for repetition in found.repetitions:
        row, earlier = repetition.row, repetition.earlier
        yield f"{names[row.file]}:{row.line} repeats {names[earlier.file]}:{earlier.line}"


def describe_problems(found: Survey) -> Iterator[str]:
    """The first problems of rows, one line a kind: `file:line and 39 more rows: column: rule: remedy`."""
    for problem in found.first:
        more = found.alike[problem.kind] - 1
        place = f"{problem.place} and {more:,} more row{'' if more == 1 else 's'}" if more > 0 else problem.place
        yield f"{place}: {problem.what}: {problem.remedy}"


def _untemplated(found: Survey) -> str:
    return (
        f"warning: {_count(found.untemplated)} of prompt and completion are trained as plain text, without the model's "
        "chat template; name the columns instruction and output to have them as a conversation"
    )


def describe(found: Survey) -> Iterator[str]:
    """What was found, line by line; the bad rows apart."""
    for name, rows in list(found.files.items())[:_LISTED_FILES]:
        yield f"{name}: {_count(rows)}"
    if len(found.files) > _LISTED_FILES:
        yield f"… and {len(found.files) - _LISTED_FILES} more files"
    for failure in found.damaged:
        yield failure.message
    if found.formats:
        yield "formats: " + ", ".join(f"{name} ({_count(rows)})" for name, rows in found.formats.most_common())
    if found.bad:
        yield f"bad rows: {_part(found.bad, found.rows)}"
    if found.measured.rows:
        yield from _describe_lengths(found)
    yield from describe_doubts(found)


def _describe_lengths(found: Survey) -> Iterator[str]:
    lengths = token_lengths(found)
    how = "of every row" if found.sample.is_everything else describe_sample(found)
    yield f"tokens in a row: {', '.join(f'{name} {length:,}' for name, length in lengths.items())} (lengths {how})"
    yield f"trained on: {trained_share(found):.0%} of the tokens"


def describe_sample(found: Survey) -> str:
    return f"from a sample of {_count(found.measured.rows)} (seed {found.sample.seed})"


def describe_doubts(found: Survey) -> Iterator[str]:
    """What does not keep the data from being trained on, and should be known."""
    about = "" if found.sample.is_everything else "about "
    truncated, untrained = found.of_all(found.measured.truncated), found.of_all(found.measured.untrained)
    if truncated:
        yield f"warning: rows longer than max_length, which are cut: {about}{_part(truncated, found.good)}"
    if dropped := found.of_all(found.measured.dropped):
        yield f"warning: rows longer than max_length, which are left out: {about}{_part(dropped, found.good)}"
    if found.untemplated:
        yield _untemplated(found)
    if untrained:
        what = "rows without a trained token after the cut, which teach nothing"
        yield f"warning: {what}: {about}{_part(untrained, found.good)}"
    if found.repeated:
        about = "" if found.repeats_are_exact else "about "
        where = "; ".join(name_repetitions(found))
        yield f"note: rows that repeat an earlier one: {about}{_part(found.repeated, found.good)}: {where}"


def find_failure(found: Survey) -> Failure | None:
    """Why the data cannot be trained on as they are, None where they can."""
    failures = list(find_failures(found))
    if failures and (found.unrenderable is not None or found.damaged or not found.bad):
        first, others = failures[0], len(found.damaged) - 1
        more = f" (and {others} more of the files)" if first in found.damaged and others else ""
        return type(first)(first.message + more, first.hint, reason=first.reason)
    if found.bad:
        problems = list(describe_problems(found))
        if len(problems) == 1:
            problem = found.first[0]
            said = problems[0].removesuffix(f": {problem.remedy}")
            return DataFailure(f"{found.bad} of {found.rows} rows cannot be used: {said}", problem.remedy)
        rows = "; ".join(shorten(line) for line in problems[:_RESULT_PROBLEMS])
        return DataFailure(
            f"{found.bad} of {found.rows} rows cannot be used, the first: {rows}",
            "mend or remove these rows; the log names more of them",
        )
    return None


def find_failures(found: Survey) -> Iterator[Failure]:
    """All that keeps the data from being trained on, beside bad rows: of the model, of whole files, of the lengths."""
    measured = found.measured
    if found.unrenderable is not None:
        yield found.unrenderable
    yield from found.damaged
    if found.rows == 0 and not found.damaged:
        yield DataFailure(f"no rows in {', '.join(list(found.files)[:5])}", "give at least one row")
    if found.misnamed is not None and found.good and not found.damaged:
        yield found.misnamed
    if not found.sample.is_everything and measured.rows < _TELLING_ROWS:
        return
    if 0 < measured.rows == measured.dropped:
        yield DataFailure("every row is longer than max_length", "raise TrainingArguments.max_length")
    elif 0 < measured.rows == measured.untrained + measured.dropped:
        hint = "raise TrainingArguments.max_length, or shorten the prompts"
        yield DataFailure("in every row the answer begins behind max_length: nothing would be learnt", hint)


def shorten(text: str) -> str:
    return text if len(text) <= _LONGEST_PROBLEM else text[: _LONGEST_PROBLEM - 1] + "…"


def _count(rows: int) -> str:
    return f"{rows:,} row{'' if rows == 1 else 's'}"


def _part(rows: int, of: int) -> str:
    return f"{rows:,} ({rows / max(of, 1):.1%})"

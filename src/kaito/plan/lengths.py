"""`max_length`: how long a row may be before it is cut. Chosen by the data, the model's context and the memory.

Before the rows are counted a fixed length holds, and `check` renders by that one: counting the rows must not make
another check of it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

from kaito.contract import DataFacts, Estimate
from kaito.plan.settings import PROVISIONAL, Basis, Chosen

UNCOUNTED_LENGTH = 2048
MULTIPLE = 64  # tokens
LEAST_LENGTH = 512  # memory alone cuts no rows shorter than this
NEAR = 1.25  # of a longest row within this of the 99th percentile nothing is cut

ARGUMENTS = "TrainingArguments"


def choose_length(chosen: Chosen, basis: Basis, estimate: Callable[[int], Estimate]) -> None:
    """Put `max_length` into the settings, and gradient checkpointing where one row does not fit without it.

    `estimate`: tokens of a row -> the memory that they take, with the settings as they then are.
    """
    chosen.default(ARGUMENTS, "max_length", *default_length(basis, whole_rows=_are_whole(chosen)))
    said = chosen.said.get(ARGUMENTS, {}).get("max_length")
    chosen.asked_length = said.value if said is not None else None
    if basis.context and said is not None and said.value > basis.context:
        warning = f"max_length {said.value} is beyond the model's context: {basis.context} is used"
        chosen.override(ARGUMENTS, "max_length", basis.context, warning)
    if estimate(row_length(chosen, basis)).micro_batch > 0:
        return
    if not chosen.get(ARGUMENTS, "gradient_checkpointing"):
        why = "one row does not fit the memory without it"
        chosen.default(ARGUMENTS, "gradient_checkpointing", True, why if basis.tokens_max else f"{why}; {PROVISIONAL}")
    _fit_memory(chosen, basis, estimate)


def default_length(basis: Basis, *, whole_rows: bool = False) -> tuple[int, str]:
    """Tokens of the longest sample where nobody said so, and why: rows are cut only where a few are far longer.

    `whole_rows`: a row that is too long is an error, so that no default may be shorter than the longest.
    """
    counted = bool(basis.rows or basis.tokens_p99)
    length, why = UNCOUNTED_LENGTH, "default" if counted else PROVISIONAL
    if basis.tokens_p99:
        length, why = basis.tokens_p99, f"p99 of the data is {basis.tokens_p99}"
        if whole_rows or basis.tokens_max <= NEAR * basis.tokens_p99:
            length, why = basis.tokens_max, f"the longest row has {basis.tokens_max} tokens"
        length = -(-length // MULTIPLE) * MULTIPLE
    if basis.context and length > basis.context:
        why = "the model's context"
        return basis.context, why if counted else f"{why}; {PROVISIONAL}"
    return length, why


def _are_whole(chosen: Chosen) -> bool:
    return bool(chosen.get("DatasetConfig", "long_rows") == "error")


def _fit_memory(chosen: Chosen, basis: Basis, estimate: Callable[[int], Estimate]) -> None:
    """Lower a length that nobody said to the longest of which one row fits, if there is one."""
    default = chosen.added.get(ARGUMENTS, {}).get("max_length")
    if default is None or not basis.tokens_p99 or _are_whole(chosen):
        return
    whole = estimate(row_length(chosen, basis))
    if whole.rough or whole.micro_batch > 0:
        return
    shorter = range(LEAST_LENGTH, default.value, MULTIPLE)
    fitting = bisect_left(shorter, True, key=lambda length: estimate(length).micro_batch == 0)
    if fitting > 0:
        chosen.default(ARGUMENTS, "max_length", shorter[fitting - 1], f"what the memory holds; {default.source}")


def row_length(chosen: Chosen, basis: Basis) -> int:
    """Tokens of the longest row that is trained."""
    length = int(chosen.get(ARGUMENTS, "max_length"))
    return min(length, basis.tokens_max) if basis.tokens_max else length


def checked_length(chosen: Chosen, basis: Basis) -> int | None:
    """`max_length` for `check`: the user's, or the fixed one. Within the context, where that is known.

    None, which is the model's context, where a longer row is an error and nobody set a limit.
    """
    if chosen.asked_length is None and _are_whole(chosen):
        return None
    length = chosen.asked_length or UNCOUNTED_LENGTH
    return min(length, basis.context) if basis.context else length


def cut_rows(chosen: Chosen, basis: Basis, data: DataFacts | None) -> tuple[str, ...]:
    """How many rows `max_length` cuts, as far as is known: `check` counted those beyond the length that it used."""
    length = chosen.get(ARGUMENTS, "max_length")
    if data is None or length >= data.tokens_max:
        return ()
    if length == checked_length(chosen, basis):
        share = f"{data.truncated + data.dropped:,}"
    elif length >= data.tokens_p99 > 0:
        share = "at most 1 %"
    else:
        share = "1 to 5 %" if length >= data.tokens_p95 else "more than 5 %"
    verb = "leaves out" if chosen.get("DatasetConfig", "long_rows") == "drop" else "cuts"
    return (f"max_length {length} {verb} {share} of {data.rows:,} rows; the longest has {data.tokens_max:,} tokens",)

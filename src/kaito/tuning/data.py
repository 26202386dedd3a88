"""Rows of the training data -> tokenised examples, and the split into a part that trains and a part held out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kaito.api.training import TrainingConfig
from kaito.datasets.read import list_files, read_rows
from kaito.datasets.rows import RowError, located, problem_failure
from kaito.datasets.settings import build_renderer, select_files
from kaito.failure import DataFailure

HELD_OUT_SHARE = 0.05
HELD_OUT_ROWS = 500  # of a share of 5 % or less: more rows tell little and cost time at each evaluation
ROWS_FOR_A_SPLIT = 20  # with fewer rows, each one is worth more in the training


@dataclass(frozen=True, slots=True)
class Example:
    """One row. `input_ids` int32 (tokens); `trained` bool (tokens): which of them the model learns to say."""

    input_ids: npt.NDArray[np.int32]
    trained: npt.NDArray[np.bool_]

    def digest(self) -> bytes:
        return hashlib.sha256(self.input_ids.tobytes() + b"|" + self.trained.tobytes()).digest()


@dataclass(frozen=True, slots=True)
class Loaded:
    """All rows that teach something, in the order of the files; and what to tell of them."""

    examples: tuple[Example, ...]
    chat_template: str | None
    summary: str


@dataclass(frozen=True, slots=True)
class Split:
    train: tuple[Example, ...]
    held_out: tuple[Example, ...]


def load_examples(data: Path, model: Path, config: TrainingConfig) -> Loaded:
    """Every row of the data, rendered and tokenised once. Raises DataFailure with file and line, ConfigFailure."""
    files = select_files(list_files(data), config.dataset)
    renderer = build_renderer(model, config)
    examples = []
    rows = truncated = tokens = 0
    for row in read_rows(files):
        try:
            rendered = renderer.render(row.value)
        except RowError as error:
            raise problem_failure(located(error, row.file, row.line)) from error
        rows += 1
        truncated += rendered.truncated
        # The first token of a row is never predicted, so a label there alone teaches nothing.
        if any(rendered.trained[1:]):
            example = Example(np.array(rendered.input_ids, np.int32), np.array(rendered.trained, np.bool_))
            tokens += len(example.input_ids)
            examples.append(example)
    if not examples:
        raise DataFailure(
            f"none of the {rows} rows in {data} has a token to train", "raise max_length, or look at the data"
        )
    formats = ", ".join(sorted({file.format for file in files}))
    summary = (
        f"Dataset loaded successfully from {data} with file type '{formats}': {rows:,} rows in {len(files)} files,"
        f" {tokens:,} tokens, {truncated:,} rows cut at max_length, {rows - len(examples):,} left without an answer"
    )
    return Loaded(tuple(examples), renderer.chat_template, summary)


def split_rows(examples: Sequence[Example], *, train_share: float | None, seed: int) -> Split:
    """Hold out `1 - train_share` of the rows, chosen by a hash of the seed and the row's content.

    The same data and seed give the same split whatever the order of the files, and rows that are equal end up on the
    same side: what is evaluated was never trained. A share of 1 holds out nothing; None stands for 5 %.
    """
    count = held_out_rows(len(examples), train_share)
    if count == 0:
        return Split(tuple(examples), ())
    salt = seed.to_bytes(8, "little")
    groups: dict[bytes, list[int]] = {}
    for index, example in enumerate(examples):
        groups.setdefault(hashlib.sha256(salt + example.digest()).digest(), []).append(index)
    held_out: set[int] = set()
    for key in sorted(groups):
        if len(held_out) + len(groups[key]) <= count:
            held_out.update(groups[key])
        if len(held_out) == count:
            break
    return Split(
        tuple(example for index, example in enumerate(examples) if index not in held_out),
        tuple(examples[index] for index in sorted(held_out)),
    )


def held_out_rows(rows: int, train_share: float | None) -> int:
    """How many of `rows` are held out: at most 500 where the share is 5 % or less, none of fewer than 20 rows."""
    share = HELD_OUT_SHARE if train_share is None else 1.0 - train_share
    if share <= 0 or rows < ROWS_FOR_A_SPLIT:
        return 0
    count = max(1, round(rows * share))
    return min(count, HELD_OUT_ROWS) if share <= HELD_OUT_SHARE + 1e-9 else min(count, rows - 1)

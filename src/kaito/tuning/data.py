"""The tokenised examples of a run as flat arrays, however many there are, and the split into trained and held out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt

from kaito.api.training_rules import held_out_rows


@dataclass(frozen=True, slots=True)
class Example:
    """One row. `input_ids` int32 (tokens); `trained` bool (tokens): which of them the model learns to say."""

    input_ids: npt.NDArray[np.int32]
    trained: npt.NDArray[np.bool_]

    def digest(self) -> bytes:
        return hashlib.sha256(self.input_ids.tobytes() + b"|" + self.trained.tobytes()).digest()


class Examples(Sequence[Example]):
    """Examples as views into arrays that hold all tokens, one row after the other; a file may lie behind them.

    `input_ids`, `trained`: (tokens of all rows). `ends`: (rows), where each row ends in them. `rows`: which rows these
    are and in what order; all of them where it is not given.
    """

    def __init__(
        self,
        input_ids: npt.NDArray[np.int32],
        trained: npt.NDArray[np.bool_],
        ends: npt.NDArray[np.int64],
        rows: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self.input_ids, self.trained, self.ends = input_ids, trained, ends
        self.rows = np.arange(len(ends)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Examples: ...
    def __getitem__(self, index: int | slice) -> Example | Examples:
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        row = self.rows[index]
        span = slice(self.ends[row - 1] if row else 0, self.ends[row])
        return Example(self.input_ids[span], self.trained[span])

    def select(self, indices: npt.NDArray[np.int64]) -> Examples:
        """The examples at these indices, in this order; their tokens are not copied."""
        return Examples(self.input_ids, self.trained, self.ends, self.rows[indices])


@dataclass(frozen=True, slots=True)
class Split:
    train: Examples
    held_out: Examples


def split_rows(examples: Examples, *, train_share: float | None, seed: int) -> Split:
    """Hold out `1 - train_share` of the rows, chosen by a hash of the seed and the row's content.

    The same data and seed give the same split whatever the order of the files, and rows that are equal end up on the
    same side: what is evaluated was never trained. A share of 1 holds out nothing; None stands for 5 %.
    """
    count = held_out_rows(len(examples), train_share)
    held_out = np.zeros(len(examples), np.bool_)
    salt = seed.to_bytes(8, "little")
    if count:
        keys = np.array([hashlib.sha256(salt + example.digest()).digest() for example in examples], "S32")
        order = np.argsort(keys, kind="stable")
        starts = np.flatnonzero(np.r_[True, keys[order][1:] != keys[order][:-1]])
        left = count
        for start, size in zip(starts.tolist(), np.diff(np.r_[starts, len(order)]).tolist(), strict=True):
            if size <= left:
                held_out[order[start : start + size]] = True
                left -= size
            if left == 0:
                break
    return Split(examples.select(np.flatnonzero(~held_out)), examples.select(np.flatnonzero(held_out)))

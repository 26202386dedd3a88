"""Rows that repeat an earlier one, found among any number of rows in bounded memory. What a row is, others decide."""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass

_KEPT_ROWS = 6_000_000
_LINE_BITS = 40


@dataclass(frozen=True, slots=True)
class Place:
    """`file` counts from 0 in the order of reading, `line` from 1."""

    file: int
    line: int


@dataclass(frozen=True, slots=True)
class Repetition:
    """A row that says what an earlier one says."""

    row: Place
    earlier: Place


class Repeats:
    """Takes rows one by one; 16 bytes are kept of each, up to `kept_rows` of them.

    Beyond that, half of all contents are given up, again and again: which half is decided by a content's hash, so that
    equal rows are kept or given up together, and the count scaled up is an estimate without bias.
    """

    def __init__(self, kept_rows: int = _KEPT_ROWS) -> None:
        self._kept_rows = kept_rows
        self._hashes = array("Q")
        self._places = array("Q")
        self._given_up = 0  # a mask: contents whose hash has one of these bits are not looked at

    @property
    def is_exact(self) -> bool:
        return self._given_up == 0

    def add(self, content: bytes, place: Place) -> None:
        digest = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
        if digest & self._given_up:
            return
        self._hashes.append(digest)
        self._places.append(place.file << _LINE_BITS | place.line)
        if len(self._hashes) > self._kept_rows:
            self._thin_out()

    def count(self, shown: int) -> tuple[int, list[Repetition]]:
        """How many rows repeat an earlier one, and the first `shown` of those that were found, in order."""
        import pyarrow as pa
        import pyarrow.compute as pc

        rows = len(self._hashes)
        if rows < 2:
            return 0, []
        hashes = pa.UInt64Array.from_buffers(pa.uint64(), rows, [None, pa.py_buffer(self._hashes)])
        order = pc.array_sort_indices(hashes)  # stable: of equal rows the earliest comes first
        ordered = hashes.take(order)
        repeats = order[1:].filter(pc.equal(ordered[1:], ordered[:-1]))
        first = repeats.take(pc.select_k_unstable(repeats, shown, [("", "ascending")])).to_pylist()
        found = [Repetition(self._place(row), self._place(pc.index(hashes, hashes[row]).as_py())) for row in first]
        return len(repeats) * (self._given_up + 1), found

    def _place(self, row: int) -> Place:
        packed = self._places[row]
        return Place(packed >> _LINE_BITS, packed & ((1 << _LINE_BITS) - 1))

    def _thin_out(self) -> None:
        self._given_up = self._given_up << 1 | 1
        kept = array("Q"), array("Q")
        for digest, place in zip(self._hashes, self._places, strict=True):
            if not digest & self._given_up:
                kept[0].append(digest)
                kept[1].append(place)
        self._hashes, self._places = kept

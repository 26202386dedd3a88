"""Rows -> batches: the seeded order of an epoch, its cut into micro-batches, and how a micro-batch lies in memory.

An epoch is cut into *global batches*, one per optimizer step; a global batch into micro-batches, shared out over the
ranks. Which rows share a step depends on the seed, the epoch and the global batch size alone: neither the micro-batch
nor the number of processes, neither padding nor packing changes what is learned.

A micro-batch is either *padded*, (rows, longest), or *packed*: one row of all its documents, one after the other,
without padding. Whether a model may be packed is not decided here: see `kaito.tuning.packing`.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from kaito.tuning.data import Example

IGNORED = -100  # the label of a position that is not trained: torch's convention
NO_ROW = -1  # an index that stands for an empty row: fills up a rank's share of an epoch's last, short batch
NOTHING = Example(np.zeros(1, dtype=np.int32), np.zeros(1, dtype=np.bool_))  # what it stands for
MEASURED_STEPS = 256  # enough to tell how much of the padded batches is padding
WINDOW = 8  # global batches that are sorted by length together: less padding, and still a different mix each epoch


class EpochBatches(Sampler[list[list[int]]]):
    """One item an optimizer step: the micro-batches, as row indices, that one rank makes of it. Set `epoch` first.

    `batch`: rows of a step over all ranks. `micro`: rows of a padded micro-batch at most; a packed one holds at most
    as many tokens as the largest padded one, `micro` times the longest row. `by_length`: draw rows of like length
    together.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        batch: int,
        micro: int,
        seed: int,
        shuffle: bool = True,
        by_length: bool = True,
        packed: bool = False,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.packed = packed
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.batch, self.micro, self.seed = batch, micro, seed
        self.shuffle, self.by_length = shuffle, by_length
        self.rank, self.ranks = rank, ranks
        self.epoch = 0

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __iter__(self) -> Iterator[list[list[int]]]:
        for rows in self.steps():
            pieces = self._by_tokens(rows) if self.packed else self._by_rows(rows)
            yield [piece or [NO_ROW] for piece in pieces[self.rank :: self.ranks]]

    def work(self) -> tuple[int, int]:
        """Positions computed, and forward passes, of all ranks in (the first steps of) this epoch."""
        cut = self._by_tokens if self.packed else self._by_rows
        pieces = [piece for rows in self.steps()[:MEASURED_STEPS] for piece in cut(rows) if piece]
        positions = sum(
            int(self.lengths[piece].sum() if self.packed else self.lengths[piece].max() * len(piece))
            for piece in pieces
        )
        return positions, len(pieces)

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.lengths) // self.batch)

    def steps(self) -> list[np.ndarray]:
        """The rows of each optimizer step of this epoch, shortest first within a step."""
        order = self._order()
        cuts = np.arange(self.batch, len(order), self.batch)
        return [rows[np.argsort(self.lengths[rows], kind="stable")] for rows in np.split(order, cuts)]

    def _order(self) -> np.ndarray:
        if not self.shuffle:
            return np.arange(len(self.lengths))
        random = np.random.Generator(np.random.PCG64([self.seed, self.epoch]))
        order = random.permutation(len(self.lengths))
        whole = len(order) - len(order) % self.batch
        batches = []
        if not self.by_length or not whole:
            return order
        for window in np.split(order[:whole], np.arange(self.batch * WINDOW, whole, self.batch * WINDOW)):
            sorted_window = window[np.argsort(self.lengths[window], kind="stable")]
            batches.extend(np.split(sorted_window, len(sorted_window) // self.batch))
        shuffled = [batches[index] for index in random.permutation(len(batches))]
        return np.concatenate([*shuffled, order[whole:]])  # the short batch stays last: ranks must agree on its size

    def _by_rows(self, rows: np.ndarray) -> list[list[int]]:
        """Micro-batches over all ranks, as many on each: at most `micro` rows in each, of like length."""
        count = -(-len(rows) // (self.micro * self.ranks)) * self.ranks
        return [piece.tolist() for piece in np.array_split(rows, count)]

    def _by_tokens(self, rows: np.ndarray) -> list[list[int]]:
        """Micro-batches over all ranks, as many on each, as few and as equal in tokens as the memory allows."""
        budget = self.micro * int(self.lengths.max())
        pieces = cut_by_tokens(self.lengths[rows].tolist(), budget, multiple=self.ranks)
        return [rows[piece].tolist() for piece in pieces]


def cut_by_tokens(lengths: Sequence[int], budget: int, *, multiple: int = 1) -> list[list[int]]:
    """Indices of `lengths` in pieces of at most `budget` tokens, or of a single row; their number is a `multiple`.

    The longest row first, each into the piece that has the fewest tokens: pieces that are equal need equal time, so
    no rank waits for another. One piece more (per rank) wherever that does not fit.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    least = min(len(lengths), -(-sum(lengths) // budget))
    count = -(-least // multiple) * multiple
    while True:
        pieces: list[list[int]] = [[] for _ in range(count)]
        fills = [(0, piece) for piece in range(count)]
        for index in order:
            tokens, piece = heapq.heappop(fills)
            pieces[piece].append(index)
            heapq.heappush(fills, (tokens + lengths[index], piece))
        if max(fills)[0] <= budget or count >= len(lengths):
            return [sorted(piece) for piece in pieces]
        count += multiple


def order_digest(examples: Sequence[Example], batches: EpochBatches) -> str:
    """`sha256:…` over the rows' tokens in the order in which the first epoch takes them."""
    digest = hashlib.sha256()
    for rows in batches.steps():
        for index in rows:
            digest.update(examples[index].digest())
    return "sha256:" + digest.hexdigest()


class Rows(torch.utils.data.Dataset[list[Example]]):
    """The examples as a dataset of micro-batches; `NO_ROW` gives a row of one token of which nothing is learned."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, indices: Sequence[int]) -> list[Example]:
        return [NOTHING if index == NO_ROW else self.examples[index] for index in indices]


def collate(examples: Sequence[Example], pad_token_id: int) -> dict[str, Any]:
    """Examples -> one padded batch, on the right to the longest.

    `input_ids`, `attention_mask`, `labels`: (rows, tokens); labels are decided by position, never by token id, so that
    a pad token that is also the end-of-turn token is learned where it ends a turn. `kept`: (k), the positions whose
    next token is trained in any row: only there are logits needed.
    """
    longest = max(len(example.input_ids) for example in examples)
    input_ids = torch.full((len(examples), longest), pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros((len(examples), longest), dtype=torch.long)
    labels = torch.full((len(examples), longest), IGNORED, dtype=torch.long)
    for row, example in enumerate(examples):
        length = len(example.input_ids)
        tokens = torch.from_numpy(example.input_ids.astype(np.int64))
        input_ids[row, :length] = tokens
        attention_mask[row, :length] = 1
        labels[row, :length] = torch.where(torch.from_numpy(example.trained), tokens, IGNORED)
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels, "kept": _kept(labels)}


def flatten(examples: Sequence[Example]) -> dict[str, Any]:
    """Examples -> one packed batch: `input_ids`, `position_ids`, `labels` (1, tokens of all), `kept` as in `collate`.

    `position_ids` begin anew at each document. `bounds`: where each document begins, and the end of the last, on the
    host; `cu_seqlens`: the same as int32, where the model is. The first label of a document is not trained: the
    document before it must not be asked for it.
    """
    lengths = [len(example.input_ids) for example in examples]
    bounds = [0, *np.cumsum(lengths).tolist()]
    input_ids = torch.from_numpy(np.concatenate([example.input_ids for example in examples]).astype(np.int64))
    trained = torch.from_numpy(np.concatenate([example.trained for example in examples]))
    labels = torch.where(trained, input_ids, IGNORED)
    labels[bounds[:-1]] = IGNORED
    return {
        "input_ids": input_ids[None],
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "labels": labels[None],
        "kept": _kept(labels[None]),
        "bounds": tuple(bounds),
        "cu_seqlens": torch.tensor(bounds, dtype=torch.int32),
    }


def _kept(labels: torch.Tensor) -> torch.Tensor:
    kept = (labels[:, 1:] != IGNORED).any(dim=0).nonzero().flatten()
    return kept if len(kept) else torch.zeros(1, dtype=torch.long)


def build_batch(examples: Sequence[Example], *, packed: bool, pad_token_id: int) -> dict[str, Any]:
    return flatten(examples) if packed else collate(examples, pad_token_id)


def trained_tokens(batch: Mapping[str, Any]) -> int:
    """Labels of a batch that count in the loss. The first token of a row is never predicted."""
    return int((batch["labels"][:, 1:] != IGNORED).sum())


def seen_tokens(batch: Mapping[str, Any]) -> int:
    """Tokens of a batch without its padding."""
    return int(batch["attention_mask"].sum()) if "attention_mask" in batch else batch["input_ids"].numel()

"""Rows -> batches: the seeded order of an epoch, and the collator. Packing would go here; there is none yet.

An epoch is cut into *global batches*, one per optimizer step; a global batch into micro-batches, the same number on
every rank. Which rows share a step depends on the seed, the epoch and the global batch size alone: neither the
micro-batch nor the number of processes changes what is learned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler

from kaito.tuning.data import Example

IGNORED = -100  # the label of a position that is not trained: torch's convention
NO_ROW = -1  # an index that stands for an empty row: fills up a rank's share of an epoch's last, short batch
WINDOW = 8  # global batches that are sorted by length together: less padding, and still a different mix each epoch


class EpochBatches(Sampler[list[int]]):
    """Micro-batches of row indices for one rank, in order. Set `epoch` before iterating.

    `batch`: rows of one optimizer step over all ranks; `micro`: rows of a micro-batch at most. `by_length`: draw rows
    of like length together.
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
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.batch, self.micro, self.seed = batch, micro, seed
        self.shuffle, self.by_length = shuffle, by_length
        self.rank, self.ranks = rank, ranks
        self.epoch = 0

    def __len__(self) -> int:
        full, rest = divmod(len(self.lengths), self.batch)
        return (full * self._pieces(self.batch) + self._pieces(rest)) // self.ranks

    def __iter__(self) -> Iterator[list[int]]:
        for rows in self.steps():
            pieces = np.array_split(rows, self._pieces(len(rows)))
            for piece in pieces[self.rank :: self.ranks]:
                yield piece.tolist() or [NO_ROW]

    @property
    def accumulation(self) -> int:
        """Micro-batches that a rank makes of a whole step."""
        return self._pieces(self.batch) // self.ranks

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

    def _pieces(self, rows: int) -> int:
        """Micro-batches over all ranks that `rows` of one step make: as many on each rank."""
        return -(-rows // (self.micro * self.ranks)) * self.ranks


def order_digest(examples: Sequence[Example], batches: EpochBatches) -> str:
    """`sha256:…` over the rows' tokens in the order in which the first epoch takes them."""
    digest = hashlib.sha256()
    for rows in batches.steps():
        for index in rows:
            digest.update(examples[index].digest())
    return "sha256:" + digest.hexdigest()


class Rows(torch.utils.data.Dataset[Example]):
    """The examples as a dataset; `NO_ROW` gives a row of one token of which nothing is learned."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        if index == NO_ROW:
            return Example(np.zeros(1, dtype=np.int32), np.zeros(1, dtype=np.bool_))
        return self.examples[index]


def collate(examples: Sequence[Example], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Examples -> one batch, padded on the right to the longest.

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
    kept = (labels[:, 1:] != IGNORED).any(dim=0).nonzero().flatten()
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "labels": labels,
        "kept": kept if len(kept) else torch.zeros(1, dtype=torch.long),
    }


def trained_tokens(batch: dict[str, torch.Tensor]) -> int:
    """Labels of a batch that count in the loss. The first token of a row is never predicted."""
    return int((batch["labels"][:, 1:] != IGNORED).sum())

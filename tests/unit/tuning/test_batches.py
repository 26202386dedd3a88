from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from kaito.tuning.batches import IGNORED, NO_ROW, EpochBatches, Rows, collate, order_digest, trained_tokens
from kaito.tuning.data import Example


def example(ids: list[int], trained: list[int]) -> Example:
    return Example(np.array(ids, np.int32), np.array(trained, np.bool_))


def steps_of(batches: list[EpochBatches]) -> list[set[int]]:
    """The rows of each optimizer step, put together again from the micro-batches of all ranks."""
    ranks = [list(rank) for rank in batches]
    accumulation = batches[0].accumulation
    steps = []
    for start in range(0, len(ranks[0]), accumulation):
        pieces = [row for rank in ranks for piece in rank[start : start + accumulation] for row in piece]
        steps.append(set(pieces) - {NO_ROW})
    return steps


@given(
    rows=st.integers(1, 90),
    batch=st.integers(1, 24),
    micro=st.integers(1, 9),
    ranks=st.integers(1, 3),
    shuffle=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_every_row_is_drawn_once_an_epoch_and_ranks_run_in_step(
    rows: int, batch: int, micro: int, ranks: int, shuffle: bool, epoch: int
) -> None:
    lengths = [(index * 37) % 50 + 1 for index in range(rows)]
    made = [
        EpochBatches(lengths, batch=batch, micro=micro, seed=1, shuffle=shuffle, rank=rank, ranks=ranks)
        for rank in range(ranks)
    ]
    for one in made:
        one.epoch = epoch
    drawn = [list(one) for one in made]
    assert len({len(pieces) for pieces in drawn}) == 1
    assert all(len(pieces) == len(one) for pieces, one in zip(drawn, made, strict=True))
    assert sorted(row for pieces in drawn for piece in pieces for row in piece if row != NO_ROW) == list(range(rows))
    assert all(1 <= len(piece) <= micro for pieces in drawn for piece in pieces)
    assert -(-len(made[0]) // made[0].accumulation) == made[0].steps_per_epoch == -(-rows // batch)


def test_the_rows_of_a_step_depend_neither_on_the_micro_batch_nor_on_the_number_of_processes() -> None:
    lengths = [(index * 7) % 13 + 1 for index in range(50)]
    expected = steps_of([EpochBatches(lengths, batch=8, micro=8, seed=5)])
    assert steps_of([EpochBatches(lengths, batch=8, micro=3, seed=5)]) == expected
    two = [EpochBatches(lengths, batch=8, micro=2, seed=5, rank=rank, ranks=2) for rank in range(2)]
    assert steps_of(two) == expected


def test_epochs_and_seeds_draw_other_orders_and_the_same_seed_the_same() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        batches = EpochBatches([3] * 40, batch=4, micro=4, seed=seed)
        batches.epoch = epoch
        return list(batches)

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


def test_rows_of_like_length_are_drawn_together() -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(1, 500, size=512)

    def padding(by_length: bool) -> int:
        batches = EpochBatches(lengths.tolist(), batch=8, micro=8, seed=1, by_length=by_length)
        return sum(int(lengths[piece].max() * len(piece) - lengths[piece].sum()) for piece in batches)

    assert padding(True) < padding(False) / 3


def test_without_shuffling_rows_come_as_they_lie_in_the_files() -> None:
    assert EpochBatches([1] * 6, batch=4, micro=2, seed=1, shuffle=False).epoch == 0
    assert list(EpochBatches([1] * 6, batch=4, micro=2, seed=1, shuffle=False)) == [[0, 1], [2, 3], [4, 5]]


def test_labels_are_decided_by_position_never_by_the_id_of_the_pad_token() -> None:
    pad = end = 9
    batch = collate([example([1, 2, 3, end], [0, 0, 1, 1]), example([1, end], [0, 1])], pad)
    assert batch["labels"].tolist() == [[IGNORED, IGNORED, 3, end], [IGNORED, end, IGNORED, IGNORED]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["input_ids"].tolist() == [[1, 2, 3, end], [1, end, pad, pad]]
    assert batch["kept"].tolist() == [0, 1, 2]
    assert trained_tokens(batch) == 3


def test_a_first_token_is_never_predicted_and_counts_for_nothing() -> None:
    assert trained_tokens(collate([example([4, 5], [1, 1])], 0)) == 1


def test_an_empty_row_teaches_nothing() -> None:
    batch = collate([Rows([])[NO_ROW]], 0)
    assert trained_tokens(batch) == 0
    assert batch["kept"].tolist() == [0]
    assert batch["input_ids"].dtype == torch.long


def test_the_order_digest_tells_orders_and_rows_apart() -> None:
    rows = [example([index, index + 1], [0, 1]) for index in range(8)]
    batches = EpochBatches([2] * 8, batch=4, micro=4, seed=1)
    assert order_digest(rows, batches) == order_digest(rows, EpochBatches([2] * 8, batch=4, micro=2, seed=1))
    assert order_digest(rows, batches) != order_digest(rows[::-1], batches)
    assert order_digest(rows, batches) != order_digest(rows, EpochBatches([2] * 8, batch=4, micro=4, seed=2))


def test_an_epoch_shorter_than_a_step_is_one_step() -> None:
    assert list(EpochBatches([1], batch=4, micro=2, seed=0)) == [[0]]

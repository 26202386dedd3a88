from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from kaito.tuning.batches import (
    IGNORED,
    NO_ROW,
    EpochBatches,
    Rows,
    collate,
    cut_by_tokens,
    flatten,
    order_digest,
    seen_tokens,
    trained_tokens,
)
from kaito.tuning.data import Example


def example(ids: list[int], trained: list[int]) -> Example:
    return Example(np.array(ids, np.int32), np.array(trained, np.bool_))


def steps_of(ranks: list[EpochBatches]) -> list[set[int]]:
    """The rows of each optimizer step, put together again from the micro-batches of all ranks."""
    return [
        {row for pieces in step for piece in pieces for row in piece} - {NO_ROW} for step in zip(*ranks, strict=True)
    ]


@given(
    rows=st.integers(1, 90),
    batch=st.integers(1, 24),
    micro=st.integers(1, 9),
    ranks=st.integers(1, 3),
    shuffle=st.booleans(),
    packed=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_every_row_is_drawn_once_an_epoch_and_ranks_run_in_step(
    rows: int, batch: int, micro: int, ranks: int, shuffle: bool, packed: bool, epoch: int
) -> None:
    lengths = [(index * 37) % 50 + 1 for index in range(rows)]
    made = [
        EpochBatches(lengths, batch=batch, micro=micro, seed=1, shuffle=shuffle, packed=packed, rank=rank, ranks=ranks)
        for rank in range(ranks)
    ]
    for one in made:
        one.epoch = epoch
    drawn = [list(one) for one in made]
    assert {len(steps) for steps in drawn} == {-(-rows // batch)} == {len(one) for one in made}
    for step in zip(*drawn, strict=True):
        assert len({len(pieces) for pieces in step}) == 1
    pieces = [piece for steps in drawn for step in steps for piece in step]
    assert sorted(row for piece in pieces for row in piece if row != NO_ROW) == list(range(rows))
    if packed:
        assert all(sum(lengths[row] for row in piece if row != NO_ROW) <= micro * max(lengths) for piece in pieces)
    else:
        assert all(1 <= len(piece) <= micro for piece in pieces)


def test_the_rows_of_a_step_depend_neither_on_the_micro_batch_nor_on_processes_nor_on_packing() -> None:
    lengths = [(index * 7) % 13 + 1 for index in range(50)]
    expected = steps_of([EpochBatches(lengths, batch=8, micro=8, seed=5)])
    assert steps_of([EpochBatches(lengths, batch=8, micro=3, seed=5)]) == expected
    for packed in (False, True):
        two = [EpochBatches(lengths, batch=8, micro=2, seed=5, packed=packed, rank=rank, ranks=2) for rank in range(2)]
        assert steps_of(two) == expected


@given(
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=40),
    budget=st.integers(400, 2000),
    multiple=st.integers(1, 4),
)
def test_rows_are_cut_into_few_pieces_within_the_budget(lengths: list[int], budget: int, multiple: int) -> None:
    pieces = cut_by_tokens(lengths, budget, multiple=multiple)
    assert sorted(index for piece in pieces for index in piece) == list(range(len(lengths)))
    fills = [sum(lengths[index] for index in piece) for piece in pieces]
    assert max(fills) <= budget
    assert len(pieces) % multiple == 0
    needed = -(-sum(lengths) // budget)
    assert len(pieces) <= 2 * needed + multiple  # two pieces that are at most half full would have been one
    assert pieces == cut_by_tokens(lengths, budget, multiple=multiple)


def test_packed_rows_of_very_different_length_need_fewer_forwards_and_none_is_much_fuller_than_another() -> None:
    lengths = [1000, 990, 30, 40, 500, 60, 70, 80, 90, 100, 410, 120]
    pieces = cut_by_tokens(lengths, 1000, multiple=2)
    fills = [sum(lengths[index] for index in piece) for piece in pieces]
    assert len(pieces) == 4
    assert sorted(fills)[-1] == 1000
    assert len(next(iter(EpochBatches(lengths, batch=12, micro=1, seed=0, packed=True)))) == 4
    assert len(next(iter(EpochBatches(lengths, batch=12, micro=1, seed=0)))) == 12


def test_epochs_and_seeds_draw_other_orders_and_the_same_seed_the_same() -> None:
    def order(seed: int, epoch: int) -> list[list[list[int]]]:
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
        return sum(int(lengths[piece].max() * len(piece) - lengths[piece].sum()) for step in batches for piece in step)

    assert padding(True) < padding(False) / 3


def test_without_shuffling_rows_come_as_they_lie_in_the_files() -> None:
    assert list(EpochBatches([1] * 6, batch=4, micro=2, seed=1, shuffle=False)) == [[[0, 1], [2, 3]], [[4, 5]]]


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
    for batch in (collate(Rows([])[[NO_ROW]], 0), flatten(Rows([])[[NO_ROW]])):
        assert trained_tokens(batch) == 0
        assert batch["kept"].tolist() == [0]
        assert batch["input_ids"].dtype == torch.long


def test_packed_rows_lie_one_after_the_other_and_no_row_is_asked_for_the_next_ones_first_token() -> None:
    rows = [example([1, 2, 3], [0, 1, 1]), example([4, 5], [1, 1]), example([6], [1])]
    batch = flatten(rows)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0]]
    assert batch["labels"].tolist() == [[IGNORED, 2, 3, IGNORED, 5, IGNORED]]
    assert batch["kept"].tolist() == [0, 1, 3]
    assert batch["bounds"] == (0, 3, 5, 6)
    assert batch["cu_seqlens"].tolist() == [0, 3, 5, 6]
    assert "attention_mask" not in batch  # with one, transformers looks for no documents
    padded = collate(rows, 0)
    assert trained_tokens(batch) == trained_tokens(padded) == 3
    assert seen_tokens(batch) == seen_tokens(padded) == 6


def test_the_order_digest_tells_orders_and_rows_apart() -> None:
    rows = [example([index, index + 1], [0, 1]) for index in range(8)]
    batches = EpochBatches([2] * 8, batch=4, micro=4, seed=1)
    assert order_digest(rows, batches) == order_digest(rows, EpochBatches([2] * 8, batch=4, micro=2, seed=1))
    assert order_digest(rows, batches) != order_digest(rows[::-1], batches)
    assert order_digest(rows, batches) != order_digest(rows, EpochBatches([2] * 8, batch=4, micro=4, seed=2))


def test_an_epoch_shorter_than_a_step_is_one_step() -> None:
    assert list(EpochBatches([1], batch=4, micro=2, seed=0)) == [[[0]]]


def test_the_work_that_packing_spares_is_the_padding_and_the_forwards_that_are_not_full() -> None:
    def work(lengths: list[int], micro: int, packed: bool) -> tuple[int, int]:
        return EpochBatches(lengths, batch=4, micro=micro, seed=0, packed=packed).work()

    uneven = [10, 20, 30, 100]
    assert work(uneven, 4, packed=False) == (400, 1)
    assert work(uneven, 4, packed=True) == (160, 1)
    assert work(uneven, 1, packed=False) == (160, 4)
    assert work(uneven, 1, packed=True) == (160, 2)
    assert work([50] * 8, 4, packed=False) == work([50] * 8, 4, packed=True) == (400, 2)

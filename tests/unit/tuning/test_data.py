from __future__ import annotations

import numpy as np
import pytest

from kaito.api.training_rules import held_out_rows
from kaito.tuning.data import Examples, split_rows


def rows(*firsts: int) -> Examples:
    """A row of two tokens for each: that number, and a 1 that is trained."""
    input_ids = np.array([token for first in firsts for token in (first, 1)], np.int32)
    return Examples(input_ids, np.tile([False, True], len(firsts)), np.arange(2, 2 * len(firsts) + 1, 2))


def tokens(examples: Examples) -> set[int]:
    return {int(example.input_ids[0]) for example in examples}


def test_rows_are_views_into_one_array_in_the_order_that_was_chosen() -> None:
    examples = Examples(np.arange(6, dtype=np.int32), np.arange(6) % 2 == 1, np.array([1, 3, 6]))
    assert [example.input_ids.tolist() for example in examples] == [[0], [1, 2], [3, 4, 5]]
    assert [example.trained.tolist() for example in examples] == [[False], [True, False], [True, False, True]]
    chosen = examples.select(np.array([2, 0]))
    assert [example.input_ids.tolist() for example in chosen] == [[3, 4, 5], [0]]
    assert [example.input_ids.tolist() for example in chosen[1:]] == [[0]]
    assert chosen[0].input_ids.base is examples.input_ids
    assert len(examples[-1].input_ids) == 3
    with pytest.raises(IndexError):
        chosen[2]


@pytest.mark.parametrize(
    ("count", "share", "expected"),
    [
        (1000, None, 50),
        (20_000, None, 500),
        (20_000, 0.95, 500),
        (20_000, 0.8, 4000),
        (19, None, 0),
        (20, None, 1),
        (1000, 1.0, 0),
        (20, 0.001, 19),
    ],
)
def test_how_many_rows_are_held_out(count: int, share: float | None, expected: int) -> None:
    assert held_out_rows(count, share) == expected


def test_the_split_is_the_same_whatever_the_order_of_the_rows() -> None:
    one = split_rows(rows(*range(200)), train_share=0.9, seed=4)
    other = split_rows(rows(*reversed(range(200))), train_share=0.9, seed=4)
    assert tokens(one.held_out) == tokens(other.held_out)
    assert len(one.held_out) == 20
    assert tokens(one.train) | tokens(one.held_out) == set(range(200))
    assert tokens(split_rows(rows(*range(200)), train_share=0.9, seed=5).held_out) != tokens(one.held_out)


def test_a_row_that_is_evaluated_is_never_also_trained() -> None:
    split = split_rows(rows(*range(60), *range(60)), train_share=0.9, seed=1)
    assert len(split.held_out) == 12
    assert len(split.held_out) + len(split.train) == 120
    assert not tokens(split.train) & tokens(split.held_out)


def test_a_row_that_is_repeated_more_often_than_rows_are_held_out_is_trained() -> None:
    split = split_rows(rows(*[7] * 50, *range(10, 60)), train_share=0.9, seed=1)
    assert len(split.held_out) == 10
    assert 7 in tokens(split.train)
    assert 7 not in tokens(split.held_out)

"""Rows that repeat an earlier one: counted exactly while there is room, and estimated without bias beyond it."""

from __future__ import annotations

from kaito.datasets.repeats import Place, Repeats, Repetition


def repeats_of(contents: list[str], kept_rows: int = 1000) -> Repeats:
    repeats = Repeats(kept_rows)
    for line, content in enumerate(contents, start=1):
        repeats.add(content.encode(), Place(0, line))
    return repeats


def test_every_row_that_repeats_an_earlier_one_is_counted_and_the_first_are_named() -> None:
    repeats = repeats_of(["a", "b", "c", "b", "a", "b", "d"])
    count, found = repeats.count(2)
    assert (count, repeats.is_exact) == (3, True)
    assert found == [Repetition(Place(0, 4), Place(0, 2)), Repetition(Place(0, 5), Place(0, 1))]


def test_a_place_keeps_its_file_and_its_line() -> None:
    repeats = Repeats()
    repeats.add(b"x", Place(3, 5_000_000_000))
    repeats.add(b"x", Place(70_000, 1))
    assert repeats.count(1) == (1, [Repetition(Place(70_000, 1), Place(3, 5_000_000_000))])


def test_none_are_found_where_there_are_none() -> None:
    assert repeats_of([]).count(3) == (0, [])
    assert repeats_of(["a"]).count(3) == (0, [])
    assert repeats_of(["a", "b", "c"]).count(3) == (0, [])


def test_more_rows_than_are_kept_give_an_estimate_that_names_real_repetitions() -> None:
    contents = [str(number % 10_000) for number in range(20_000)]
    repeats = repeats_of(contents, kept_rows=4000)
    count, found = repeats.count(3)
    assert not repeats.is_exact
    assert 9000 < count < 11_000
    assert all(contents[one.row.line - 1] == contents[one.earlier.line - 1] for one in found)
    assert all(one.row.line == one.earlier.line + 10_000 for one in found)

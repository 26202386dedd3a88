from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kaito.api.training import TrainingConfig
from kaito.failure import DataFailure
from kaito.tuning.data import Example, held_out_rows, load_examples, split_rows


def rows(count: int, start: int = 0) -> list[Example]:
    return [
        Example(np.array([index, 1], np.int32), np.array([0, 1], np.bool_)) for index in range(start, start + count)
    ]


def tokens(examples: tuple[Example, ...]) -> set[int]:
    return {int(example.input_ids[0]) for example in examples}


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
    one = split_rows(rows(200), train_share=0.9, seed=4)
    other = split_rows(rows(200)[::-1], train_share=0.9, seed=4)
    assert tokens(one.held_out) == tokens(other.held_out)
    assert len(one.held_out) == 20
    assert tokens(one.train) | tokens(one.held_out) == set(range(200))
    assert tokens(split_rows(rows(200), train_share=0.9, seed=5).held_out) != tokens(one.held_out)


def test_a_row_that_is_evaluated_is_never_also_trained() -> None:
    split = split_rows(rows(60) + rows(60), train_share=0.9, seed=1)
    assert split.held_out
    assert not tokens(split.train) & tokens(split.held_out)


def test_the_answer_and_its_end_are_trained_and_nothing_else(llama: Path, data: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(llama / "tokenizer.json"))
    loaded = load_examples(data, llama, TrainingConfig())
    assert len(loaded.examples) == 40
    for example in loaded.examples:
        trained = example.input_ids[example.trained].tolist()
        assert trained[-1] == tokenizer.token_to_id("<|end|>")
        answer = tokenizer.decode(trained[:-1])
        assert answer.startswith("the ")
        assert " is in the " in answer
        assert "where" not in answer
    assert loaded.chat_template is not None
    assert "40 rows in 1 files" in loaded.summary


def test_a_bad_row_is_named_by_file_and_line(llama: Path, tmp_path: Path) -> None:
    good = json.dumps({"prompt": "a", "completion": "b"})
    (tmp_path / "rows.jsonl").write_text(good + "\n" + json.dumps({"prompt": "a"}) + "\n")
    with pytest.raises(DataFailure, match=r"rows\.jsonl:2"):
        load_examples(tmp_path, llama, TrainingConfig())


def test_rows_whose_answer_is_cut_off_are_left_out_and_counted(llama: Path, data: Path) -> None:
    config = TrainingConfig.model_validate({"TrainingArguments": {"max_length": 20}})
    loaded = load_examples(data, llama, config)
    assert 0 < len(loaded.examples) < 40
    assert f"{40 - len(loaded.examples)} left without an answer" in loaded.summary
    with pytest.raises(DataFailure, match="none of the 40 rows"):
        load_examples(data, llama, TrainingConfig.model_validate({"TrainingArguments": {"max_length": 4}}))

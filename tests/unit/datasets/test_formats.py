"""Rows by their columns: each format is recognised and named, everything else is refused with what would help."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from kaito.api.sections import COLUMNS
from kaito.datasets.columns import Columns
from kaito.datasets.formats import Chat, Completion, Instruction, Text, parse_row
from kaito.datasets.layouts import CONVERSATIONS, STANDARD
from kaito.datasets.rows import RowError
from tests.unit.datasets.any_rows import CELLS, JSON, NAMES

TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
SHAREGPT = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
PAIR = {"prompt": "p", "completion": "c"}
ALPACA = {"instruction": "i", "input": "n", "output": "o"}
SYSTEM = {"role": "system", "content": "s"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"messages": TURNS, "id": 3}, Chat("messages", TURNS, (1,))),
        ({"conversations": TURNS}, Chat("messages", TURNS, (1,))),
        ({"conversation": TURNS, "messages": None}, Chat("messages", TURNS, (1,))),
        ({"messages": json.dumps(TURNS)}, Chat("messages", TURNS, (1,))),
        ({"messages": TURNS, "system": "s"}, Chat("messages", [SYSTEM, *TURNS], (2,))),
        ({"conversations": SHAREGPT}, Chat("sharegpt", TURNS, (1,))),
        ({"conversations": json.dumps(SHAREGPT), "system": ""}, Chat("sharegpt", TURNS, (1,))),
        ({"messages": SHAREGPT}, Chat("sharegpt", TURNS, (1,))),
        ({"conversations": [{"from": "system", "value": "s"}, *SHAREGPT]}, Chat("sharegpt", [SYSTEM, *TURNS], (2,))),
        (PAIR, Completion("prompt-completion", "p", "c")),
        ({"prompt": "p", "response": "c", "context": " "}, Completion("prompt-completion", "p", "c")),
        ({"messages": None, "text": "", **PAIR}, Completion("prompt-completion", "p", "c")),
        ({"prompt": TURNS[:1], "completion": TURNS[1:]}, Chat("prompt-completion", TURNS, (1,))),
        (ALPACA, Instruction("alpaca", "i", "o", "n")),
        ({**ALPACA, "input": ""}, Instruction("alpaca", "i", "o")),
        ({"instruction": "i", "output": "o", "system": "s"}, Instruction("alpaca", "i", "o", "", "s")),
        (
            {"instruction": "i", "context": "n", "response": "o", "category": "qa"},
            Instruction("instruction-response", "i", "o", "n"),
        ),
        ({"instruction": "i", "completion": "o"}, Instruction("instruction-response", "i", "o")),
        ({"context": "i", "response": "o"}, Instruction("context-response", "i", "o")),
        ({"text": "t", "label": 1}, Text("text", "t")),
    ],
)
def test_each_format_is_recognised_and_named(value: dict[str, Any], expected: object) -> None:
    assert parse_row(value) == expected


@pytest.mark.parametrize(
    ("named", "value", "expected"),
    [
        ({"prompt": "question", "completion": "answer"}, {"question": "p", "answer": "c"}, ("p", "c")),
        ({"prompt": "input", "completion": "output"}, {"input": "p", "output": "c"}, ("p", "c")),
        ({"prompt": "question", "response": "reply"}, {"question": "p", "reply": "c", "text": "x"}, ("p", "c")),
        ({"prompt": "prompt", "completion": "completion"}, {**PAIR, **ALPACA}, ("p", "c")),
        ({"prompt": "prompt", "completion": "chosen"}, {"prompt": "p", "chosen": "c", "rejected": "r"}, ("p", "c")),
        ({"prompt": "completion", "completion": "prompt"}, {"prompt": "c", "completion": "p"}, ("p", "c")),
    ],
)
def test_the_columns_that_the_configuration_names_decide_the_format(
    named: dict[str, str], value: dict[str, Any], expected: tuple[str, str]
) -> None:
    assert parse_row(value, Columns(named)) == Completion("prompt-completion", *expected)


def test_a_mapped_column_is_not_read_as_another_standard_one() -> None:
    mapped = Columns({"instruction": "text", "output": "answer"})
    assert parse_row({"text": "i", "answer": "o"}, mapped) == Instruction("alpaca", "i", "o")
    beside = parse_row(
        {"question": "i", "context": "n", "answer": "o"}, Columns({"instruction": "question", "output": "answer"})
    )
    assert beside == Instruction("alpaca", "i", "o", "n")


def test_parts_of_text_are_joined_and_absent_fields_left_out() -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "q"}]}, {**TURNS[1], "name": None, "tool_calls": []}]
    assert parse_row({"messages": parts}) == Chat("messages", TURNS, (1,))


def test_an_answer_of_weight_0_is_read_and_not_learnt() -> None:
    weighted = [TURNS[0], {**TURNS[1], "weight": 0}, {**TURNS[0], "weight": 1}, {**TURNS[1], "weight": 1.0}]
    assert parse_row({"messages": weighted}) == Chat("messages", TURNS + TURNS, (3,))
    with pytest.raises(RowError, match="every answer has weight 0"):
        parse_row({"messages": weighted[:2]})
    with pytest.raises(RowError, match="neither 0 nor 1"):
        parse_row({"messages": [TURNS[0], {**TURNS[1], "weight": 0.5}]})


@pytest.mark.parametrize("speaker", ["human", "user", "Human"])
@pytest.mark.parametrize("answerer", ["gpt", "assistant", "chatgpt", "bot", "model"])
def test_sharegpts_speakers_are_mapped(speaker: str, answerer: str) -> None:
    row = {"conversations": [{"from": speaker, "value": "q"}, {"from": answerer, "value": "a"}]}
    assert parse_row(row) == Chat("sharegpt", TURNS, (1,))


def test_a_tools_answer_is_a_turn_that_is_read() -> None:
    row = {"conversations": [SHAREGPT[0], {"from": "observation", "value": "42"}, SHAREGPT[1]]}
    parsed = parse_row(row)
    assert isinstance(parsed, Chat)
    assert [message["role"] for message in parsed.messages] == ["user", "tool", "assistant"]


@pytest.mark.parametrize(
    ("value", "column", "said"),
    [
        ({}, "columns", "no columns"),
        ({"label": 1, "n": 2}, "columns", "found 'label', 'n'"),
        ({"prompt": "p"}, "completion", "without 'completion'"),
        ({"prompt": "p", "completion": None}, "completion", "without 'completion'"),
        ({"messages": TURNS, **PAIR}, "columns", "more than one format: messages (messages) and prompt-completion"),
        ({"messages": TURNS, "conversations": TURNS}, "columns", "{messages: messages} or "),
        ({**ALPACA, "text": "t"}, "columns", "{instruction: instruction, output: output} or "),
        ({"prompt": "p", "completion": "c", "response": "r"}, "columns", "more than one format"),
        ({"prompt": "p", "context": "n", "response": "r"}, "columns", "{instruction: prompt, output: response}"),
        ({**PAIR, "system": "s"}, "columns", "to train on all of it"),
        ({"messages": TURNS, "prompt": "q"}, "columns", "'prompt' beside it: to leave that out set"),
        ({**ALPACA, "context": "n"}, "columns", "both 'input' and 'context'"),
        ({"messages": [SYSTEM, *TURNS], "system": "s"}, "system", "a system turn, and a column"),
        ({"prompt": "p", "completion": TURNS}, "completion", "neither both"),
        ({"prompt": "p", "completion": " "}, "completion", "empty"),
        ({"prompt": "p", "completion": "\ud83d"}, "completion", "broken character"),
        ({"instruction": "i", "output": 4}, "output", "a number, not text"),
        ({"instruction": "i", "input": [1], "output": "o"}, "input", "a list, not text"),
        ({"text": {"a": 1}}, "text", "a object, not text"),
        ({"messages": "[]"}, "messages", "no messages"),
        ({"messages": str(TURNS)}, "messages", "a text that is not JSON"),
        ({"messages": '"q"'}, "messages", "a string, not a list"),
        ({"messages": {"role": "user"}}, "messages", "a object, not a list"),
        ({"messages": []}, "messages", "no messages"),
        ({"messages": [*TURNS, "x"]}, "messages[2]", "a string"),
        ({"messages": TURNS[:1]}, "messages", "no assistant turn"),
        ({"prompt": TURNS, "completion": TURNS[:1]}, "completion", "no assistant turn"),
        ({"messages": [{"role": "human", "content": "x"}, *TURNS]}, "messages[0].role", "write 'user'"),
        ({"messages": [{"role": "boss", "content": "x"}, *TURNS]}, "messages[0].role", "unknown role"),
        ({"messages": [{"role": ["user"], "content": "x"}, *TURNS]}, "messages[0].role", "unknown role"),
        ({"messages": [{"content": "x"}, *TURNS]}, "messages[0].role", "no role"),
        ({"messages": [*TURNS, *SHAREGPT]}, "messages[2]", "'from' and 'value' among"),
        ({"conversations": [*SHAREGPT, *TURNS]}, "conversations[2].from", "no 'from'"),
        ({"conversations": [{"from": "boss", "value": "x"}]}, "conversations[0].from", "unknown speaker"),
        ({"conversations": [{"from": "human", "value": None}]}, "conversations[0].value", "no content"),
        (
            {"conversations": [*SHAREGPT, {"from": "function_call", "value": "{}"}]},
            "conversations[2].from",
            "tool calls",
        ),
        ({"messages": [TURNS[0], {"role": "assistant", "content": ""}]}, "messages[1].content", "empty"),
        ({"messages": [TURNS[0], {"role": "assistant"}]}, "messages[1].content", "no content"),
        ({"messages": [TURNS[0], {"role": "assistant", "content": 3}]}, "messages[1].content", "a number"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content", "an image"),
        ({"messages": [{"role": "user", "content": [{"type": ["x"]}]}]}, "messages[0].content", "not text"),
        ({"messages": [*TURNS, {"role": "assistant", "tool_calls": [{}]}]}, "messages[2].tool_calls", "tool calls"),
        ({"messages": TURNS, "tools": [{"name": "f"}]}, "tools", "not read"),
        ({"messages": TURNS, "images": ["x.png"]}, "images", "text alone is"),
        ({"context": "c", "question": "q", "response": "r"}, "columns", "'question' beside them"),
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, "columns", "preference pair"),
        ({"chosen": TURNS, "rejected": TURNS}, "columns", "{messages: chosen}"),
        ({"chosen": "Human: a", "rejected": "Human: b"}, "columns", "{text: chosen}"),
        ({**PAIR, "label": False}, "label", "KTO"),
        ({**PAIR, "label": "True"}, "label", "KTO"),
    ],
)
def test_any_other_row_is_refused_with_column_rule_and_remedy(value: dict[str, Any], column: str, said: str) -> None:
    with pytest.raises(RowError) as refusal:
        parse_row(value)
    assert refusal.value.column == column
    assert said in str(refusal.value)
    assert refusal.value.remedy


def test_a_named_column_that_the_data_have_not_is_told_with_the_nearest() -> None:
    with pytest.raises(RowError, match="did you mean 'question'") as refusal:
        parse_row({"question": "p", "answer": "c"}, Columns({"prompt": "questoin", "completion": "answer"}))
    assert refusal.value.column == "questoin"


@pytest.mark.parametrize(
    ("value", "mapping"),
    [
        ({"question": "x", "answer": "y", "id": 1}, "{instruction: question, output: answer}"),
        ({"query": "x", "reply": "y"}, "{instruction: query, output: reply}"),
        ({"Question": "x", "Answer": "y"}, "{instruction: Question, output: Answer}"),
        ({"input": "x", "output": "y"}, "{instruction: input, output: output}"),
        ({"prompt": "x", "answer": "y"}, "{prompt: prompt, completion: answer}"),
        ({"instruction": "x", "answer": "y"}, "{instruction: instruction, output: answer}"),
        (
            {"context": "z", "question": "x", "answer": "y"},
            "{input: context, instruction: question, output: answer}",
        ),
        ({"instructon": "x", "output": "y"}, "{instruction: instructon, output: output}"),
        ({"mesages": TURNS}, "{messages: mesages}"),
        ({"dialog": TURNS, "id": 1}, "{messages: dialog}"),
        ({"converstions": TURNS}, "{messages: converstions}"),
        ({"content": "x", "url": "y"}, "{text: content}"),
        ({"the question": "x", "answer": "y", "question ": "z"}, '{instruction: "question ", output: answer}'),
    ],
)
def test_columns_of_other_names_are_refused_with_the_mapping_that_works(value: dict[str, Any], mapping: str) -> None:
    with pytest.raises(RowError) as refusal:
        parse_row(value)
    assert f"set tuning.parameters.DatasetConfig.column_mapping: {mapping}" in refusal.value.remedy
    named = YAML(typ="safe").load(mapping)
    assert set(named) <= set(COLUMNS)
    parse_row(value, Columns(named))


@given(st.dictionaries(st.sampled_from(NAMES), st.just("some text"), min_size=1))
def test_every_mapping_that_a_refusal_proposes_makes_the_row_one_of_ours(value: dict[str, Any]) -> None:
    try:
        parse_row(value)
    except RowError as refusal:
        for proposed in re.findall(r"DatasetConfig\.column_mapping: (\{.*?\})", refusal.remedy):
            named = YAML(typ="safe").load(proposed)
            if "messages" not in named:  # which a text is not
                try:
                    parse_row(value, Columns(named))
                except RowError as second:
                    assert "both 'input' and 'context'" in second.rule


@given(
    JSON | st.dictionaries(st.sampled_from(NAMES), CELLS),
    st.dictionaries(st.sampled_from(COLUMNS), st.sampled_from(NAMES)),
)
def test_whatever_a_row_is_it_is_a_format_or_a_refusal(value: Any, named: dict[str, str]) -> None:
    try:
        parsed = parse_row(value, Columns(named))
    except RowError as refusal:
        assert refusal.rule and refusal.column and refusal.remedy
        return
    assert parsed.format


def test_the_api_and_the_reader_know_the_same_columns() -> None:
    assert set(COLUMNS) == set(STANDARD) - (set(CONVERSATIONS) - {"messages"})


@pytest.mark.parametrize("key", ["What is the name of my aunt Mildred?", "x\ud800", "a\x1b[31m\nb", "Mildred" * 6])
def test_a_key_that_is_no_name_is_not_shown(key: str) -> None:
    for row in ({key: "x", "completion": "a"}, {key: "x"}, {key: "x", "question": "q"}):
        with pytest.raises(RowError) as refusal:
            parse_row(row)
        assert not any(word in str(refusal.value) for word in (key, "Mildred", "\x1b", "\ud800"))
        assert "completion" in row or "'…'" in str(refusal.value)

"""What the configuration says of rows is done: columns, loss, templates, and where they are cut, which is at
`max_length` and never beyond what the base model can read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kaito.api.training import TrainingConfig, parse_training_config
from kaito.datasets.preflight import check_data
from kaito.datasets.rows import RowError
from kaito.datasets.settings import build_renderer, read_context
from kaito.failure import ConfigFailure, DataFailure, ModelFailure
from tests.unit.datasets.models import build_model

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("model") / "m", eos="<|end|>", chat_template=TEMPLATE)


@pytest.fixture
def model(tokenizer: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tokenizer, tmp_path / "model"))


def write_config(model: Path, config: Any) -> None:
    (model / "config.json").write_text(json.dumps(config))


def settings(max_length: int | None) -> TrainingConfig:
    return configure(TrainingArguments={} if max_length is None else {"max_length": max_length})


def configure(**sections: dict[str, Any]) -> TrainingConfig:
    config = parse_training_config(json.dumps({"training_config": sections})).config
    assert config is not None
    return config


def write_rows(folder: Path, *rows: tuple[str, str]) -> Path:
    folder.mkdir()
    chats = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in rows]
    (folder / "train.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    return folder


def test_rows_beyond_the_models_context_are_reported_whatever_max_length_allows(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "q " * 650  # 1,300 tokens: 256 hold the half of it, and none of an answer that follows it
    data = write_rows(tmp_path / "data", (long, "an answer"), ("q", long), ("q", "an answer"))
    write_config(model, {"max_position_embeddings": 256})
    result = check_data(data, model, settings(2048))
    assert 1300 <= result["tokens"]["max"] <= 2048
    assert (result["truncated"], result["untrained"]) == (2, 1)
    assert "max_length 2048 is beyond the base model's context: rows are cut at 256 tokens" in capsys.readouterr().err


def test_data_whose_answers_all_lie_beyond_the_context_are_refused(model: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data", ("q " * 650, "an answer"))
    write_config(model, {"max_position_embeddings": 256})
    with pytest.raises(DataFailure, match="nothing would be learnt"):
        check_data(data, model, settings(2048))


@pytest.mark.parametrize(
    ("asked", "context", "cut_at"), [(16, 256, 16), (256, 256, 256), (2048, 256, 256), (None, 256, 256)]
)
def test_the_smaller_of_max_length_and_context_cuts(
    model: Path, capsys: pytest.CaptureFixture[str], asked: int | None, context: int, cut_at: int
) -> None:
    write_config(model, {"max_position_embeddings": context})
    renderer = build_renderer(model, settings(asked))
    row = renderer.render_row({"prompt": "q " * 650, "completion": "a"})
    assert (len(row.input_ids), row.truncated) == (cut_at, True)
    assert ("context" in capsys.readouterr().err) == (asked == 2048)


def test_a_model_that_names_no_context_sets_no_bound(model: Path) -> None:
    assert build_renderer(model, settings(2048)).max_length == 2048
    write_config(model, {"model_type": "mamba"})
    assert build_renderer(model, settings(2048)).max_length == 2048
    assert build_renderer(model, settings(None)).max_length is None


@pytest.mark.parametrize(
    "config",
    [
        {"max_position_embeddings": 256},
        {"n_positions": 256},
        {"n_ctx": 256},
        {"seq_length": 256},
        {"max_seq_len": 256},
        {"text_config": {"max_position_embeddings": 256}},
        {"llm_config": {"max_position_embeddings": 256}},
        {"max_position_embeddings": None, "text_config": {"max_position_embeddings": 256}},
    ],
)
def test_the_context_has_many_names(tmp_path: Path, config: dict[str, Any]) -> None:
    write_config(tmp_path, config)
    assert read_context(tmp_path) == 256


@pytest.mark.parametrize("value", [0, -1, True, "256", None])
def test_a_context_that_is_no_length_is_none(tmp_path: Path, value: Any) -> None:
    write_config(tmp_path, {"max_position_embeddings": value})
    assert read_context(tmp_path) is None


def test_a_broken_config_of_the_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelFailure, match=r"config\.json"):
        read_context(tmp_path)


def trained_text(model: Path, row: dict[str, Any], **sections: dict[str, Any]) -> str:
    renderer = build_renderer(model, configure(**sections))
    rendered = renderer.render_row(row)
    ids = [token for token, trained in zip(rendered.input_ids, rendered.trained, strict=True) if trained]
    return str(renderer.tokens.tokenizer.decode(ids, skip_special_tokens=False))


CHAT = {"messages": [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate("qarb")]}


@pytest.mark.parametrize(
    ("sections", "row", "expected"),
    [
        ({}, CHAT, "a<|end|>b<|end|>"),
        ({"TrainingArguments": {"assistant_only_loss": True}}, CHAT, "a<|end|>b<|end|>"),
        ({"TrainingArguments": {"completion_only_loss": False}}, CHAT, "a<|end|>b<|end|>"),
        (
            {"TrainingArguments": {"assistant_only_loss": False}},
            CHAT,
            "<|user|>q<|end|><|assistant|>a<|end|><|user|>r<|end|><|assistant|>b<|end|>",
        ),
        ({"DatasetConfig": {"train_on_last_turn_only": True}}, CHAT, "b<|end|>"),
        ({"TrainingArguments": {"completion_only_loss": False}}, {"prompt": "q", "completion": "a"}, "<s>qa<|end|>"),
        ({"TrainingArguments": {"eos_token": "</s>"}}, {"prompt": "q", "completion": "a"}, "a</s>"),
        ({"TrainingArguments": {"chat_template_path": "phi-4"}}, CHAT, "a<|im_end|>b<|im_end|>"),
        (
            {"TrainingArguments": {"chat_template_path": "phi-4"}, "ModelConfig": {"chat_template": "phi-3"}},
            CHAT,
            "a<|end|>b<|end|>",
        ),
        ({"DatasetConfig": {"messages_column": "talk"}}, {"talk": CHAT["messages"]}, "a<|end|>b<|end|>"),
        ({"DatasetConfig": {"context_column": "q", "response_column": "a"}}, {"q": "x", "a": "y"}, "y<|end|>"),
        ({"DatasetConfig": {"prompt_column": "q", "completion_column": "a"}}, {"q": "x", "a": "y"}, "y<|end|>"),
        ({"DatasetConfig": {"column_mapping": {"instruction": "q", "output": "a"}}}, {"q": "x", "a": "y"}, "y<|end|>"),
        ({"DatasetConfig": {"text_column": "body"}}, {"body": "x", "text": "y"}, "<s>x<|end|>"),
        ({"TrainingArguments": {"dataset_text_field": "body"}}, {"body": "x", "text": "y"}, "<s>x<|end|>"),
        ({"TrainingArguments": {"dataset_text_field": "text"}}, CHAT, "a<|end|>b<|end|>"),
    ],
)
def test_what_is_learnt_follows_the_configuration(
    model: Path, sections: dict[str, Any], row: dict[str, Any], expected: str
) -> None:
    assert trained_text(model, row, **sections) == expected


def test_a_loss_on_all_turns_and_on_the_last_alone_contradict_each_other(model: Path) -> None:
    sections = {
        "TrainingArguments": {"assistant_only_loss": False},
        "DatasetConfig": {"train_on_last_turn_only": True},
    }
    with pytest.raises(ConfigFailure, match=r"assistant_only_loss is false.*train_on_last_turn_only is true"):
        build_renderer(model, configure(**sections))


@pytest.mark.parametrize(("policy", "kept", "dropped"), [("truncate", 16, False), ("drop", 0, True)])
def test_a_long_row_is_cut_or_left_out_as_the_configuration_says(
    model: Path, policy: str, kept: int, dropped: bool
) -> None:
    config = configure(TrainingArguments={"max_length": 16}, DatasetConfig={"long_rows": policy})
    row = build_renderer(model, config).render_row({"text": "q " * 100})
    assert (len(row.input_ids), row.dropped, row.truncated) == (kept, dropped, not dropped)


def test_a_long_row_is_an_error_where_the_configuration_says_so(model: Path) -> None:
    config = configure(TrainingArguments={"max_length": 16}, DatasetConfig={"long_rows": "error"})
    with pytest.raises(RowError, match="more than max_length 16"):
        build_renderer(model, config).render_row({"text": "q " * 100})


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        (
            {"column_mapping": {"prompt": "a"}, "prompt_column": "b"},
            "column_mapping says prompt: a, and prompt_column says b",
        ),
        ({"column_mapping": {"question": "a"}}, "'question' is no standard column; map from one of messages, prompt"),
        ({"column_mapping": {"prompt": ""}}, "a length of at least 1"),
        ({"long_rows": "split"}, "expected one of truncate, drop, error"),
    ],
)
def test_settings_of_columns_that_make_no_sense_are_refused_with_their_line(dataset: dict[str, Any], said: str) -> None:
    parsed = parse_training_config(json.dumps({"training_config": {"DatasetConfig": dataset}}))
    (error,) = parsed.errors
    assert said in error.message
    assert "DatasetConfig" in error.field

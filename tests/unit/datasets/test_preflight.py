from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kaito.api.training import TrainingConfig, parse_training_config
from kaito.datasets.preflight import check_data, percentile
from kaito.failure import ConfigFailure, DataFailure, ExitCode
from tests.unit.datasets.models import build_model

GOOD = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "an answer"}]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    return build_model(tmp_path_factory.mktemp("model") / "m", eos="<|end|>", chat_template=template)


def settings(**sections: dict[str, Any]) -> TrainingConfig:
    config = parse_training_config(json.dumps({"training_config": sections})).config
    assert config is not None
    return config


def data_of(folder: Path, *rows: dict[str, Any] | str) -> Path:
    folder.mkdir()
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_good_data_are_counted(model: Path, tmp_path: Path) -> None:
    longer = {"messages": [GOOD["messages"][0], {"role": "assistant", "content": "word " * 50}]}
    data = data_of(tmp_path / "data", *[GOOD] * 19, longer)
    result = check_data(data, model, settings())
    assert (result["rows"], result["bad"], result["first"]) == (20, 0, [])
    tokens = result["tokens"]
    assert 0 < tokens["p50"] <= tokens["p95"] < tokens["max"]
    assert (result["truncated"], result["untrained"]) == (0, 0)
    assert result == check_data(data, model, settings())


def test_rows_that_are_cut_or_teach_nothing_are_counted(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    late = {"messages": [{"role": "user", "content": "long question " * 30}, GOOD["messages"][1]]}
    data = data_of(tmp_path / "data", GOOD, GOOD, late)
    whole = check_data(data, model, settings())
    cut = check_data(data, model, settings(TrainingArguments={"max_length": 16}))
    assert (cut["truncated"], cut["untrained"]) == (1, 1)
    assert cut["tokens"] == whole["tokens"]
    report = capsys.readouterr().err.splitlines()[-3:]
    assert any("1 rows repeat an earlier one" in line for line in report)


def test_data_of_which_nothing_would_be_learnt_are_refused(model: Path, tmp_path: Path) -> None:
    data = data_of(tmp_path / "data", GOOD)
    with pytest.raises(DataFailure, match="behind max_length"):
        check_data(data, model, settings(TrainingArguments={"max_length": 2}))


def test_bad_rows_fail_with_count_and_the_first_places(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [{"text": "a secret"}, "{", {"messages": [{"role": "user", "content": "a secret"}]}]
    data = data_of(tmp_path / "data", GOOD, *bad, *[{"text": "x"}] * 30, GOOD)
    with pytest.raises(DataFailure) as failure:
        check_data(data, model, settings())
    message = failure.value.message
    assert message.startswith("33 of 35 rows cannot be used")
    assert "train.jsonl:2: columns:" in message and "train.jsonl:3: column 2:" in message
    log = capsys.readouterr().err
    assert log.count("\ntrain.jsonl:") + log.startswith("train.jsonl:") == 20
    full = json.loads(log.split("KAITO_REPORT ")[1].splitlines()[0])
    assert (full["bad"], len(full["first"]), len(full["problems"])) == (33, 3, 20)
    assert "secret" not in log + message


def test_conversations_for_a_model_without_a_template_are_refused_before_training(tmp_path: Path) -> None:
    bare = build_model(tmp_path / "m")
    data = data_of(tmp_path / "data", GOOD)
    with pytest.raises(ConfigFailure) as failure:
        check_data(data, bare, settings())
    assert failure.value.reason == "ChatTemplateMissing"
    assert check_data(data, bare, settings(ModelConfig={"chat_template": "phi-3"}))["bad"] == 0


def test_a_model_without_tokenizer_json_gets_its_rows_checked_but_not_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = data_of(tmp_path / "data", GOOD)
    (tmp_path / "m").mkdir()
    result = check_data(data, tmp_path / "m", settings())
    assert (result["rows"], result["tokens"]["max"]) == (1, 0)
    assert "no tokenizer.json" in capsys.readouterr().err


def test_dataset_settings_choose_files_and_columns(model: Path, tmp_path: Path) -> None:
    data = data_of(tmp_path / "data", {"text": "not this one"})
    (data / "sub").mkdir()
    (data / "sub" / "x.jsonl").write_text(json.dumps({"question": "a", "reply": "b"}) + "\n")
    chosen = {"dataset_path": "sub", "column_mapping": {"prompt": "question", "completion": "reply"}}
    assert check_data(data, model, settings(DatasetConfig=chosen))["rows"] == 1
    named = {"dataset_path": "sub/x.jsonl", "prompt_column": "question", "response_column": "reply"}
    assert check_data(data, model, settings(DatasetConfig=named))["rows"] == 1
    with pytest.raises(DataFailure, match="dataset_path 'nothing'"):
        check_data(data, model, settings(DatasetConfig={"dataset_path": "nothing"}))
    with pytest.raises(DataFailure, match="dataset_extension"):
        check_data(data, model, settings(DatasetConfig={"dataset_extension": "parquet"}))
    with pytest.raises(ConfigFailure, match="'text' belongs to a format that is not read"):
        check_data(data, model, settings(DatasetConfig={"text_column": "text"}))


def test_an_empty_folder_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(DataFailure, match="no data file"):
        check_data(tmp_path / "data", model, settings())


def test_percentiles_are_those_of_rows() -> None:
    assert [percentile(range(1, 101), percent) for percent in (50, 95, 100)] == [50, 95, 100]
    assert [percentile([7], percent) for percent in (50, 95, 100)] == [7, 7, 7]
    assert percentile([], 50) == 0


def run(program: str, *argv: str, folder: Path) -> tuple[int, dict[str, Any], str]:
    result = folder / "result.json"
    done = subprocess.run(
        [sys.executable, "-m", program, *argv],
        env=os.environ | {"KAITO_RESULT": str(result), "KAITO_PROGRESS": str(folder / "progress")},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, json.loads(result.read_text()) if result.exists() else {}, done.stderr


def test_the_program_obeys_the_contract_of_a_step(model: Path, tmp_path: Path) -> None:
    data = data_of(tmp_path / "data", GOOD, {"text": 1})
    argv = ("--data", str(data), "--model", str(model))
    code, result, log = run("kaito.datasets.preflight", *argv, folder=tmp_path)
    assert code == ExitCode.DATA
    assert result["reason"] == "DataInvalid" and "train.jsonl:2" in result["message"]
    assert "Traceback" not in log
    (data / "train.jsonl").write_text(json.dumps(GOOD) + "\n")
    code, result, _ = run("kaito.datasets.preflight", *argv, folder=tmp_path)
    assert (code, result["rows"]) == (ExitCode.DONE, 1)
    assert json.loads((tmp_path / "progress").read_text().splitlines()[-1])["unit"] == "rows"


def test_no_program_of_the_data_or_the_model_loads_torch_or_transformers() -> None:
    modules = "kaito.datasets.fetch, kaito.datasets.preflight, kaito.datasets.render, kaito.hub.resolve, kaito.hub.pull"
    heavy = "{'torch', 'transformers', 'numpy'} & set(sys.modules)"
    code = f"import sys, {modules}; assert not {heavy}, {heavy}"
    subprocess.run([sys.executable, "-c", code], check=True)

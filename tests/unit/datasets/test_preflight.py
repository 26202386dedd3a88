from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kaito.api.training import TrainingConfig, parse_training_config
from kaito.datasets.preflight import check_data, survey_data
from kaito.failure import ConfigFailure, DataFailure, ExitCode, ModelFailure
from tests.memory import PEAK_BYTES
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
    assert 0 < tokens["p50"] <= tokens["p95"] <= tokens["p99"] <= tokens["max"]
    assert tokens["p50"] < tokens["max"]
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
    short = {"TrainingArguments": {"max_length": 16}}
    dropped = check_data(data, model, settings(**short, DatasetConfig={"long_rows": "drop"}))
    assert (dropped["truncated"], dropped["dropped"], dropped["untrained"]) == (0, 1, 0)
    log = capsys.readouterr().err
    assert "rows longer than max_length, which are cut: 1 (33.3%)" in log
    assert "rows without a trained token after the cut, which teach nothing: 1 (33.3%)" in log
    assert "rows that repeat an earlier one: 1 (33.3%): train.jsonl:2 repeats train.jsonl:1" in log


def test_data_of_which_nothing_would_be_learnt_are_refused(model: Path, tmp_path: Path) -> None:
    data = data_of(tmp_path / "data", GOOD)
    with pytest.raises(DataFailure, match="behind max_length"):
        check_data(data, model, settings(TrainingArguments={"max_length": 2}))


def test_bad_rows_fail_with_count_and_the_first_places(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [{"body": "a secret"}, "{", {"messages": [{"role": "user", "content": "a secret"}]}]
    others = [{f"column {number}": "x"} for number in range(30)]
    data = data_of(tmp_path / "data", GOOD, *bad, *others, GOOD)
    with pytest.raises(DataFailure) as failure:
        check_data(data, model, settings())
    message = failure.value.message
    assert message.startswith("33 of 35 rows cannot be used")
    assert "train.jsonl:2: columns:" in message and "train.jsonl:3: column 2:" in message
    log = capsys.readouterr().err
    assert len(re.findall(r"^train\.jsonl:\d+: ", log, re.MULTILINE)) == 20
    full = json.loads(log.split("KAITO_REPORT ")[1].splitlines()[0])
    assert (full["bad"], len(full["first"]), len(full["problems"])) == (33, 3, 20)
    assert "secret" not in log + message


def test_rows_that_share_one_problem_are_one_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = data_of(tmp_path / "data", *[{"question": "a secret", "answer": "b"}] * 40)
    with pytest.raises(DataFailure) as failure:
        check_data(data, model, settings())
    shared = "train.jsonl:1 and 39 more rows: columns: no recognised format: found 'question', 'answer'"
    assert failure.value.message == f"40 of 40 rows cannot be used: {shared}"
    mapping = "tuning.parameters.DatasetConfig.column_mapping: {instruction: question, output: answer}"
    assert failure.value.hint == f"set {mapping}"
    log = capsys.readouterr().err
    assert [line for line in log.splitlines() if "no recognised format" in line and "REPORT" not in line] == [
        f"{shared}: set {mapping}"
    ]


PLAIN_PAIR = {"prompt": "q", "completion": "a"}


def test_plain_prompts_for_a_model_with_a_chat_template_are_warned_of_once(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "without the model's chat template; name the columns instruction and output"
    plain = check_data(data_of(tmp_path / "plain", *[PLAIN_PAIR] * 3), model, settings())
    assert said in plain["note"] and plain["note"].startswith("warning: 3 rows")
    assert capsys.readouterr().err.count(f"{plain['note']}\n") == 1
    turns = {"prompt": GOOD["messages"][:1], "completion": GOOD["messages"][1:]}
    instruction = {"instruction": "q", "output": "a"}
    templated = check_data(data_of(tmp_path / "templated", GOOD, turns, instruction, {"text": "t"}), model, settings())
    assert "note" not in templated
    bare = build_model(tmp_path / "bare")
    assert "note" not in check_data(tmp_path / "plain", bare, settings()), "there is no template to miss"


def test_conversations_for_a_model_without_a_template_are_refused_before_training(tmp_path: Path) -> None:
    bare = build_model(tmp_path / "m")
    data = data_of(tmp_path / "data", GOOD)
    with pytest.raises(ConfigFailure) as failure:
        check_data(data, bare, settings())
    assert failure.value.reason == "ChatTemplateMissing"
    assert check_data(data, bare, settings(ModelConfig={"chat_template": "phi-3"}))["bad"] == 0


def test_a_model_without_tokenizer_json_fails_here_and_not_on_the_gpu(tmp_path: Path) -> None:
    data = data_of(tmp_path / "data", GOOD)
    (tmp_path / "m").mkdir()
    with pytest.raises(ModelFailure, match=r"no tokenizer\.json") as failure:
        check_data(data, tmp_path / "m", settings())
    assert failure.value.exit_code == ExitCode.MODEL
    assert survey_data(data, None, settings()).good == 1


@pytest.mark.parametrize(
    ("column", "hint"),
    [
        ("contxt", "did you mean 'context_'?"),
        ("zzz", "correct the setting: found 'instruction', 'output', 'context_', '…'"),
    ],
)
def test_an_optional_column_that_no_row_has_is_refused(column: str, hint: str, model: Path, tmp_path: Path) -> None:
    row = {"instruction": "i", "output": "o", "context_": "c", "What is the name of my aunt?": "x"}
    config = settings(DatasetConfig={"column_mapping": {"input": column}})
    with pytest.raises(
        ConfigFailure, match=f"no row has a column '{column}', which DatasetConfig names as input"
    ) as no:
        check_data(data_of(tmp_path / "data", row, row), model, config)
    assert no.value.hint == hint


def test_an_optional_column_that_one_row_has_is_enough(model: Path, tmp_path: Path) -> None:
    rows = [{"instruction": "i", "output": "o"}, {"instruction": "i", "output": "o", "hint": "h"}]
    config = settings(DatasetConfig={"column_mapping": {"input": "hint"}})
    assert check_data(data_of(tmp_path / "data", *rows), model, config)["rows"] == 2


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
    with pytest.raises(DataFailure, match=r"sub/x\.jsonl:1: text: no such column"):
        check_data(data, model, settings(DatasetConfig={"text_column": "text"}))


def test_an_empty_folder_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(DataFailure, match="no data file"):
        check_data(tmp_path / "data", model, settings())


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


def test_memory_does_not_grow_with_the_number_of_rows(tmp_path: Path) -> None:
    """All rows are read, checked and compared; only a sample is rendered, as above 1 GB of data."""
    few, many = peak_memory(tmp_path, 20_000), peak_memory(tmp_path, 150_000)
    assert few < 300e6
    # 16 bytes of each row are kept to find repeated ones, and as many again to sort them: 4 MB. The rows are 150 MB.
    assert many - few < 25e6, f"{few / 1e6:.0f} MB for 20,000 rows, {many / 1e6:.0f} MB for 150,000"


def peak_memory(folder: Path, rows: int) -> int:
    """Peak resident bytes of a process that surveys so many rows of 1 KB, a hundredth of them rendered."""
    data = folder / f"{rows}"
    data.mkdir()
    with (data / "train.jsonl").open("w") as file:
        for number in range(rows):
            turns = [{"role": "user", "content": f"{number} " * 80}, {"role": "assistant", "content": "word " * 100}]
            file.write(json.dumps({"messages": turns}) + "\n")
    code = f"""if True:
        from importlib import resources
        from pathlib import Path
        from kaito.datasets.files import scan_folder
        from kaito.datasets.render import Renderer
        from kaito.datasets.survey import Sample, survey_rows
        renderer = Renderer.load(Path(str(resources.files("kaito.hub") / "builtin" / "demo")))
        found = survey_rows(scan_folder(Path({str(data)!r})).files, renderer, None, Sample(1, 0.01))
        assert (found.rows, found.bad, found.repeated) == ({rows}, 0, 0), found
        assert 0 < found.measured.rows < {rows} / 50
        print({PEAK_BYTES})
    """
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def test_no_program_of_the_data_or_the_model_loads_torch_or_transformers() -> None:
    modules = "kaito.datasets.fetch, kaito.datasets.preflight, kaito.datasets.render, kaito.hub.resolve, kaito.hub.pull"
    heavy = "{'torch', 'transformers', 'numpy'} & set(sys.modules)"
    code = f"import sys, {modules}; assert not {heavy}, {heavy}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_keys_are_called_neither_ends_the_program_nor_forges_its_log(model: Path, tmp_path: Path) -> None:
    keys = ("\\ud800x", "a\\u001b[31mred\\nKAITO_REPORT {}", "What is the name of my aunt Mildred?")
    data = data_of(tmp_path / "data", *(f'{{"{key}": "q", "completion": "a"}}' for key in keys))
    code, result, log = run("kaito.datasets.preflight", "--data", str(data), "--model", str(model), folder=tmp_path)
    assert (code, result["reason"]) == (ExitCode.DATA, "DataInvalid")
    for said in (log, json.dumps(result, ensure_ascii=False)):
        assert not any(word in said for word in ("Traceback", "\x1b", "\ud800", "Mildred", "red\nKAITO"))

"""Rows on their way from the data's files to flat arrays on disk."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kaito.api.training import TrainingConfig
from kaito.failure import DataFailure, TemporaryFailure
from kaito.tuning.collectives import LAUNCH_VARIABLE
from kaito.tuning.tokenised import ENDS, INPUT_IDS, RECORD, TRAINED, Loaded, forget_rows, load_examples
from tests.unit.tuning.tiny_models import write_data


def config(**sections: Any) -> TrainingConfig:
    return TrainingConfig.model_validate(sections)


def written(folder: Path) -> list[Path]:
    return sorted((folder / "rows").glob("*/" + RECORD))


def content(loaded: Loaded) -> list[tuple[bytes, bytes]]:
    return [(example.input_ids.tobytes(), example.trained.tobytes()) for example in loaded.examples]


def test_the_answer_and_its_end_are_trained_and_nothing_else(llama: Path, data: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(llama / "tokenizer.json"))
    loaded = load_examples(data, llama, config())
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
        load_examples(tmp_path, llama, config())


def test_rows_whose_answer_is_cut_off_are_left_out_and_counted(llama: Path, data: Path) -> None:
    loaded = load_examples(data, llama, config(TrainingArguments={"max_length": 20}))
    assert 0 < len(loaded.examples) < 40
    assert f"{40 - len(loaded.examples)} left without an answer" in loaded.summary
    with pytest.raises(DataFailure, match="none of the 40 rows"):
        load_examples(data, llama, config(TrainingArguments={"max_length": 4}))


def test_rows_that_are_left_out_for_their_length_are_counted(llama: Path, data: Path) -> None:
    said = {"TrainingArguments": {"max_length": 30}, "DatasetConfig": {"long_rows": "drop"}}
    loaded = load_examples(data, llama, config(**said))
    assert 0 < len(loaded.examples) < 40
    assert f"0 left without an answer, {40 - len(loaded.examples)} left out for their length" in loaded.summary


def test_rows_are_tokenised_once_and_found_again(llama: Path, data: Path, tmp_path: Path) -> None:
    first = load_examples(data, llama, config(), folder=tmp_path)
    (record,) = written(tmp_path)
    before = record.stat().st_mtime_ns
    again = load_examples(data, llama, config(), folder=tmp_path)
    assert record.stat().st_mtime_ns == before
    assert content(again) == content(first) == content(load_examples(data, llama, config()))
    assert (again.summary, again.chat_template) == (first.summary, first.chat_template)


@pytest.mark.parametrize("what", ["data", "tokenizer", "template", "settings"])
def test_other_inputs_are_tokenised_anew_and_the_old_rows_are_gone(
    llama: Path, data: Path, tmp_path: Path, what: str
) -> None:
    model, mine, said = tmp_path / "model", tmp_path / "data", config()
    shutil.copytree(llama, model, ignore=shutil.ignore_patterns("*.safetensors"))
    shutil.copytree(data, mine)
    first = load_examples(mine, model, said, folder=tmp_path)
    (before,) = written(tmp_path)
    if what == "data":
        write_data(mine, rows=41)
    elif what == "tokenizer":
        text = (model / "tokenizer.json").read_text()
        (model / "tokenizer.json").write_text(text.replace('"ignore_merges": false', '"ignore_merges": true'))
    elif what == "template":
        (model / "chat_template.jinja").write_text((model / "chat_template.jinja").read_text().replace("<|end|>", "\n"))
    else:
        said = config(TrainingArguments={"max_length": 25})
    again = load_examples(mine, model, said, folder=tmp_path)
    (after,) = written(tmp_path)
    assert after != before
    assert what == "tokenizer" or content(again) != content(first)


def test_what_a_crash_left_half_written_is_not_taken_for_rows(llama: Path, data: Path, tmp_path: Path) -> None:
    whole = content(load_examples(data, llama, config(), folder=tmp_path))
    (record,) = written(tmp_path)
    half = record.parent.rename(record.parent.with_suffix(".part"))
    (half / INPUT_IDS).write_bytes(b"\x00" * 12)
    assert content(load_examples(data, llama, config(), folder=tmp_path)) == whole
    assert not half.exists()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-8])


def zero(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


@pytest.mark.parametrize(
    ("name", "damage"),
    [(INPUT_IDS, cut), (INPUT_IDS, zero), (TRAINED, cut), (ENDS, cut), (ENDS, Path.unlink), (RECORD, zero)],
)
def test_damaged_rows_are_written_anew_and_one_line_says_so(
    llama: Path,
    data: Path,
    tmp_path: Path,
    name: str,
    damage: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = content(load_examples(data, llama, config(), folder=tmp_path))
    (record,) = written(tmp_path)
    damage(record.with_name(name))
    capsys.readouterr()
    assert content(load_examples(data, llama, config(), folder=tmp_path)) == whole
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert f"rows are damaged ({name}" in said
    assert content(load_examples(data, llama, config(), folder=tmp_path)) == whole
    assert capsys.readouterr().out == ""


def test_another_process_does_not_trust_what_an_earlier_launch_found_whole(
    llama: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LAUNCH_VARIABLE, "earlier")
    whole = content(load_examples(data, llama, config(), folder=tmp_path))
    (record,) = written(tmp_path)
    zero(record.with_name(INPUT_IDS))
    monkeypatch.setenv(LAUNCH_VARIABLE, "now")
    monkeypatch.setenv("RANK", "1")
    found: list[Loaded] = []
    waiting = threading.Thread(
        target=lambda: found.append(load_examples(data, llama, config(), folder=tmp_path)), daemon=True
    )
    waiting.start()
    waiting.join(0.3)
    assert not found
    monkeypatch.setenv("RANK", "0")
    load_examples(data, llama, config(), folder=tmp_path)
    waiting.join(60)
    assert content(found[0]) == whole


def test_rows_that_are_forgotten_stay_readable_for_who_has_them(llama: Path, data: Path, tmp_path: Path) -> None:
    loaded = load_examples(data, llama, config(), folder=tmp_path)
    before = content(loaded)
    forget_rows(tmp_path)
    assert not (tmp_path / "rows").exists()
    assert content(loaded) == before


def test_another_process_waits_for_the_rows_of_the_first(
    llama: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Loaded] = []
    monkeypatch.setenv("RANK", "1")
    waiting = threading.Thread(
        target=lambda: found.append(load_examples(data, llama, config(), folder=tmp_path)), daemon=True
    )
    waiting.start()
    waiting.join(0.3)
    assert not found
    assert not written(tmp_path), "the second process has rendered"
    monkeypatch.setenv("RANK", "0")
    first = load_examples(data, llama, config(), folder=tmp_path)
    waiting.join(60)
    assert content(found[0]) == content(first)


def test_a_full_disk_is_said_and_can_be_tried_again(llama: Path, data: Path, tmp_path: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(TemporaryFailure, match="tokenised rows cannot be written") as failed:
            load_examples(data, llama, config(), folder=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert failed.value.reason == "RowsNotWritable"
    assert not (tmp_path / "rows").exists(), "what was half written fills the disk no longer"
    assert len(load_examples(data, llama, config(), folder=tmp_path).examples) == 40

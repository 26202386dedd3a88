from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kaito.datasets import files_digest
from kaito.datasets.files import scan_folder
from kaito.datasets.formats import Chat, Completion, parse_row
from kaito.datasets.read import count_rows, list_files, read_rows
from kaito.datasets.rows import Problem, RowError
from kaito.failure import DataFailure

PAIR = {"prompt": "p", "completion": "c"}
TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
LINE = json.dumps(PAIR) + "\n"


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def parquet(path: Path, rows: list[dict[str, Any]]) -> bytes:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path.read_bytes()


def places(folder: Path) -> list[tuple[str, int]]:
    return [(row.file, row.line) for row in read_rows(list_files(folder))]


def test_all_data_files_are_read_in_order_and_nothing_else(tmp_path: Path) -> None:
    data = write(
        tmp_path / "data",
        {
            "b.jsonl": LINE + "\n" + LINE,
            "sub/a.json": json.dumps([PAIR, PAIR], indent=1),
            "noextension": LINE,
            "README.md": "[![badge](x)]",
            "README_csv.md": "{",
            ".hidden/x.jsonl": "broken",
            "._x.jsonl": "broken",
            "dataset_info.json": "{}",
            "picture.png": b"\x89PNG",
            "000-x.jsonl.part": "half",
        },
    )
    (data / "a.parquet").write_bytes(parquet(tmp_path / "p", [PAIR] * 3))
    assert places(data) == [
        *[("a.parquet", row) for row in (1, 2, 3)],
        ("b.jsonl", 1),
        ("b.jsonl", 3),
        ("noextension", 1),
        ("sub/a.json", 2),
        ("sub/a.json", 6),
    ]
    assert dict(scan_folder(data).skipped)["picture.png"] == "neither JSON nor parquet"
    assert count_rows(list_files(data)) >= 6


def test_a_file_is_recognised_by_what_is_in_it(tmp_path: Path) -> None:
    data = write(tmp_path / "data", {"x.parquet": LINE, "y.txt": b"\xef\xbb\xbf" + LINE.encode()})
    (data / "z.jsonl").write_bytes(parquet(tmp_path / "p", [PAIR]))
    assert [(file.name, file.format) for file in list_files(data)] == [
        ("x.parquet", "jsonl"),
        ("y.txt", "jsonl"),
        ("z.jsonl", "parquet"),
    ]
    assert [row.value for row in read_rows(list_files(data))] == [PAIR] * 3


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("train.parquet", "<!DOCTYPE html><html>Sign in</html>", "HTML page"),
        ("train.jsonl", "\n  <html><body>", "HTML page"),
        ("train", "<?xml version='1.0'?><Error>", "XML document"),
        ("train.parquet", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        ("train.parquet", b"PAR1" + b"\x00" * 100, "truncated parquet"),
        ("train.parquet", b"PAR1", "truncated parquet"),
        ("train.parquet", b"\x00\x01\x02\x03", "not parquet"),
        ("train.jsonl", "", "empty"),
        ("train.jsonl", " \n\n", "blank"),
        ("train.jsonl.gz", b"\x1f\x8b\x08\x00", "gzip"),
        ("train.zip", b"PK\x03\x04", "zip"),
        ("train.zst", b"\x28\xb5\x2f\xfd", "zstd"),
        ("train.csv", "prompt,completion\na,b\n", "CSV"),
        ("train.arrow", b"ARROW1\x00\x00", "Arrow"),
        ("train.jsonl", LINE.encode("utf-16"), "UTF-16"),
        ("train.jsonl", "prompt: a\n", "not a data file"),
        ("train.jsonl", b"\x00" * 64, "not a data file"),
    ],
)
def test_a_file_that_is_not_what_it_claims_is_called_what_it_is(
    name: str, content: str | bytes, said: str, tmp_path: Path
) -> None:
    data = write(tmp_path / "data", {"good.jsonl": LINE, name: content})
    with pytest.raises(DataFailure, match=said) as failure:
        list_files(data)
    assert failure.value.message.startswith(f"{name}: ")
    assert failure.value.hint


@pytest.mark.parametrize(
    ("content", "place", "said"),
    [
        (LINE + '{"prompt": "a" "b"}\n', 2, "column 16: not JSON"),
        (LINE + '{"prompt": "a"', 2, "not JSON"),
        (LINE + "{}{}\n", 2, "column 3: not JSON"),
        (LINE + "[1]\n", 2, "not a JSON object"),
        (LINE.encode() + b'{"prompt": "\xff"}\n', 2, "column 13: not UTF-8"),
        (LINE + '{"a": ' + "[" * 100_000 + "\n", 2, "beyond all bounds"),
        (LINE + '{"a": ' + "9" * 10_000 + "}\n", 2, "beyond all bounds"),
        ("[" + LINE + "," + LINE + "; 3]", 3, "',' or ']' is missing"),
        ("[" + LINE + ",", 2, "not JSON"),
        ("[" + LINE + "] x", 2, "after the end"),
        ("[\n1\n]", 2, "not a JSON object"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(content: str | bytes, place: int, said: str, tmp_path: Path) -> None:
    data = write(tmp_path / "data", {"x.jsonl": content})
    with pytest.raises(DataFailure) as failure:
        list(read_rows(list_files(data)))
    assert f"x.jsonl:{place}" in failure.value.message
    assert said in failure.value.message


def test_reading_goes_on_after_a_bad_line_for_who_counts_them(tmp_path: Path) -> None:
    data = write(tmp_path / "data", {"x.jsonl": LINE + "{\n" + LINE + "[]\n"})
    problems: list[Problem] = []
    assert [row.line for row in read_rows(list_files(data), problems.append)] == [1, 3]
    assert [problem.line for problem in problems] == [2, 4]


def test_damaged_parquet_is_a_failure_that_names_the_file(tmp_path: Path) -> None:
    whole = parquet(tmp_path / "p", [{"prompt": "p" * 50, "completion": str(i)} for i in range(2000)])
    middle = bytearray(whole)
    middle[20:400] = b"\xff" * 380
    for content in (bytes(middle), whole[:10] + whole[-200:]):
        data = write(tmp_path / "data", {"x.parquet": content})
        with pytest.raises(DataFailure, match=r"x\.parquet: damaged parquet"):
            list(read_rows(list_files(data)))


def test_broken_utf8_in_parquet_is_the_problem_of_its_row(tmp_path: Path) -> None:
    column = pa.array([b"fine", b"\xff\xfe", b"fine"], type=pa.binary()).view(pa.string())
    pq.write_table(pa.table({"prompt": column, "completion": column}), tmp_path / "x.parquet")
    problems: list[Problem] = []
    assert [row.line for row in read_rows(list_files(tmp_path), problems.append)] == [1, 3]
    assert str(problems[0]).startswith("x.parquet:2: text: not UTF-8")


def test_a_missing_folder_is_a_data_failure(tmp_path: Path) -> None:
    with pytest.raises(DataFailure, match="does not exist"):
        list_files(tmp_path / "none")


def test_the_digest_follows_names_and_contents_of_data_alone(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {"x.jsonl": LINE, "sub/y.jsonl": LINE})
    b = write(tmp_path / "b", {"sub/y.jsonl": LINE, "x.jsonl": LINE, "README.md": "other"})
    assert files_digest(a) == files_digest(b)
    renamed = write(tmp_path / "c", {"x.jsonl": LINE, "sub/z.jsonl": LINE})
    changed = write(tmp_path / "d", {"x.jsonl": LINE + LINE, "sub/y.jsonl": LINE})
    assert len({files_digest(folder) for folder in (a, renamed, changed)}) == 3


# --- formats --------------------------------------------------------------------------------------------------------


def test_the_recognised_formats() -> None:
    assert parse_row({"messages": TURNS, "id": 3}) == Chat(TURNS)
    assert parse_row({"messages": None, **PAIR}) == Completion("p", "c")
    assert parse_row({"prompt": TURNS[:1], "completion": TURNS[1:]}) == Chat(TURNS, trained_from=1)
    parts = [{"role": "user", "content": [{"type": "text", "text": "q"}]}, {**TURNS[1], "name": None}]
    assert parse_row({"messages": parts}) == Chat(TURNS)
    assert parse_row({"question": "p", "answer": "c"}, {"prompt": "question", "completion": "answer"}) == Completion(
        "p", "c"
    )


@pytest.mark.parametrize(
    ("value", "column", "said"),
    [
        ({"text": "t", "label": 1}, "columns", "found 'text', 'label'"),
        ({}, "columns", "no columns"),
        ({"conversations": [{"from": "human", "value": "x"}]}, "columns", "found 'conversations'"),
        ({"instruction": "a", "output": "b"}, "columns", "no recognised format"),
        ({"prompt": "p"}, "completion", "without 'completion'"),
        ({"prompt": "p", "completion": None}, "completion", "without 'completion'"),
        ({"messages": TURNS, **PAIR}, "columns", "both"),
        ({"prompt": "p", "completion": TURNS}, "completion", "neither both"),
        ({"prompt": "p", "completion": " "}, "completion", "empty"),
        ({"messages": "[]"}, "messages", "a string, not a list"),
        ({"messages": []}, "messages", "no messages"),
        ({"messages": [*TURNS, "x"]}, "messages[2]", "a string"),
        ({"messages": TURNS[:1]}, "messages", "no assistant turn"),
        ({"prompt": TURNS, "completion": TURNS[:1]}, "completion", "no assistant turn"),
        ({"messages": [{"role": "human", "content": "x"}, *TURNS]}, "messages[0].role", "write 'user'"),
        ({"messages": [{"role": "boss", "content": "x"}, *TURNS]}, "messages[0].role", "unknown role"),
        ({"messages": [{"content": "x"}, *TURNS]}, "messages[0].role", "no role"),
        ({"messages": [{"from": "human", "value": "x"}]}, "messages[0]", "'from' and 'value'"),
        ({"messages": [TURNS[0], {"role": "assistant", "content": ""}]}, "messages[1].content", "empty"),
        ({"messages": [TURNS[0], {"role": "assistant"}]}, "messages[1].content", "no content"),
        ({"messages": [TURNS[0], {"role": "assistant", "content": 3}]}, "messages[1].content", "a number"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content", "not text"),
        ({"messages": [*TURNS, {"role": "assistant", "tool_calls": [{}]}]}, "messages[2].tool_calls", "tool calls"),
        ({"prompt": "p", "completion": "\ud83d"}, "completion", "broken character"),
    ],
)
def test_any_other_row_is_refused_with_column_rule_and_remedy(value: dict[str, Any], column: str, said: str) -> None:
    with pytest.raises(RowError) as refusal:
        parse_row(value)
    assert refusal.value.column == column
    assert said in str(refusal.value)
    assert refusal.value.remedy

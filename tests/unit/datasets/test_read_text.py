"""JSON lines, JSON arrays, CSV and TSV: which line a row or a fault is on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kaito.datasets.files import scan_folder
from kaito.datasets.read import count_rows, read_rows
from kaito.datasets.rows import Problem
from kaito.failure import DataFailure, Failure

PAIR = {"prompt": "p", "completion": "c"}
LINE = json.dumps(PAIR) + "\n"
HEAD = "prompt,completion\n"

Read = Callable[..., tuple[list[tuple[int, dict[str, Any]]], list[Problem]]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read_file(name: str, content: str | bytes) -> tuple[list[tuple[int, dict[str, Any]]], list[Problem]]:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        problems: list[Problem] = []
        rows = [(row.line, row.value) for row in read_rows(scan_folder(tmp_path).files, problems.append)]
        assert all(problem.file == name and problem.remedy for problem in problems)
        return rows, problems

    return read_file


# --- JSON lines -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (LINE + LINE, [1, 2]),
        (LINE + "\n  \n" + LINE.rstrip(), [1, 4]),
        ("\n\n" + LINE, [3]),
        (LINE.replace("\n", "\r\n") * 2, [1, 2]),
        ("\ufeff" + LINE + LINE, [1, 2]),
        ('{"text": "a\u2028b\u2029c\x85d"}\n' + LINE, [1, 2]),
        ('  {"text": "a"}  \n\t' + LINE, [1, 2]),
        ("{}\n" + LINE, [1, 2]),
    ],
)
def test_only_a_line_feed_ends_a_line(content: str, lines: list[int], read: Read) -> None:
    rows, problems = read("x.jsonl", content)
    assert ([line for line, _ in rows], problems) == (lines, [])


@pytest.mark.parametrize(
    ("bad", "column", "said"),
    [
        ('{"prompt": "a" "b"}', "column 16", "not JSON: Expecting ',' delimiter"),
        ('{"prompt": "a"', "column 15", "not JSON"),
        ("{}{}", "column 3", "more behind the JSON value"),
        ("[1]", "column 1", "not a JSON object"),
        (" 7", "column 2", "not a JSON object"),
        ("null", "column 1", "not a JSON object"),
        (b'{"prompt": "\xff"}', "column 13", "not UTF-8"),
        (b'{"prompt": "\xed\xa0\x80"}', "column 13", "not UTF-8"),
        ('{"prompt": "a\x00b"}', "column 14", "NUL bytes"),
        (b"\x00" * 9, "column 1", "NUL bytes"),
        ('{"a": ' + "[" * 100_000, "column 1", "nested beyond all bounds"),
        ('{"a": ' + "9" * 10_000 + "}", "columns", "too many digits"),
        ('{"prompt": "a", "prompt": "b"}', "prompt", "twice in one object"),
        ('{"messages": [{"role": "user", "role": "user"}]}', "role", "twice in one object"),
        ('{"": 1, "": 1}', "''", "twice in one object"),
        ('{"a": NaN}', "columns", "NaN is not JSON"),
        ('{"a": [-Infinity]}', "columns", "-Infinity is not JSON"),
    ],
    ids=range(17),
)
def test_a_bad_line_is_named_and_reading_goes_on_behind_it(
    bad: str | bytes, column: str, said: str, read: Read
) -> None:
    bad = bad.encode() if isinstance(bad, str) else bad
    rows, problems = read("x.jsonl", LINE.encode() + bad + b"\r\n" + LINE.encode())
    assert rows == [(1, PAIR), (3, PAIR)]
    assert [(problem.line, problem.column) for problem in problems] == [(2, column)]
    assert said in problems[0].rule


def test_without_a_list_for_bad_rows_the_first_is_a_failure_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(LINE + "{\n" + LINE)
    with pytest.raises(DataFailure, match=r"^x\.jsonl:2: column 2: not JSON"):
        list(read_rows(scan_folder(tmp_path).files))


def test_a_line_may_have_60_mb_and_not_70(read: Read) -> None:
    rows, problems = read("x.jsonl", "".join(f'{{"text": "{"x" * (size << 20)}"}}\n{LINE}' for size in (60, 70)))
    assert [line for line, _ in rows] == [1, 2, 4]
    assert [(problem.line, problem.rule) for problem in problems] == [(3, "a line of more than 64 MiB")]


@pytest.mark.parametrize("text", [json.dumps(PAIR, indent=2), '{"data": [\n{"prompt": "p"}\n]}', '{ "a":\n1}'])
def test_an_object_over_several_lines_is_called_that(text: str, read: Read) -> None:
    with pytest.raises(DataFailure, match=r"^x\.json:1: a JSON object written over several lines") as failure:
        read("x.json", text)
    assert "one JSON object on each line" in failure.value.hint


# --- JSON arrays ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("[" + LINE + "," + LINE + "]", [1, 2]),
        ("\ufeff\n [\n" + LINE + ",\n\n" + LINE + "]\n\n", [3, 6]),
        (json.dumps([PAIR, PAIR, PAIR], indent=1).replace("\n", "\r\n"), [2, 6, 10]),
        ('[{"text": "a\u2028b\\n\\n"}\n,{}]', [1, 2]),
        ("[]", []),
        ("[ \n ]\n", []),
    ],
)
def test_the_line_of_an_object_in_an_array_is_the_one_on_which_it_begins(
    content: str, lines: list[int], read: Read
) -> None:
    rows, problems = read("x.json", content)
    assert ([line for line, _ in rows], problems) == (lines, [])


@pytest.mark.parametrize(
    ("bad", "column", "said"),
    [
        ("1", "column 2", "not a JSON object"),
        ("[2]", "column 2", "not a JSON object"),
        ('{"a": 1, "a": 2}', "a", "twice in one object"),
        ('{"a": NaN, "b": [1, {"c": "}"}]}', "columns", "NaN is not JSON"),
        ('{"a": ' + "9" * 10_000 + "}", "columns", "too many digits"),
    ],
)
def test_a_value_of_an_array_that_is_no_row_is_passed_over_and_named(
    bad: str, column: str, said: str, read: Read
) -> None:
    rows, problems = read("x.json", f"[{LINE}, {bad},\n{LINE}]")
    assert [line for line, _ in rows] == [1, 3]
    assert [(problem.line, problem.column) for problem in problems] == [(2, column.replace("2", "3"))]
    assert said in problems[0].rule


@pytest.mark.parametrize(
    ("content", "place", "said"),
    [
        ("[" + LINE + "," + LINE + "; 3]", "3: column 1", "',' or ']' is missing"),
        ("[" + LINE + "   {}]", "2: column 4", "',' or ']' is missing"),
        ("[" + LINE + ",", "2: column 2", "cut short"),
        ("[" + LINE + ",\n]", "3: column 1", "not JSON"),
        ("[,{}]", "1: column 2", "not JSON"),
        ("[\n", "2: column 1", "cut short"),
        ("[" + LINE + '\n, {"a": "b', "3: column 9", "cut short"),
        ("[" + LINE + '\n, {"a": tr', "3: column 9", "not JSON"),
        ("[" + LINE + '\n, {"a": 1', "3: column 10", "cut short"),
        ("[" + LINE + ', {"a" 1}, ' + LINE + "]", "2: column 8", "not JSON: Expecting ':'"),
        ("[" + LINE + "] x", "2: column 3", "after the end"),
        ("[" + LINE + "][", "2: column 2", "after the end"),
        ("[" + '{"a": ' + "[" * 100_000, "1: column 2", "beyond all bounds"),
        (b"[" + LINE.encode() + b', {"a": "\xff"}]', "2: column 10", "not UTF-8"),
        (b"[" + LINE.encode() + b', {"a": "\xe2\x82', "2: column 10", "not UTF-8"),
    ],
    ids=range(15),
)
def test_a_fault_in_an_array_is_a_failure_with_line_and_column(
    content: str | bytes, place: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "x.json").write_bytes(content.encode() if isinstance(content, str) else content)
    rows: list[int] = []
    with pytest.raises(DataFailure) as failure:
        rows += [row.line for row in read_rows(scan_folder(tmp_path).files)]
    assert failure.value.message.startswith(f"x.json:{place}: ")
    assert said in failure.value.message
    assert failure.value.hint


def test_an_array_many_chunks_long_keeps_its_lines_and_values(read: Read) -> None:
    values = [{"text": "é\n" * (7 + 1000 * (index % 97)), "n": index} for index in range(300)]
    rows, problems = read("x.json", json.dumps(values, indent=1, ensure_ascii=False))
    assert problems == []
    assert rows == [(2 + 4 * index, value) for index, value in enumerate(values)]


# --- CSV and TSV ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "rows"),
    [
        ("x.csv", HEAD + "a,b\nc,d", [(2, "a", "b"), (3, "c", "d")]),
        ("x.csv", "\ufeff" + HEAD + 'a,"b ""x"", é"\r\n', [(2, "a", 'b "x", é')]),
        ("x.csv", HEAD + '"a\nb\r\nc",d\n\n  \ne,"\n"\nf,g\n', [(2, "a\nb\r\nc", "d"), (7, "e", "\n"), (9, "f", "g")]),
        ("x.csv", "\n" + HEAD.replace(",", ";") + "a,b;c\n", [(3, "a,b", "c")]),
        ("x.csv", HEAD.replace(",", "\t") + "a,b\tc\n", [(2, "a,b", "c")]),
        ("x.tsv", HEAD.replace(",", "\t") + "a,b\tc;d\n", [(2, "a,b", "c;d")]),
        ("x.TSV", HEAD + "a,b\n", [(2, "a", "b")]),
        ("x.csv", "prompt, completion\n" + '"a", "b, c"\n', [(2, "a", "b, c")]),
        ("x.csv", '"prompt","completion"\n"a\u2028b",c\n', [(2, "a\u2028b", "c")]),
        ("x.csv", HEAD + ',"b"\na,""\n', [(2, None, "b"), (3, "a", None)]),
        ("x.csv", HEAD + f"a,{'b' * 300_000}\n", [(2, "a", "b" * 300_000)]),
    ],
)
def test_a_record_has_the_line_on_which_it_begins(
    name: str, content: str, rows: list[tuple[int, str | None, str | None]], read: Read
) -> None:
    found, problems = read(name, content)
    assert problems == []
    assert found == [(line, {"prompt": prompt, "completion": completion}) for line, prompt, completion in rows]


def test_the_index_that_pandas_writes_needs_no_name(read: Read) -> None:
    assert read("x.csv", ",prompt,completion\n0,a,b\n")[0] == [(2, {"": "0", "prompt": "a", "completion": "b"})]


@pytest.mark.parametrize(
    ("bad", "column", "said"),
    [
        ("a\n", "completion", "1 fields, and the header has 2"),
        ("a,b,c\n", "field 3", "3 fields, and the header has 2"),
        ('a,"b"c\n', "columns", "behind a closing quote"),
        ("a,b\rc,d\n", "columns", "CR inside a field"),
        (b"a,\xff\n", "column 3", "not UTF-8"),
        (b"a,\x00b\n", "column 3", "NUL bytes"),
    ],
)
def test_a_bad_record_is_named_and_reading_goes_on_behind_it(
    bad: str | bytes, column: str, said: str, read: Read
) -> None:
    bad = bad.encode() if isinstance(bad, str) else bad
    rows, problems = read("x.csv", HEAD.encode() + b'"a\n",b\n' + bad + b"c,d\n")
    assert [line for line, _ in rows] == [2, 5]
    assert [(problem.line, problem.column) for problem in problems] == [(4, column)]
    assert said in problems[0].rule


def test_a_quote_that_is_never_closed_is_named_where_its_record_begins(read: Read) -> None:
    rows, problems = read("x.csv", HEAD + 'a,b\nc,"d\n' + "e,f\n" * 5)
    assert [line for line, _ in rows] == [2]
    assert [str(problem)[:40] for problem in problems] == ["x.csv:3: columns: a quote is opened and "]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "What is the capital of France, and why does it lie there, of all places?,Paris\na,b\n",
            "no header: its field 1 is no column's name",
        ),
        ("prompt,prompt\na,b\n", "no header: its field 2 has the name of an earlier one"),
        ("prompt,,completion\na,b,c\n", "no header: its field 2 has no name"),
        ("1,2.5\n3,4\n", "no header: its fields are numbers"),
        ('"prompt,completion\na,b\n', "quotes do not match"),
        ("prompt,completion\ra,b\rc,d\r", "lines end with CR alone"),
        (b"prompt,compl\xe9tion\na,b\n", "column 13: not UTF-8"),
        (HEAD, "a header and no rows"),
        ("404: Not Found", "a header and no rows"),
    ],
    ids=range(9),
)
def test_a_csv_file_that_cannot_be_one_is_a_failure(content: str | bytes, said: str, read: Read) -> None:
    with pytest.raises(Failure) as failure:
        read("x.csv", content)
    assert type(failure.value) is DataFailure
    assert failure.value.message.startswith("x.csv:")
    assert said in failure.value.message
    assert "Paris" not in str(failure.value)


@pytest.mark.parametrize(
    ("name", "start", "said"),
    [
        ("x.json", f'[{LINE},{{"a": "', r"^x\.json:2: column 2: a value of more than 64 MiB"),
        ("x.csv", HEAD + 'a,b\na,"\n', r"^x\.csv:3: a record of more than 64 MiB, perhaps a quote"),
    ],
)
def test_what_is_longer_than_64_mb_is_a_failure(name: str, start: str, said: str, read: Read) -> None:
    with pytest.raises(DataFailure, match=said):
        read(name, start + "x" * (70 << 20))


# --- progress -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv"])
def test_rows_are_counted_from_a_sample_for_progress(name: str, tmp_path: Path) -> None:
    row = {"prompt": "p" * 500, "completion": "c" * 500}
    rows = 20_000
    if name == "x.jsonl":
        text = (json.dumps(row) + "\n") * rows
    elif name == "x.json":
        text = json.dumps([row] * rows, indent=1)
    else:
        text = HEAD + (",".join(row.values()) + "\n") * rows
    (tmp_path / name).write_text(text)
    assert count_rows(scan_folder(tmp_path).files) == pytest.approx(rows, rel=0.05)


def test_a_file_that_is_sorted_by_length_is_counted_all_over(tmp_path: Path) -> None:
    short, long = 1 << 16, 600
    lines = ['{"text":"abcd"}\n'] * short + [json.dumps({"text": "y" * 100_000}) + "\n"] * long
    (tmp_path / "x.jsonl").write_text("".join(lines))
    assert count_rows(scan_folder(tmp_path).files) == pytest.approx(short + long, rel=0.3)


# --- quotes and blanks of CSV and TSV -------------------------------------------------------------------------------


def test_rows_that_a_stray_quote_joins_are_told_apart_from_a_quoted_field(read: Read) -> None:
    joined = '"I came home\tx1\nb\tc\nsaid he."\tx2\n'
    rows, problems = read("x.tsv", "prompt\tcompletion\na\tb\n" + joined + "d\te\n")
    assert [line for line, _ in rows] == [2, 6]
    assert [(problem.line, problem.rule[:47]) for problem in problems] == [
        (3, "a quote is opened, and closed rows later: each ")
    ]


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ('q\t"def f():\n\treturn 1\n\tend"\n', "def f():\n\treturn 1\n\tend"),
        ('q\t"one\n\ntwo"\n', "one\n\ntwo"),
        ('q\t"one\ttwo"\n', "one\ttwo"),
    ],
)
def test_a_quoted_field_of_tsv_may_hold_lines_and_tabs(record: str, field: str, read: Read) -> None:
    rows, problems = read("x.tsv", "prompt\tcompletion\n" + record)
    assert (rows, problems) == ([(2, {"prompt": "q", "completion": field})], [])


def test_a_quoted_field_of_csv_may_look_like_rows(read: Read) -> None:
    rows, problems = read("x.csv", 'prompt,completion\nq,"Dear John,\nthanks"\nr,"yes\nor, no"\n')
    assert [value["completion"] for _, value in rows] == ["Dear John,\nthanks", "yes\nor, no"]
    assert problems == []


@pytest.mark.parametrize(
    ("record", "fields"),
    [
        ("a,b", ("a", "b")),
        ("a, b", ("a", "b")),
        ("a,  indented code", ("a", " indented code")),
        ("  x, y", ("  x", "y")),
        ('a, "b,  c"', ("a", "b,  c")),
        ('a,  "b, ""c"""', ("a", 'b, "c"')),
        ("a,   ", ("a", None)),
        ('"one\n  two,  three", "x\n  y"', ("one\n  two,  three", "x\n  y")),
    ],
)
def test_one_blank_behind_a_comma_is_the_commas_where_the_header_has_it(
    record: str, fields: tuple[str, str], read: Read
) -> None:
    rows, problems = read("x.csv", f"prompt, completion\n{record}\n")
    assert (rows, problems) == ([(2, dict(zip(("prompt", "completion"), fields, strict=True)))], [])


@pytest.mark.parametrize(("name", "text"), [("x.jsonl", LINE), ("x.csv", HEAD + "a,b\n")])
def test_a_byte_order_mark_of_a_file_that_was_appended_is_named(name: str, text: str, read: Read) -> None:
    rows, problems = read(name, ("\ufeff" + text) * 2)
    assert len(rows) == text.count("\n") * 2 - 1 - (name == "x.csv")
    assert "a byte order mark inside the file" in problems[0].rule
    assert problems[0].line == 1 + text.count("\n")


def test_a_key_that_is_no_name_is_not_shown(read: Read) -> None:
    for key in ("a\\ud800", "What is the name of my aunt Mildred", "\\u001b[31m", "x" * 50):
        _, (problem,) = read("x.jsonl", f'{{"{key}":1,"{key}":2}}\n')
        assert problem.column == "…"
    _, (problem,) = read("x.jsonl", '{"text":"a","text":"b"}\n')
    assert problem.column == "text"

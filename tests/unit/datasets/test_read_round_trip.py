"""Rows through every format and back; and every format cut off at any byte."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import ipc

from kaito.datasets.files import scan_folder
from kaito.datasets.read import read_rows
from kaito.datasets.rows import Problem
from kaito.failure import DataFailure

Rows = Sequence[dict[str, Any]]

# Any text that UTF-8 can hold; no NUL, which no text file should.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
ROW = st.builds(lambda prompt, answer: {"prompt": prompt, "completion": answer}, TEXT, TEXT.filter(bool))
ROWS = st.lists(ROW, min_size=1, max_size=8)
COLUMNAR = ("parquet", "arrow", "stream")
WITH_AN_END = (*COLUMNAR, "jsonl.gz", "csv.gz", "parquet.gz")


def encode(rows: Rows, name: str, *, newline: str = "\n") -> tuple[bytes, list[int]]:
    """A file of `rows`, and the line of each."""
    if name.endswith(".gz"):
        content, lines = encode(rows, name.removesuffix(".gz"), newline=newline)
        return gzip.compress(content), lines
    if name in COLUMNAR:
        return encode_batches(pa.Table.from_pylist(rows), name), list(range(1, len(rows) + 1))
    if name in ("csv", "tsv"):
        text = io.StringIO()
        quoting = (
            csv.QUOTE_ALL if newline == "\n" else csv.QUOTE_MINIMAL
        )  # the latter overlooks CR where LF ends a line
        delimiter = "," if name == "csv" else "\t"
        writer = csv.writer(text, delimiter=delimiter, lineterminator=newline, quoting=quoting)
        writer.writerow(rows[0])
        lines = []
        for row in rows:
            lines.append(text.getvalue().count("\n") + 1)
            writer.writerow(row.values())
        return text.getvalue().encode(), lines
    texts = [json.dumps(row, ensure_ascii=len(row["prompt"]) % 2 == 0) for row in rows]
    if name == "jsonl":
        return newline.join(texts).encode(), list(range(1, len(rows) + 1))
    return f"[{newline}{f',{newline}'.join(texts)}]".encode(), list(range(2, len(rows) + 2))


def encode_batches(table: pa.Table, name: str) -> bytes:
    sink = io.BytesIO()
    if name == "parquet":
        pq.write_table(table, sink, row_group_size=3)
        return sink.getvalue()
    with (ipc.new_file if name == "arrow" else ipc.new_stream)(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    return sink.getvalue()


def read(content: bytes, name: str, problems: list[Problem]) -> list[tuple[int, Any]]:
    """The rows before a failure, too: `problems` then tells that there was one."""
    found: list[tuple[int, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        file = f"x.{name.replace('stream', 'arrow')}"
        Path(folder, file).write_bytes(content)
        try:
            for row in read_rows(scan_folder(Path(folder)).files, problems.append):
                found.append((row.line, row.value))
        except DataFailure as failure:
            assert failure.message.startswith(file)
            assert failure.hint
            problems.append(Problem(file, 0, "", failure.message, failure.hint))
    return found


@settings(max_examples=30, deadline=None)
@given(rows=ROWS, newline=st.sampled_from(["\n", "\r\n"]))
def test_rows_come_back_from_every_format_with_their_lines(rows: Rows, newline: str) -> None:
    for name in ("jsonl", "json", "csv", "tsv", "parquet", "arrow", "stream", "jsonl.gz", "csv.gz", "stream.gz"):
        content, lines = encode(rows, name, newline=newline)
        problems: list[Problem] = []
        expected = [{**row, "prompt": row["prompt"] or None} for row in rows] if name[1:3] == "sv" else rows
        assert read(content, name, problems) == list(zip(lines, expected, strict=True)), name
        assert problems == [], name


@settings(max_examples=30, deadline=None)
@given(rows=ROWS, share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_off_anywhere_gives_its_first_rows_and_then_says_so(rows: Rows, share: float) -> None:
    for name in ("jsonl", "json", "csv", *WITH_AN_END):
        content, lines = encode(rows, name, newline="\r\n")
        problems: list[Problem] = []
        found = read(content[: int(len(content) * share)], name, problems)
        whole = list(zip(lines, rows, strict=True))
        if name.startswith("csv"):  # a cut in a last field cannot be seen
            assert [line for line, _ in found] == lines[: len(found)]
            found = found[:-1]
            whole = [(line, {**row, "prompt": row["prompt"] or None}) for line, row in whole]
        assert found == whole[: len(found)], name
        assert problems or name in ("jsonl", "csv"), name


@settings(max_examples=30, deadline=None)
@given(rows=ROWS, at=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_a_changed_byte_is_never_a_crash(rows: Rows, at: float, byte: int) -> None:
    for name in ("jsonl", "json", "csv", *COLUMNAR, "jsonl.gz"):
        content = bytearray(encode(rows, name)[0])
        content[int(len(content) * at)] = byte
        read(bytes(content), name, [])

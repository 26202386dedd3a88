"""Forty folders of training data that cannot be trained on, each with what must be said of it."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

GOOD = {"messages": [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]}
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
SIGN_IN_PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body></body></html>\n"
DEMO, BARE = "demo", "bare"


@dataclass(frozen=True)
class Broken:
    """`build` fills the data folder. `place` is `file:line`, or the file alone; `words` are of the rule.

    `model`: the demo base model, or one without a chat template. `settings` go into the Workspace.
    """

    name: str
    build: Callable[[Path], None]
    place: str
    words: str
    model: str = DEMO
    settings: dict[str, Any] = field(default_factory=dict)


def file(name: str, content: bytes) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return build


def lines(*rows: Any) -> bytes:
    """JSON lines; what is a text already stays as it is."""
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()


def rows(*values: Any) -> Callable[[Path], None]:
    return file("train.jsonl", lines(*values))


def turns(*messages: Any) -> dict[str, Any]:
    return {"messages": list(messages)}


def turn(role: Any, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def parquet_bytes(values: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(values), sink)
    return sink.getvalue()


def arrow_bytes(values: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    table = pa.Table.from_pylist(values)
    with pyarrow.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def zip_bytes(name: str) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr(name, lines(GOOD))
    return sink.getvalue()


def damaged_page() -> bytes:
    """Parquet whose footer is whole and whose pages are not."""
    content = bytearray(parquet_bytes([{"prompt": f"p {number}", "completion": "c"} for number in range(2000)]))
    content[200:400] = b"\xff" * 200
    return bytes(content)


def dangling_link(folder: Path) -> None:
    (folder / "train.jsonl").symlink_to(folder / "not-there.jsonl")


def folder_named_as_data(folder: Path) -> None:
    (folder / "train.jsonl").mkdir()


ASK, ANSWER = turn("user", "question"), turn("assistant", "answer")
LONG = turns(turn("user", "word " * 300), ANSWER)

BROKEN = [
    # files that are not what their names say
    Broken("sign-in-page", file("train.parquet", SIGN_IN_PAGE), "train.parquet", "sign-in page"),
    Broken("sign-in-page-as-jsonl", file("train.jsonl", SIGN_IN_PAGE), "train.jsonl", "sign-in page"),
    Broken("lfs-pointer", file("data/train.parquet", LFS_POINTER), "data/train.parquet", "Git LFS pointer"),
    Broken("server-error", file("train.json", b'{"error": "access denied"}'), "train.json", "error message"),
    Broken("zip", file("train.zip", zip_bytes("train.jsonl")), "train.zip", "zip archive"),
    Broken("xlsx", file("train.xlsx", zip_bytes("xl/workbook.xml")), "train.xlsx", "Excel workbook"),
    Broken("utf-16", file("train.jsonl", lines(GOOD).decode().encode("utf-16")), "train.jsonl", "UTF-16"),
    Broken("empty-file", file("train.jsonl", b""), "train.jsonl", "empty"),
    Broken("blank-file", file("train.jsonl", b"\n \n"), "train.jsonl", "blank"),
    # files that are cut off or damaged
    Broken("cut-parquet", file("train.parquet", parquet_bytes([GOOD] * 50)[:-20]), "train.parquet", "truncated"),
    Broken("damaged-parquet", file("train.parquet", damaged_page()), "train.parquet", "damaged parquet"),
    Broken("cut-arrow", file("train.arrow", arrow_bytes([GOOD] * 50)[:-20]), "train.arrow", "truncated"),
    Broken("cut-gzip", file("train.jsonl.gz", gzip.compress(lines(*[GOOD] * 50))[:-12]), "train.jsonl.gz", "gzip"),
    Broken("cut-json", file("train.json", json.dumps([GOOD] * 2, indent=1).encode()[:-60]), "train.json:", "JSON"),
    Broken(
        "trailing-comma", file("train.json", b"[\n" + json.dumps(GOOD).encode() + b",\n]\n"), "train.json:3", "JSON"
    ),
    # folders
    Broken("empty-folder", lambda folder: None, "", "no data file"),
    Broken("readme-alone", file("README.md", b"# About\n"), "README.md", "no data file"),
    Broken("dangling-link", dangling_link, "train.jsonl", "link to a file that does not exist"),
    Broken("folder-named-as-data", folder_named_as_data, "", "no data file"),
    # lines that cannot be read
    Broken("not-json", rows(GOOD, GOOD, "not json"), "train.jsonl:3", "not JSON"),
    Broken("cut-last-line", file("train.jsonl", lines(GOOD, GOOD)[:-10]), "train.jsonl:2", "not JSON"),
    Broken("no-object", rows(GOOD, "[1, 2]"), "train.jsonl:2", "not a JSON object"),
    Broken("not-utf-8", file("train.jsonl", lines(GOOD) + b'{"text": "caf\xe9"}\n'), "train.jsonl:2", "not UTF-8"),
    Broken("nul-bytes", file("train.jsonl", lines(GOOD) + b'{"te\x00xt": "a"}\n'), "train.jsonl:2", "NUL bytes"),
    Broken("too-deep", rows(GOOD, '{"text": ' + "[" * 100_000 + "}"), "train.jsonl:2", "nest"),
    Broken("huge-number", rows(GOOD, '{"id": ' + "9" * 5000 + ', "text": "a"}'), "train.jsonl:2", "number"),
    Broken("key-twice", rows('{"text": "a", "text": "b"}'), "train.jsonl:1", "twice"),
    Broken("ragged-csv", file("train.csv", b"prompt,completion\na,b\nc,d,e\n"), "train.csv:3", "3 fields"),
    Broken("csv-header-alone", file("train.csv", b"prompt,completion\n"), "train.csv", "no rows"),
    # rows that are of no format
    Broken("unknown-columns", rows(GOOD, {"body_of_it": "a", "title": 1}), "train.jsonl:2", "no recognised format"),
    Broken("misnamed-columns", rows(GOOD, {"question": "a", "answer": "b"}), "train.jsonl:2", "column_mapping"),
    Broken("two-formats-in-a-row", rows(GOOD, GOOD | {"text": "a"}), "train.jsonl:2", "text"),
    Broken(
        "preference-pairs", rows({"prompt": "p", "chosen": "a", "rejected": "b"}), "train.jsonl:1", "preference pair"
    ),
    Broken("alpaca-without-output", rows({"instruction": "do", "input": ""}), "train.jsonl:1", "output"),
    Broken(
        "parquet-of-numbers",
        file("t.parquet", parquet_bytes([{"prompt": 1, "completion": 2}])),
        "t.parquet:1",
        "neither both strings",
    ),
    # conversations that teach nothing or cannot be read
    Broken("unknown-role", rows(GOOD, turns(turn("owner", "a"), ANSWER)), "train.jsonl:2", "unknown role"),
    Broken("no-assistant", rows(GOOD, turns(ASK)), "train.jsonl:2", "no assistant turn"),
    Broken("empty-content", rows(GOOD, turns(ASK, turn("assistant", " "))), "train.jsonl:2", "empty"),
    Broken("null-content", rows(GOOD, turns(ASK, turn("assistant", None))), "train.jsonl:2", "no content"),
    Broken("number-as-content", rows(GOOD, turns(ASK, turn("assistant", 7))), "train.jsonl:2", "a number, not text"),
    Broken("lone-surrogate", rows(GOOD, turns(ASK, turn("assistant", "\ud83d"))), "train.jsonl:2", "surrogate"),
    Broken("wrong-nesting", rows({"messages": [[ASK, ANSWER]]}), "train.jsonl:1", "a list, not {role, content}"),
    Broken("no-messages", rows(GOOD, turns()), "train.jsonl:2", "messages"),
    Broken(
        "picture", rows(turns(turn("user", [{"type": "image_url", "image_url": {}}]), ANSWER)), "train.jsonl:1", "image"
    ),
    # rows that the model or the settings cannot do with
    Broken("no-chat-template", rows(GOOD), "", "no chat template", BARE),
    Broken(
        "answers-behind-max-length",
        rows(LONG, LONG),
        "",
        "behind max_length",
        settings={"TrainingArguments": {"max_length": 32}},
    ),
    Broken(
        "rows-too-long",
        rows(GOOD, LONG),
        "train.jsonl:2",
        "more than max_length",
        settings={"TrainingArguments": {"max_length": 32}, "DatasetConfig": {"long_rows": "error"}},
    ),
    Broken(
        "named-column-missing",
        rows({"question": "a", "answer": "b"}),
        "train.jsonl:1",
        "no such column",
        settings={"DatasetConfig": {"column_mapping": {"prompt": "ask", "completion": "answer"}}},
    ),
    Broken(
        "path-that-is-not-there",
        rows(GOOD),
        "",
        "dataset_path 'other'",
        settings={"DatasetConfig": {"dataset_path": "other"}},
    ),
    Broken(
        "another-extension",
        rows(GOOD),
        "train.jsonl",
        "dataset_extension says parquet",
        settings={"DatasetConfig": {"dataset_extension": "parquet"}},
    ),
]

"""Which format a file has, and what a file is called that is not what it claims to be."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import ipc

from kaito.datasets.files import scan_folder
from kaito.datasets.read import read_rows
from kaito.failure import DataFailure

PAIR = {"prompt": "p", "completion": "c"}
LINE = json.dumps(PAIR) + "\n"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
ERROR = '{"error": {"code": 403, "message": "no"}, "status": 403}'


def parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([PAIR]), sink)
    return sink.getvalue()


def arrow(*, stream: bool) -> bytes:
    sink = io.BytesIO()
    table = pa.Table.from_pylist([PAIR])
    with (ipc.new_stream if stream else ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def tar() -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("0.json"), io.BytesIO())
    return sink.getvalue()


CONTENTS = {
    "jsonl": LINE.encode(),
    "json": b"[" + LINE.encode() + b"]",
    "csv": b"prompt,completion\np,c\n",
    "tsv": b"prompt\tcompletion\np\tc\n",
    "parquet": parquet(),
    "arrow": arrow(stream=False),
}


@pytest.mark.parametrize("name", ["data", "data.txt", "data.parquet", "data.csv", "data.arrow"])
@pytest.mark.parametrize("found", ["jsonl", "json", "parquet", "arrow"])
def test_a_file_is_recognised_by_its_content_whatever_its_name(name: str, found: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(CONTENTS[found])
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / name).write_bytes(gzip.compress(CONTENTS[found]))
    files = scan_folder(tmp_path).files
    assert [(file.name, file.format, file.kind) for file in files] == [
        (name, found, found),
        (f"packed/{name}", f"{found}.gz", found),
    ]
    assert [row.value for row in read_rows(files)] == [PAIR, PAIR]


def test_a_folder_may_mix_formats_and_each_file_has_its_own_reader(tmp_path: Path) -> None:
    for kind, content in CONTENTS.items():
        (tmp_path / f"a.{kind}").write_bytes(content)
        (tmp_path / f"b.{kind}.gz").write_bytes(gzip.compress(content))
    (tmp_path / "stream.arrow").write_bytes(arrow(stream=True))
    files = scan_folder(tmp_path).files
    assert [file.format for file in files] == [*sorted(CONTENTS), *(f"{kind}.gz" for kind in sorted(CONTENTS)), "arrow"]
    assert [row.value for row in read_rows(files)] == [PAIR] * 13


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("train.parquet", "<!DOCTYPE html><html>Sign in</html>", "HTML page"),
        ("train.jsonl", "\n  <html><body>", "HTML page"),
        ("train.csv", "<head><script>", "HTML page"),
        ("train", "<?xml version='1.0'?><Error>", "XML document"),
        ("train.csv", LFS, "Git LFS pointer"),
        ("train.parquet", LFS, "Git LFS pointer"),
        ("train.parquet", ERROR, "an error message of a server"),
        ("train.csv", '{\n  "message": "Not Found",\n  "status": "404"\n}\n', "an error message of a server"),
        ("train.jsonl", '{"detail": "x"}\n', "an error message of a server"),
        ("train.parquet", parquet()[:-1], "truncated parquet"),
        ("train", b"PAR1", "truncated parquet"),
        ("train.arrow", arrow(stream=False)[:-1], "truncated Arrow"),
        ("train.arrow", b"ARROW1\x00\x00", "truncated Arrow"),
        ("train.arrow", arrow(stream=True)[:-1], "truncated Arrow"),
        ("train.parquet", b"\x00\x01\x02\x03", "not parquet"),
        ("train.arrow", b"\x00\x01\x02\x03", "not Arrow"),
        ("train.csv", b"\x00\x01\x02\x03,b\n", "binary, not CSV"),
        ("train.jsonl", "", "empty"),
        ("train.csv", b"", "empty"),
        ("train.jsonl", " \n\n", "blank"),
        ("train.csv", "\ufeff \n", "blank"),
        ("train.jsonl", LINE.encode("utf-16"), "UTF-16"),
        ("train.jsonl", LINE.encode("utf-16-le"), "UTF-16"),
        ("train.csv", "prompt,completion\n".encode("utf-16-be"), "UTF-16"),
        ("train.jsonl", "prompt: a\n", "not a data file"),
        ("train.jsonl", b"\x00" * 64, "nothing but NUL bytes"),
        ("train.zip", b"PK\x03\x04", "zip"),
        ("train.xlsx", b"PK\x03\x04", "an Excel workbook"),
        ("train.jsonl.zst", b"\x28\xb5\x2f\xfd", "zstd"),
        ("train.jsonl.bz2", b"BZh91AY", "bzip2"),
        ("train.jsonl.xz", b"\xfd7zXZ\x00", "xz"),
        ("train.h5", b"\x89HDF\r\n\x1a\n", "HDF5"),
        ("train.avro", b"Obj\x01", "Avro"),
        ("train.parquet", b"PARE", "encrypted"),
        ("train.pkl", b"\x80\x04", "pickle"),
        ("train.xls", b"<html><table>", "HTML page"),
        ("shard-000.tar", tar(), "a tar archive"),
        ("train.tar.gz", gzip.compress(tar(), mtime=0), "a tar archive in gzip"),
        ("train.jsonl.gz", gzip.compress(gzip.compress(LINE.encode(), mtime=0), mtime=0), "gzip inside gzip"),
        ("train.jsonl.gz", gzip.compress(b"", mtime=0), "empty"),
        ("train.parquet.gz", gzip.compress(b"<html>", mtime=0), "HTML page"),
        ("train.csv.gz", gzip.compress(LFS.encode(), mtime=0), "Git LFS pointer"),
        ("train.jsonl.gz", b"\x1f\x8b\x08\x00", "cut short"),
        ("train.jsonl.gz", gzip.compress(LINE.encode(), mtime=0)[:-20], "cut short"),
        ("train.jsonl.gz", gzip.compress(LINE.encode(), mtime=0)[:-8] + b"\x00" * 8, "damaged"),
    ],
)
def test_a_file_that_is_not_what_it_claims_is_called_what_it_is(
    name: str, content: str | bytes, said: str, tmp_path: Path
) -> None:
    (tmp_path / "good.jsonl").write_text(LINE)
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataFailure) as failure:
        scan_folder(tmp_path)
    assert failure.value.message.startswith(f"{name}: ")
    assert said in failure.value.message
    assert failure.value.hint


@pytest.mark.parametrize("row", [{"error": "a", "fix": "b"}, {"message": "m", "label": 1}])
def test_a_row_that_also_has_other_keys_is_no_error_message(row: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    assert [found.value for found in read_rows(scan_folder(tmp_path).files)] == [row]


def test_what_is_no_data_and_does_not_claim_to_be_is_passed_over_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(LINE)
    others = {
        "notes.txt": "notes",
        "page.htm": "<html>",
        "weights.bin": LFS,
        "load.py": "import os",
        "empty.txt": "",
        "set.ini": "[a]",
    }
    for name, text in others.items():
        (tmp_path / name).write_text(text)
    os.mkfifo(tmp_path / "pipe.jsonl")
    listing = scan_folder(tmp_path)
    assert [file.name for file in listing.files] == ["x.jsonl"]
    assert dict(listing.skipped) == {
        **dict.fromkeys(others, "not data, by its content and its name"),
        "pipe.jsonl": "not a regular file",
    }


def test_a_folder_in_which_nothing_is_data_fails_and_says_what_was_found(tmp_path: Path) -> None:
    for number in range(7):
        (tmp_path / f"{number}.txt").write_text("plain text")
    (tmp_path / ".hidden").write_text(LINE)
    said = rf"no data file in {tmp_path}: found 0\.txt \(not data.*, 4\.txt .* and 2 more$"
    with pytest.raises(DataFailure, match=said) as failure:
        scan_folder(tmp_path)
    assert failure.value.reason == "NoData"
    assert "CSV" in failure.value.hint
    assert failure.value.hint.startswith('plain text: write one {"text": "…"} a line in a .jsonl file')


def test_a_file_that_should_have_been_data_is_never_passed_over(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").symlink_to(tmp_path / "gone")
    with pytest.raises(DataFailure, match=r"^x\.jsonl: a link to a file that does not exist"):
        scan_folder(tmp_path)
    (tmp_path / "x.jsonl").unlink()
    (tmp_path / os.fsdecode(b"\xff.jsonl")).write_text(LINE)
    with pytest.raises(DataFailure, match="a file whose name is not UTF-8"):
        scan_folder(tmp_path)

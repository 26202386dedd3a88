"""Which format a file has, by its content first and its name second; and what it is called if it is not data."""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from kaito.datasets.reading.columnar import ARROW_MAGIC, truncated_arrow, truncated_parquet
from kaito.datasets.reading.gunzip import GzipError, gunzip
from kaito.failure import DataFailure

Kind = Literal["jsonl", "json", "csv", "tsv", "parquet", "arrow"]
Format = Literal[Kind, "jsonl.gz", "json.gz", "csv.gz", "tsv.gz", "parquet.gz", "arrow.gz"]

RECOGNISED = (
    "JSON lines (.jsonl), a JSON array (.json), CSV and TSV with a header (.csv, .tsv), parquet, Arrow;"
    " each of them in gzip too"
)

_HEAD_BYTES = 16 << 10
_GZIP_MAGIC = b"\x1f\x8b"
_PARQUET_MAGIC = b"PAR1"
_STREAM_MAGIC = b"\xff\xff\xff\xff"
_BOM = b"\xef\xbb\xbf"
_JSON_BEGINS = re.compile(rb"\{\s*[\"}]|\[\s*[{\]]")
_NAMED: dict[str, Kind] = {".csv": "csv", ".tsv": "tsv", ".tab": "tsv"}
_COLUMNAR = {".parquet": "parquet", ".pq": "parquet", ".arrow": "Arrow", ".ipc": "Arrow", ".feather": "Arrow"}
_DATA_SUFFIXES = frozenset({"", ".jsonl", ".json", ".ndjson", *_NAMED, *_COLUMNAR})

_WITH_PANDAS = "convert it with pandas: read it, then to_parquet() or to_json(orient='records', lines=True)"
_AGAIN = "fetch or copy the file again"
_UNPACK = "unpack it, and give the files that are in it"
# First bytes -> (what it is, what to do).
_FOREIGN_MAGIC = {
    b"PK\x03\x04": ("a zip archive", _UNPACK),
    b"7z\xbc\xaf\x27\x1c": ("a 7-Zip archive", _UNPACK),
    b"Rar!\x1a\x07": ("a RAR archive", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("zstd-compressed", "unpack it (zstd -d), or compress it with gzip"),
    b"\xfd7zXZ\x00": ("xz-compressed", "unpack it (xz -d), or compress it with gzip"),
    b"BZh": ("bzip2-compressed", "unpack it (bzip2 -d), or compress it with gzip"),
    b"\x04\x22\x4d\x18": ("lz4-compressed", "unpack it (lz4 -d), or compress it with gzip"),
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file", _WITH_PANDAS),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("a document of Microsoft Office", "save it as 'CSV UTF-8'"),
    b"\x93NUMPY": ("a NumPy array", _WITH_PANDAS),
    b"Obj\x01": ("an Avro file", _WITH_PANDAS),
    b"ORC": ("an ORC file", _WITH_PANDAS),
    b"FEA1": ("a Feather file of version 1", "write it as Arrow (Feather version 2) or parquet"),
    b"SQLite format 3\x00": ("an SQLite database", "write its table as CSV or JSON lines"),
    b"PARE": ("parquet with an encrypted footer", "write it without encryption"),
    b"%PDF": ("a PDF document", "give the text as JSON lines"),
}
_FOREIGN_SUFFIXES = {
    ".xlsx": ("an Excel workbook", "save it as 'CSV UTF-8'"),
    ".xls": ("an Excel workbook", "save it as 'CSV UTF-8'"),
    ".ods": ("a spreadsheet", "save it as CSV in UTF-8"),
    ".pkl": ("a Python pickle", _WITH_PANDAS),
    ".pickle": ("a Python pickle", _WITH_PANDAS),
    ".tfrecord": ("a TFRecord file", "write it as JSON lines or parquet"),
}
_IN_GZIP: dict[Kind, Format] = {
    "jsonl": "jsonl.gz",
    "json": "json.gz",
    "csv": "csv.gz",
    "tsv": "tsv.gz",
    "parquet": "parquet.gz",
    "arrow": "arrow.gz",
}
_TAR_MAGIC, _TAR_OFFSET = b"ustar", 257
# The keys of the objects with which servers say why they do not give a file: one of the first, and no others.
_ERROR_KEYS = frozenset({"error", "errors", "message", "detail", "error_description"})
_BESIDE_ERROR_KEYS = frozenset(
    {"code", "status", "statuscode", "title", "type", "reason", "details", "description", "error_code", "path"}
    | {"request_id", "requestid", "trace_id", "timestamp", "documentation_url"}
)


def recognise(path: Path, name: str) -> Format | None:
    """The format of a file; None if it neither is data nor claims to be by its name.

    `name` is what failures call it. Raises DataFailure where it is broken, or holds what is not read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            if head.startswith(_GZIP_MAGIC):
                file.seek(0)
                inner = _recognise_gzip(file, name)
                return None if inner is None else _IN_GZIP[inner]
            kind = _recognise_head(head, name, _without_gz(name))
            if kind is not None:
                require_whole(file, kind, name)
            return kind
    except OSError as error:
        raise DataFailure(f"{name}: cannot be read: {error.strerror}", "check the file's permissions") from error


def require_whole(file: BinaryIO, kind: Kind, name: str) -> None:
    """Raise DataFailure where parquet or Arrow lacks its end. No other format has one that can be looked for."""
    if kind not in ("parquet", "arrow"):
        return
    size = file.seek(0, 2)
    file.seek(0)
    is_stream = file.read(len(ARROW_MAGIC)) != ARROW_MAGIC
    file.seek(max(0, size - 8))
    tail = file.read(8)
    file.seek(0)
    if kind == "parquet" and (size < 12 or not tail.endswith(_PARQUET_MAGIC)):
        raise truncated_parquet(name)
    if kind == "arrow" and not tail.endswith(b"\x00" * 4 if is_stream else ARROW_MAGIC):
        raise truncated_arrow(name)


def _recognise_gzip(packed: BinaryIO, name: str) -> Kind | None:
    """The format of what is inside. How it ends is seen when it is read to its end."""
    try:
        head = gunzip(packed).read(_HEAD_BYTES)
    except GzipError as error:
        raise DataFailure(f"{name}: {error}", _AGAIN) from error
    if name.lower().endswith(".tgz") or head[_TAR_OFFSET:].startswith(_TAR_MAGIC):
        raise _refused(name, "a tar archive in gzip", _UNPACK)
    if head.startswith(_GZIP_MAGIC):
        raise _refused(name, "gzip inside gzip", "compress it once")
    return _recognise_head(head, name, _without_gz(name))


def _without_gz(name: str) -> str:
    return name[:-3] if name.lower().endswith(".gz") else name


def _recognise_head(head: bytes, name: str, bare: str) -> Kind | None:
    """By the first bytes; `bare` is the name without `.gz`, which is not always true: servers and browsers unpack."""
    suffix = PurePosixPath(bare).suffix.lower()
    claims = suffix in _DATA_SUFFIXES or suffix in _FOREIGN_SUFFIXES
    text = head.removeprefix(_BOM).lstrip()
    if head.startswith(_PARQUET_MAGIC):
        return "parquet"
    if head.startswith((ARROW_MAGIC, _STREAM_MAGIC)):
        return "arrow"
    for magic, foreign in _FOREIGN_MAGIC.items():
        if head.startswith(magic):
            raise _refused(name, *_FOREIGN_SUFFIXES.get(suffix, foreign))
    if head[_TAR_OFFSET:].startswith(_TAR_MAGIC):
        raise _refused(name, "a tar archive", _UNPACK)
    if no_data := _text_that_is_no_data(head, text):
        if claims:
            raise DataFailure(f"{name}: {no_data[0]}", no_data[1])
        return None
    if text[:1] in b"{[" and not claims and not _JSON_BEGINS.match(text):
        return None  # notes, settings
    if text[:1] == b"{":
        if _is_server_error(text, whole=len(head) < _HEAD_BYTES):
            hint = "open the file, and fetch the data again once what it says is mended"
            raise DataFailure(f"{name}: an error message of a server (JSON), not the data", hint)
        return "jsonl"
    if text[:1] == b"[":
        return "json"
    if suffix in _NAMED:
        if b"\x00" in text.partition(b"\n")[0]:
            raise DataFailure(f"{name}: binary, not {suffix[1:].upper()}, though its name says so", _AGAIN)
        return _NAMED[suffix]
    if suffix in _COLUMNAR:
        raise DataFailure(f"{name}: not {_COLUMNAR[suffix]}, though its name says so", _AGAIN)
    if suffix in _FOREIGN_SUFFIXES:
        raise _refused(name, *_FOREIGN_SUFFIXES[suffix])
    if claims:
        raise _refused(name, "not a data file: it begins as none of the formats does", "")
    return None


def _text_that_is_no_data(head: bytes, text: bytes) -> tuple[str, str] | None:
    """What it is and what to do, for text (or none) that is no data under whatever name."""
    if not head:
        return "empty", _AGAIN
    if not text:
        return "blank", _AGAIN
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return "a Git LFS pointer, not the file it points to", "`git lfs pull` fetches that"
    if not text.strip(b"\x00"):
        return "nothing but NUL bytes, not a data file", _AGAIN
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or _is_utf16(head):
        return "UTF-16 text", "save it as UTF-8"
    if text.startswith(b"<?xml"):
        return "an XML document, perhaps an error message of a storage service, not the data", _AGAIN
    if text.startswith(b"<"):
        return "an HTML page, perhaps a sign-in page, not the data", "fetch it as a user who may, or sign the address"
    return None


def _is_utf16(head: bytes) -> bool:
    """Whether every other byte of the first ones is NUL: Latin text without a byte order mark."""
    return len(head) >= 4 and any(not any(head[odd:16:2]) and all(head[1 - odd : 16 : 2]) for odd in (0, 1))


def _is_server_error(text: bytes, *, whole: bool) -> bool:
    """Whether this is one JSON object with none but the keys of an error message."""
    if not whole:
        return False
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    keys = {key.casefold() for key in value} if isinstance(value, dict) else set()
    return bool(keys & _ERROR_KEYS) and keys <= _ERROR_KEYS | _BESIDE_ERROR_KEYS


def _refused(name: str, what: str, remedy: str) -> DataFailure:
    read = f"what is read: {RECOGNISED}"
    return DataFailure(f"{name}: {what}", f"{remedy}; {read}" if remedy else read)

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kaito.api.sections import DatasetConfig
from kaito.datasets import files_digest
from kaito.datasets.files import scan_folder
from kaito.datasets.read import count_rows, read_rows
from kaito.datasets.rows import Problem
from kaito.datasets.settings import scan_data
from kaito.failure import DataFailure, TemporaryFailure

PAIR = {"prompt": "p", "completion": "c"}
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
    return [(row.file, row.line) for row in read_rows(scan_folder(folder).files)]


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
            "_SUCCESS": "",
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
    assert dict(scan_folder(data).skipped)["picture.png"] == "not data, by its content and its name"
    assert count_rows(scan_folder(data).files) >= 6


@pytest.mark.parametrize(
    ("extension", "names"),
    [
        ("csv", ["a.csv", "b.csv.gz"]),
        (".csv.gz", ["a.csv", "b.csv.gz"]),
        ("jsonl", ["c.jsonl"]),
        ("json", ["c.jsonl"]),
        ("parquet", ["d.parquet"]),
    ],
)
def test_the_extension_that_is_asked_for_is_compared_with_what_is_inside(
    extension: str, names: list[str], tmp_path: Path
) -> None:
    table = b"prompt,completion\np,c\n"
    write(tmp_path / "data", {"a.csv": table, "b.csv.gz": gzip.compress(table), "c.jsonl": LINE})
    (tmp_path / "data" / "d.parquet").write_bytes(parquet(tmp_path / "p", [PAIR]))
    for file in scan_folder(tmp_path / "data").files:
        asked = DatasetConfig(dataset_extension=extension, dataset_path=file.name)
        if file.name in names:
            assert scan_data(tmp_path / "data", asked).files == (file,)
            continue
        with pytest.raises(DataFailure, match=r"DatasetConfig\.dataset_extension says"):
            scan_data(tmp_path / "data", asked)


def test_reading_goes_on_after_a_bad_line_for_who_counts_them(tmp_path: Path) -> None:
    data = write(tmp_path / "data", {"x.jsonl": LINE + "{\n" + LINE + "[]\n"})
    problems: list[Problem] = []
    assert [row.line for row in read_rows(scan_folder(data).files, problems.append)] == [1, 3]
    assert [problem.line for problem in problems] == [2, 4]


def test_a_file_that_is_gone_when_its_turn_comes_may_be_back_at_the_next_attempt(tmp_path: Path) -> None:
    data = write(tmp_path / "data", {"x.jsonl": LINE, "y.jsonl": LINE})
    files = scan_folder(data).files
    (data / "y.jsonl").unlink()
    with pytest.raises(TemporaryFailure, match=r"^y\.jsonl: cannot be read: No such file"):
        list(read_rows(files))


def test_a_missing_folder_is_a_data_failure(tmp_path: Path) -> None:
    with pytest.raises(DataFailure, match="does not exist"):
        scan_folder(tmp_path / "none")


def test_the_digest_follows_names_and_contents_of_data_alone(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {"x.jsonl": LINE, "sub/y.jsonl": LINE})
    b = write(tmp_path / "b", {"sub/y.jsonl": LINE, "x.jsonl": LINE, "README.md": "other"})
    assert files_digest(a) == files_digest(b)
    renamed = write(tmp_path / "c", {"x.jsonl": LINE, "sub/z.jsonl": LINE})
    changed = write(tmp_path / "d", {"x.jsonl": LINE + LINE, "sub/y.jsonl": LINE})
    assert len({files_digest(folder) for folder in (a, renamed, changed)}) == 3


def test_linked_folders_are_read_once_each(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", {"b.jsonl": LINE, "deep/c.jsonl": LINE})
    data = write(tmp_path / "data", {"a.jsonl": LINE, "sub/d.jsonl": LINE})
    (data / "more").symlink_to(tmp_path / "elsewhere")
    (data / "same").symlink_to(tmp_path / "elsewhere" / "deep")
    (data / "sub" / "round").symlink_to(data)
    listing = scan_folder(data)
    assert [file.name for file in listing.files] == ["a.jsonl", "more/b.jsonl", "more/deep/c.jsonl", "sub/d.jsonl"]
    again = "a link to a folder that is read already"
    assert listing.skipped == (("same", again), ("sub/round", again))


def test_a_linked_folder_alone_is_data(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", {"b.jsonl": LINE})
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "more").symlink_to(tmp_path / "elsewhere")
    assert [file.name for file in scan_folder(tmp_path / "data").files] == ["more/b.jsonl"]
    assert [file.name for file in scan_data(tmp_path / "data", DatasetConfig(dataset_path="more")).files] == [
        "more/b.jsonl"
    ]


def test_only_what_dataset_path_names_is_looked_at(tmp_path: Path) -> None:
    data = write(
        tmp_path / "data", {"train/a.jsonl": LINE, "train/sub/b.jsonl": LINE, "media/pics.zip": b"PK\x03\x04x"}
    )
    for path in ("train", "/mnt/data/train/", "./train"):
        found = scan_data(data, DatasetConfig(dataset_path=path)).files
        assert [file.name for file in found] == ["train/a.jsonl", "train/sub/b.jsonl"]
    assert [file.name for file in scan_data(data, DatasetConfig(dataset_path="train/a.jsonl")).files] == [
        "train/a.jsonl"
    ]
    for path in (None, "", ".", "media"):
        with pytest.raises(DataFailure, match=r"^media/pics\.zip: a zip archive"):
            scan_data(data, DatasetConfig(dataset_path=path))
    for path in ("gone", "../data/train", "train/a.jsonl/x"):
        with pytest.raises(DataFailure, match=r"no data file at DatasetConfig\.dataset_path") as failure:
            scan_data(data, DatasetConfig(dataset_path=path))
        assert failure.value.hint == "found: media/pics.zip, train/a.jsonl, train/sub/b.jsonl"


@pytest.mark.parametrize("name", ["a\nKAITO_REPORT {}.jsonl", "a\x1b[31m.jsonl", "a\u2028b.jsonl", "README\n.md"])
def test_a_file_whose_name_would_write_into_the_log_is_refused(name: str, tmp_path: Path) -> None:
    data = write(tmp_path / "data", {name: LINE, "日本 語.jsonl": LINE})
    with pytest.raises(DataFailure, match="control characters") as failure:
        scan_folder(data)
    assert failure.value.message.isprintable() and failure.value.message.isascii()
    (data / name).unlink()
    assert [file.name for file in scan_folder(data).files] == ["日本 語.jsonl"]

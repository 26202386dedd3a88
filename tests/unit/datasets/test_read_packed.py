"""Parquet, Arrow and gzip: rows are counted, memory is bounded, damage is found."""

from __future__ import annotations

import datetime
import gzip
import json
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import ipc

from kaito.datasets.files import scan_folder
from kaito.datasets.read import count_rows, read_rows
from kaito.datasets.reading import gunzip
from kaito.datasets.rows import Problem
from kaito.failure import DataFailure
from tests.memory import PEAK_BYTES

PAIR = {"prompt": "p", "completion": "c"}
LINE = json.dumps(PAIR) + "\n"
ROWS = [{"messages": [{"role": "user", "content": f"é{n}" * n}], "n": None if n % 3 else n} for n in range(1500)]


def write_table(path: Path, table: pa.Table, **options: Any) -> None:
    """By the path's suffix: parquet, Arrow file (.arrow) or Arrow stream (.stream)."""
    if path.suffix == ".parquet":
        pq.write_table(table, path, **options)
        return
    with (ipc.new_file if path.suffix == ".arrow" else ipc.new_stream)(path, table.schema, **options) as writer:
        writer.write_table(table, max_chunksize=700)


FORMATS = ["x.parquet", "x.arrow", "x.stream"]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_rows_of_record_batches_are_numbered(name: str, packed: bool, tmp_path: Path) -> None:
    path = tmp_path / name
    write_table(path, pa.Table.from_pylist(ROWS), **({"row_group_size": 400} if name == "x.parquet" else {}))
    if packed:
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
        path.unlink()
    files = scan_folder(tmp_path).files
    assert [(row.line, row.value) for row in read_rows(files)] == list(enumerate(ROWS, 1))
    assert count_rows(files) > 0
    assert [path.name for path in tmp_path.iterdir()] == [files[0].name]


@pytest.mark.parametrize("name", FORMATS)
def test_broken_utf8_is_the_problem_of_its_row(name: str, tmp_path: Path) -> None:
    column = pa.array([b"fine", b"\xff\xfe", b"fine"], type=pa.binary()).view(pa.string())
    nested = pa.StructArray.from_arrays([column], ["content"])
    write_table(tmp_path / name, pa.table({"prompt": column, "turn": nested}))
    problems: list[Problem] = []
    assert [row.line for row in read_rows(scan_folder(tmp_path).files, problems.append)] == [1, 3]
    assert [str(problem) for problem in problems] == [f"{name}:2: columns: not UTF-8: write strings as UTF-8"]


@pytest.mark.parametrize("name", FORMATS)
def test_columns_beside_the_text_may_have_any_type(name: str, tmp_path: Path) -> None:
    when = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    table = pa.table(
        {
            "text": pa.array(["a", "b"]).dictionary_encode(),
            "when": pa.array([1, 2**62 + 1], pa.timestamp("ns", "UTC")),
            "day": pa.array([0, None], pa.date32()),
            "turns": pa.array([[{"at": when}], None], pa.list_(pa.struct([("at", pa.timestamp("ns"))]))),
            "map": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
            "vector": pa.array([[1.0, 2.0]] * 2, pa.list_(pa.float32(), 2)),
        }
    )
    write_table(tmp_path / name, table)
    assert [row.value["text"] for row in read_rows(scan_folder(tmp_path).files)] == ["a", "b"]


@pytest.mark.parametrize("name", FORMATS)
def test_two_columns_of_one_name_are_refused(name: str, tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    write_table(tmp_path / name, table)
    with pytest.raises(DataFailure, match="several columns are called 'text'"):
        list(read_rows(scan_folder(tmp_path).files))


def test_damaged_parquet_is_a_failure_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write_table(path, pa.Table.from_pylist([{"prompt": "p" * 50, "completion": str(i)} for i in range(2000)]))
    whole = path.read_bytes()
    middle = bytearray(whole)
    middle[20:400] = b"\xff" * 380
    for content in (bytes(middle), whole[:10] + whole[-200:]):
        path.write_bytes(content)
        with pytest.raises(DataFailure, match=r"x\.parquet: damaged parquet"):
            list(read_rows(scan_folder(tmp_path).files))


def test_an_offset_that_leads_out_of_an_arrow_file_is_found_before_it_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "x.arrow"
    column = pa.array(["abc", "def"])
    write_table(path, pa.table({"prompt": column}))
    whole = path.read_bytes()
    offsets = b"".join(number.to_bytes(4, "little") for number in (0, 3, 6))
    assert whole.count(offsets) == 1
    path.write_bytes(whole.replace(offsets, offsets[:8] + (1 << 30).to_bytes(4, "little")))
    with pytest.raises(DataFailure, match=r"x\.arrow: damaged Arrow"):
        list(read_rows(scan_folder(tmp_path).files))


def test_an_arrow_stream_without_its_end_mark_and_one_with_more_behind_it_are_refused(tmp_path: Path) -> None:
    # The last batch ends as the end mark does: only its place tells the two apart.
    schema = pa.schema([("n", pa.int32())])
    path = tmp_path / "x.arrow"
    with ipc.new_stream(path, schema) as writer:
        writer.write_batch(pa.record_batch([pa.array([-1, 0], pa.int32())], schema=schema))
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    with pytest.raises(DataFailure, match="truncated Arrow"):
        list(read_rows(scan_folder(tmp_path).files))
    path.write_bytes(whole + whole)
    with pytest.raises(DataFailure, match="data behind the end"):
        list(read_rows(scan_folder(tmp_path).files))


# --- gzip -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lambda whole: whole[:-1], "cut short"),
        (lambda whole: whole[: len(whole) // 2], "cut short"),
        (lambda whole: whole[:-8] + bytes(8), "damaged"),
        (lambda whole: whole + b"more", "damaged"),
    ],
)
def test_damaged_gzip_is_called_that_with_the_last_good_line(fault: Any, said: str, tmp_path: Path) -> None:
    lines = [json.dumps({"text": zlib.crc32(b"%d" % n)}) for n in range(20_000)]
    (tmp_path / "x.jsonl.gz").write_bytes(fault(gzip.compress("\n".join(lines).encode())))
    good: list[int] = []
    problems: list[Problem] = []
    with pytest.raises(DataFailure, match=rf"x\.jsonl\.gz: the gzip stream is {said}") as failure:
        for row in read_rows(scan_folder(tmp_path).files, problems.append):
            good.append(row.line)
    assert failure.value.message.endswith(f"; the last good row is at line {good[-1]}")
    assert len(good) == good[-1] > 8000
    assert problems == []


def test_gzip_of_several_members_is_one_file(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(LINE.encode()) * 3)
    assert [row.line for row in read_rows(scan_folder(tmp_path).files)] == [1, 2, 3]


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_table_cut_off_before_it_was_compressed_is_called_truncated(kind: str, tmp_path: Path) -> None:
    write_table(tmp_path / f"x.{kind}", pa.Table.from_pylist(ROWS))
    content = (tmp_path / f"x.{kind}").read_bytes()
    (tmp_path / f"x.{kind}").unlink()
    (tmp_path / f"x.{kind}.gz").write_bytes(gzip.compress(content[:-99]))
    with pytest.raises(DataFailure, match=rf"^x\.{kind}\.gz: truncated"):
        list(read_rows(scan_folder(tmp_path).files))


def test_what_cannot_be_unpacked_beside_others_needs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gunzip, "_SPARED_SHARE", 1)  # as if the whole disk were to be spared
    monkeypatch.setattr(gunzip, "_SPARED_BYTES", 1 << 60)
    write_table(tmp_path / "x.parquet", pa.Table.from_pylist(ROWS))
    (tmp_path / "x.parquet").write_bytes(gzip.compress((tmp_path / "x.parquet").read_bytes()))
    with pytest.raises(DataFailure, match=r"^x\.parquet: no room on the disk to unpack it"):
        list(read_rows(scan_folder(tmp_path).files))


# --- memory ---------------------------------------------------------------------------------------------------------

PEAK = f"""
import sys
from pathlib import Path
from kaito.datasets.files import scan_folder
from kaito.datasets.read import read_rows
import pyarrow.parquet, pyarrow.ipc
from tests.memory import PEAK_BYTES

def peak():
    return {PEAK_BYTES}

before = peak()
problems = []
rows = sum(1 for _ in read_rows(scan_folder(Path(sys.argv[1])).files, problems.append))
print(rows, len(problems), peak() - before >> 20)
"""


def peak_mebibytes(folder: Path) -> tuple[int, int, int]:
    """Rows, problems, and by how many MiB memory grew while the folder was read."""
    ran = subprocess.run([sys.executable, "-c", PEAK, folder], check=True, capture_output=True, text=True)
    rows, problems, peak = map(int, ran.stdout.split())
    return rows, problems, peak


def test_a_parquet_row_group_of_any_size_is_read_in_little_memory(tmp_path: Path) -> None:
    rows = [{"text": f"{n:x}" * 200} for n in range(10**6, 10**6 + 1000)]
    table = pa.concat_tables([pa.Table.from_pylist(rows)] * 200)
    write_table(tmp_path / "x.parquet", table, row_group_size=10**9, compression="none", use_dictionary=False)
    assert (tmp_path / "x.parquet").stat().st_size > 180 << 20
    found, problems, peak = peak_mebibytes(tmp_path)
    assert (found, problems) == (200_000, 0)
    assert peak < 60


def test_an_arrow_record_batch_of_any_size_is_read_in_little_memory(tmp_path: Path) -> None:
    rows = [{"text": f"{n:x}" * 200} for n in range(10**6, 10**6 + 1000)]
    table = pa.concat_tables([pa.Table.from_pylist(rows)] * 200).combine_chunks()
    with ipc.new_file(tmp_path / "x.arrow", table.schema) as writer:
        writer.write_table(table)
    found, problems, peak = peak_mebibytes(tmp_path)
    assert (found, problems) == (200_000, 0)
    assert peak < 60


def test_a_json_array_of_any_size_is_read_in_little_memory(tmp_path: Path) -> None:
    element = json.dumps({"text": "x" * 10_000})
    (tmp_path / "x.json").write_text("[" + ",\n".join([element] * 10_000) + "]")
    found, problems, peak = peak_mebibytes(tmp_path)
    assert (found, problems) == (10_000, 0)
    assert peak < 30


@pytest.mark.parametrize(
    ("name", "start", "end", "found"),
    [("x.jsonl.gz", '{"text": "', '"}\n' + LINE, (1, 1)), ("x.json.gz", "[", LINE + "]", (1, 0))],
)
def test_a_gzip_bomb_costs_time_and_no_memory(
    name: str, start: str, end: str, found: tuple[int, int], tmp_path: Path
) -> None:
    packer = zlib.compressobj(wbits=31)
    blocks = [packer.compress(start.encode()), *(packer.compress(b" " * (1 << 20)) for _ in range(300))]
    (tmp_path / name).write_bytes(b"".join(blocks) + packer.compress(end.encode()) + packer.flush())
    assert (tmp_path / name).stat().st_size < 1 << 20
    rows, problems, peak = peak_mebibytes(tmp_path)
    assert (rows, problems) == found
    assert peak < 200


INSTANT = pa.timestamp("ns")
NANOSECONDS = 1_700_000_000_123_456_789  # no datetime has them
NESTED = {
    "map": pa.array([[("k", NANOSECONDS)]], pa.map_(pa.string(), INSTANT)),
    "keys of a map": pa.array([[(NANOSECONDS, "v")]], pa.map_(INSTANT, pa.string())),
    "fixed-size list": pa.array([[NANOSECONDS]], pa.list_(INSTANT, 1)),
    "list view": pa.array([[{"x": NANOSECONDS}]], pa.list_view(pa.struct([("x", INSTANT)]))),
    "large list view": pa.array([[NANOSECONDS]], pa.large_list_view(INSTANT)),
    "dictionary": pa.array([NANOSECONDS], INSTANT).dictionary_encode(),
    "dictionary in a struct": pa.StructArray.from_arrays(
        [pa.array([NANOSECONDS], pa.duration("ns")).dictionary_encode()], names=["x"]
    ),
    "date beyond all": pa.array([2**30], pa.int32()).view(pa.date32()),
}


@pytest.mark.parametrize("kind", NESTED)
def test_points_in_time_are_no_obstacle_wherever_they_are(kind: str, tmp_path: Path) -> None:
    write_table(tmp_path / "x.arrow", pa.table({"text": ["a"], "when": NESTED[kind], "last": [1]}))
    (row,) = read_rows(scan_folder(tmp_path).files)
    assert (row.value["text"], row.value["last"]) == ("a", 1)
    assert str(NANOSECONDS) in str(row.value["when"]) or kind == "date beyond all"


def test_values_that_python_has_not_are_named_by_their_column_alone(tmp_path: Path) -> None:
    pc = pytest.importorskip("pyarrow.compute")
    when = pc.run_end_encode(pa.array([NANOSECONDS], INSTANT))
    write_table(tmp_path / "x.arrow", pa.table({"text": ["a"], "when": when}))
    with pytest.raises(
        DataFailure, match="values of column 'when', of type run_end_encoded, cannot be read"
    ) as failure:
        list(read_rows(scan_folder(tmp_path).files))
    assert str(NANOSECONDS) not in failure.value.message
    assert failure.value.__cause__ is None and failure.value.__suppress_context__


def test_rows_that_cannot_be_counted_are_taken_to_be_of_a_usual_size(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [f"{n}" * 200 for n in range(5000)]}), tmp_path / "x.parquet")
    (tmp_path / "x.parquet.gz").write_bytes(gzip.compress((tmp_path / "x.parquet").read_bytes()))
    (tmp_path / "x.parquet").unlink()
    (tmp_path / "y.jsonl").write_text(LINE)
    files = scan_folder(tmp_path).files
    assert count_rows(files) == 1 + files[0].bytes * 4 // 1024

"""Parquet and Arrow (the file and the stream): rows of record batches, a few at a time. `Row.line` counts rows."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from kaito.datasets.reading import OnBad
from kaito.datasets.rows import Problem, Row, shown
from kaito.failure import DataFailure

if TYPE_CHECKING:
    import pyarrow as pa

ARROW_MAGIC = b"ARROW1"

_READ_ROWS = 512
_READ_BYTES = 8 << 20
_BUFFER_BYTES = 1 << 20
_AGAIN = "fetch, copy or write the file again"


def read_parquet(file: BinaryIO, name: str, report: OnBad) -> Iterator[Row]:
    """The rows of a parquet file. Memory is that of a few pages a column, however large a row group is."""
    import pyarrow.parquet as pq

    def batches() -> Iterator[pa.RecordBatch]:
        # By default the column chunks of a whole row group are held: a buffer, and no pre-buffering, streams them.
        options = {"pre_buffer": False, "buffer_size": _BUFFER_BYTES, "page_checksum_verification": True}
        with pq.ParquetFile(file, **options) as table:
            _require_unique(table.schema_arrow.names, name)
            groups = (table.metadata.row_group(index) for index in range(table.metadata.num_row_groups))
            size = _rows_at_once(sum(group.total_byte_size for group in groups), table.metadata.num_rows)
            yield from table.iter_batches(batch_size=size, use_threads=False)

    return _read_batches(batches(), "parquet", name, report)


def read_arrow(file: BinaryIO, name: str, report: OnBad) -> Iterator[Row]:
    """The rows of an Arrow IPC file or stream. The file is mapped: what has been read is let go of."""
    mapped, source = _map(file)

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in _file_batches(source, name) if mapped[:6] == ARROW_MAGIC else _stream_batches(source, name):
            _require_sound(batch)
            size = _rows_at_once(batch.nbytes, batch.num_rows)
            for start in range(0, batch.num_rows, size):
                yield batch.slice(start, size)
                mapped.madvise(mmap.MADV_DONTNEED)

    return _read_batches(batches(), "Arrow", name, report)


def count_parquet(file: BinaryIO) -> int:
    """The number of rows, by the footer; 0 of a damaged file."""
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(file).num_rows)
    except _faults():
        return 0


def count_arrow(file: BinaryIO) -> int:
    """About the number of rows, by the first record batch; 0 of a damaged file."""
    from pyarrow import ipc

    mapped, source = _map(file)
    try:
        if mapped[:6] == ARROW_MAGIC:
            reader = ipc.open_file(source)
            return int(reader.get_batch(0).num_rows * reader.num_record_batches) if reader.num_record_batches else 0
        batch = ipc.open_stream(source).read_next_batch()
        return int(batch.num_rows * source.size() // source.tell())
    except StopIteration:  # a stream without batches
        return 0
    except _faults():
        return 0


def _map(file: BinaryIO) -> tuple[mmap.mmap, pa.BufferReader]:
    import pyarrow as pa

    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return mapped, pa.BufferReader(pa.py_buffer(mapped))


def _faults() -> tuple[type[Exception], ...]:
    """What a damaged file raises: the two last where the names of columns are broken, and lengths absurd."""
    import pyarrow as pa

    return pa.ArrowException, OSError, UnicodeDecodeError, MemoryError


def _file_batches(source: pa.BufferReader, name: str) -> Iterator[pa.RecordBatch]:
    from pyarrow import ipc

    reader = ipc.open_file(source)
    _require_unique(reader.schema.names, name)
    for index in range(reader.num_record_batches):
        yield reader.get_batch(index)


def _stream_batches(source: pa.BufferReader, name: str) -> Iterator[pa.RecordBatch]:
    """Until the stream's end mark, which must be there: without it, nobody knows whether all batches are."""
    from pyarrow import ipc

    reader = ipc.open_stream(source)
    _require_unique(reader.schema.names, name)
    while True:
        begin = source.tell()
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            break
        yield batch
    if source.tell() == begin:
        raise truncated_arrow(name)
    if source.tell() != source.size():
        raise DataFailure(f"{name}: data behind the end of the Arrow stream", "give each stream a file of its own")


def truncated_arrow(name: str) -> DataFailure:
    return DataFailure(f"{name}: truncated Arrow: its end is missing", _AGAIN)


def truncated_parquet(name: str) -> DataFailure:
    return DataFailure(f"{name}: truncated parquet: its footer is missing", _AGAIN)


def _read_batches(batches: Iterator[pa.RecordBatch], kind: str, name: str, report: OnBad) -> Iterator[Row]:
    import pyarrow as pa

    number = 0
    try:
        for batch in batches:
            for value in _plain_rows(_plain(batch), name):
                number += 1
                if value is None:
                    report(Problem(name, number, "columns", "not UTF-8", "write strings as UTF-8"))
                else:
                    yield Row(name, number, value)
    except pa.ArrowNotImplementedError as error:
        raise DataFailure(f"{name}: {kind} that cannot be read: {_first_line(error)}", "write it otherwise") from error
    except _faults() as error:
        where = f" after row {number}" if number else ""
        raise DataFailure(f"{name}: damaged {kind}{where}: {_first_line(error)}", _AGAIN) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _rows_at_once(size: int, rows: int) -> int:
    """How many rows of `size` bytes in all are made plain at once: few where they are long."""
    return max(1, min(_READ_ROWS, _READ_BYTES * rows // max(size, 1)))


def _require_unique(names: list[str], name: str) -> None:
    twice = sorted({column for column in names if names.count(column) > 1})
    if twice:
        rule = f"{name}: several columns are called '{shown(twice[0])}'"
        raise DataFailure(rule, "give each column a name of its own")


def _plain_rows(batch: pa.RecordBatch, name: str) -> Iterator[dict[str, Any] | None]:
    """The rows of a record batch as plain values; None for one that holds broken UTF-8. Raises DataFailure where a
    column has values that Python has not: what pyarrow says then quotes them."""
    import pyarrow as pa

    try:
        yield from batch.to_pylist()
        return
    except UnicodeDecodeError:
        pass  # row by row, to know which
    except pa.ArrowException:
        raise
    except (ValueError, OverflowError):
        raise _foreign_values(batch, name) from None
    for start in range(batch.num_rows):
        try:
            yield batch.slice(start, 1).to_pylist()[0]
        except UnicodeDecodeError:
            yield None


def _foreign_values(batch: pa.RecordBatch, name: str) -> DataFailure:
    for column, values in zip(batch.schema.names, batch.columns, strict=True):
        try:
            values.to_pylist()
        except (ValueError, OverflowError):
            kind = str(values.type).partition("<")[0].partition("[")[0]
            rule = f"{name}: values of column '{shown(column)}', of type {kind}, cannot be read"
            return DataFailure(rule, "leave the column out, or write it as text or numbers")
    return DataFailure(f"{name}: values of a column cannot be read", "leave it out, or write it as text or numbers")


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with points in time as numbers: some have no counterpart in Python, and none is text to train on."""
    return _retyped(batch, _number_of_time)


def _require_sound(batch: pa.RecordBatch) -> None:
    """Raise pa.ArrowInvalid where an offset leads out of its buffer, as in a damaged file: reading would crash.

    Strings are looked at as bytes: whether they are UTF-8 is a question for each row.
    """
    _retyped(batch, _bytes_of_text).validate(full=True)


def _number_of_time(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    if pa.types.is_temporal(kind) and kind.bit_width in (32, 64):
        return pa.int32() if kind.bit_width == 32 else pa.int64()
    return kind


def _bytes_of_text(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    if pa.types.is_string(kind):
        return pa.binary()
    return pa.large_binary() if pa.types.is_large_string(kind) else kind


def _retyped(batch: pa.RecordBatch, leaf: Callable[[pa.DataType], pa.DataType]) -> pa.RecordBatch:
    """The same buffers seen as other types; no data are copied."""
    import pyarrow as pa

    wanted = [_mapped(column.type, leaf) for column in batch.columns]
    columns = [
        column if kind == column.type else column.view(kind) for column, kind in zip(batch.columns, wanted, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _mapped(kind: pa.DataType, leaf: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_mapped(field.type, leaf)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_mapped(kind.value_type, leaf)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_mapped(kind.value_type, leaf)))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_mapped(kind.value_type, leaf)), kind.list_size)
    if pa.types.is_list_view(kind):
        return pa.list_view(kind.value_field.with_type(_mapped(kind.value_type, leaf)))
    if pa.types.is_large_list_view(kind):
        return pa.large_list_view(kind.value_field.with_type(_mapped(kind.value_type, leaf)))
    if pa.types.is_map(kind):
        key, item = (field.with_type(_mapped(field.type, leaf)) for field in (kind.key_field, kind.item_field))
        return pa.map_(key, item, keys_sorted=kind.keys_sorted)
    if pa.types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, _mapped(kind.value_type, leaf), ordered=kind.ordered)
    return leaf(kind)

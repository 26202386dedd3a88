"""gzip, as a stream of bounded memory, and unpacked to disk for the formats that are read from their end."""

from __future__ import annotations

import errno
import gzip
import io
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from kaito.failure import DataFailure

_BUFFER_BYTES = 1 << 20
# What unpacking leaves free on the disk, as checkpoints and logs of others need it; of a small disk a smaller share.
_SPARED_BYTES = 1 << 30
_SPARED_SHARE = 20


class GzipError(Exception):
    """A gzip stream that is cut short or damaged. What was read before is whole."""


def gunzip(packed: BinaryIO) -> io.BufferedReader:
    """What is inside `packed`, decompressed as it is read. Reading raises GzipError."""
    return io.BufferedReader(_Unpacked(packed), _BUFFER_BYTES)


@contextmanager
def unpacked(packed: BinaryIO, path: Path, name: str) -> Iterator[BinaryIO]:
    """What is inside `packed`, as a nameless file beside `path` or, where that cannot be, in the temporary folder.

    Raises GzipError; DataFailure where the disk has no room for it.
    """
    with _nameless(path.parent) as file:
        stream = gunzip(packed)
        while chunk := stream.read(_BUFFER_BYTES):
            disk = shutil.disk_usage(file.fileno())
            if disk.free < min(_SPARED_BYTES, disk.total // _SPARED_SHARE):
                raise _no_room(name)
            try:
                file.write(chunk)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise _no_room(name) from error
                raise
        file.seek(0)
        yield file


def _nameless(folder: Path) -> BinaryIO:
    try:
        return tempfile.TemporaryFile(dir=folder)
    except OSError:  # a read-only volume
        return tempfile.TemporaryFile()


def _no_room(name: str) -> DataFailure:
    return DataFailure(f"{name}: no room on the disk to unpack it", "unpack it with gunzip, or give JSON lines in gzip")


class _Unpacked(io.RawIOBase):
    """The content of a gzip file. What is whole is given before a fault behind it is raised: no line of it is lost."""

    def __init__(self, packed: BinaryIO) -> None:
        super().__init__()
        self._file = gzip.GzipFile(fileobj=packed)

    def readable(self) -> bool:
        return True

    def readinto(self, into: object) -> int:
        view = memoryview(into)  # type: ignore[arg-type]  # the io module says WriteableBuffer, typeshed's own name
        try:
            data = self._file.read1(len(view))
        except EOFError as error:
            raise GzipError("the gzip stream is cut short") from error
        except gzip.BadGzipFile as error:
            raise GzipError(f"the gzip stream is damaged ({error})") from error
        except zlib.error as error:
            raise GzipError("the gzip stream is damaged") from error
        view[: len(data)] = data
        return len(data)

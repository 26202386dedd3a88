"""Image layers written reproducibly: the same files give the same bytes on every machine. Streams; no network."""

from __future__ import annotations

import hashlib
import struct
import tarfile
import tempfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from kaito.oci.media import LAYER_TAR_GZIP
from kaito.transfer import require_free_space

# Deflate's "stored" block: one flag byte, length and its complement, at most this many bytes.
_STORED_BYTES = 65535
_GZIP_HEADER = bytes([0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 0xFF])
_FORMAT = tarfile.PAX_FORMAT
_WRITE_BYTES = 1 << 18
_OVERHEAD_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Layer:
    """A finished layer in a temporary file that has no name and goes when it is closed. Digests are `sha256:…`."""

    file: IO[bytes]
    digest: str
    diff_id: str
    size: int
    media_type: str = LAYER_TAR_GZIP


def build_layer(files: Iterable[Path], folder: str, work: Path) -> Layer:
    """Pack files, sorted by name, into `folder/` of a tar+gzip layer: owner root, time 0, mode 0644.

    The gzip stream stores and does not compress: weights hardly shrink, and what zlib's versions and replacements
    make of the same input differs, so that the digest would depend on the machine. `work` is the folder of the
    temporary file. Constant memory. Raises OSError, NoSpace.
    """
    members = sorted(files, key=lambda path: path.name)
    require_free_space(work, sum(path.stat().st_size for path in members) + _OVERHEAD_BYTES)
    file: IO[bytes] = tempfile.TemporaryFile(dir=work)  # noqa: SIM115  the Layer owns it
    stream = _StoredGzip(file)
    with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="w|", bufsize=_WRITE_BYTES, format=_FORMAT) as archive:
        archive.addfile(_build_entry(folder + "/", tarfile.DIRTYPE, 0o755))
        for path in members:
            entry = _build_entry(f"{folder}/{path.name}", tarfile.REGTYPE, 0o644)
            with path.open("rb") as source:
                entry.size = path.stat().st_size
                archive.addfile(entry, source)
    return stream.finish()


def _build_entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)  # owner 0:0 without names, time 0
    entry.type, entry.mode = kind, mode
    return entry


class _StoredGzip:
    """A file to write to that makes a gzip stream of stored blocks and the digests of both sides."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._inner, self._outer = hashlib.sha256(), hashlib.sha256()
        self._checksum = 0
        self._length = 0
        self._size = 0
        self._pending = bytearray()
        self._emit(_GZIP_HEADER)

    def write(self, data: bytes) -> int:
        self._inner.update(data)
        self._checksum = zlib.crc32(data, self._checksum)
        self._length += len(data)
        self._pending += data
        if len(self._pending) > _STORED_BYTES:
            whole = (len(self._pending) - 1) // _STORED_BYTES  # the last block is kept: it is marked
            for start in range(0, whole * _STORED_BYTES, _STORED_BYTES):
                self._emit_block(self._pending[start : start + _STORED_BYTES], is_last=False)
            del self._pending[: whole * _STORED_BYTES]
        return len(data)

    def finish(self) -> Layer:
        self._emit_block(self._pending, is_last=True)
        self._emit(struct.pack("<II", self._checksum, self._length & 0xFFFFFFFF))
        self._file.flush()
        digests = [f"sha256:{digest.hexdigest()}" for digest in (self._outer, self._inner)]
        return Layer(self._file, digests[0], digests[1], self._size)

    def _emit_block(self, block: bytes | bytearray, *, is_last: bool) -> None:
        length = len(block)
        self._emit(struct.pack("<BHH", int(is_last), length, length ^ 0xFFFF))
        self._emit(block)

    def _emit(self, data: bytes | bytearray) -> None:
        self._outer.update(data)
        self._file.write(data)
        self._size += len(data)

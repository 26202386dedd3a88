"""One file from an address to the disk: resumed, verified, and there either whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from email.message import Message
from pathlib import Path
from urllib.parse import unquote

import httpx

from kaito.transfer.errors import DigestMismatch, TransferError
from kaito.transfer.retry import backoff, connection_error, send, shown
from kaito.transfer.space import full_disk_named, require_free_space

Progress = Callable[[int, int], None]

_CHUNK_BYTES = 1 << 20
# This much in one go counts as progress: the attempts are counted anew.
_PROGRESS_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Downloaded:
    """`name` is what the server, or else the address, calls the file: one path segment, "" if neither does."""

    path: Path
    bytes: int
    sha256: str
    name: str


def download(
    client: httpx.Client,
    url: str,
    target: Path,
    *,
    headers: Mapping[str, str] | None = None,
    size: int | None = None,
    sha256: str | None = None,
    max_bytes: int | None = None,
    attempts: int = 5,
    progress: Progress | None = None,
    place: Callable[[Downloaded], Path] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Downloaded:
    """Download `url` into the file `target`, which appears only when it is complete, verified and synced.

    What has arrived lies in `TARGET.part` and is continued, also by a later process, if the server still has the same
    file (If-Range). `size` in bytes and `sha256` (hex) are verified; a wrong digest is fetched once more from the
    start. `progress(done, total)` in bytes, about once a MiB, total 0 where it is not known. `place` may choose
    another path in the target's folder once all has arrived: what it records then counts from the moment that the file
    is there, and if it raises, nothing that has arrived is fetched again. Raises TransferError, HostRefused,
    DigestMismatch, NoSpace.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _Part(target, source=shown(url))
    for last in (False, True):
        with full_disk_named(target.parent):
            _fetch(
                client,
                url,
                part,
                headers=dict(headers or {}),
                size=size,
                sha256=sha256,
                max_bytes=max_bytes,
                attempts=attempts,
                progress=progress,
                sleep=sleep,
            )
            wrong = _mismatch(part, size, sha256)
            if wrong is None:
                found = Downloaded(part.path, part.length, part.digest, part.name or _name_of_address(url))
                final = target if place is None else place(found)
                part.finish(final)
                return replace(found, path=final)
            part.clear()
        if last:
            raise DigestMismatch(f"GET {shown(url)}: {wrong}")
    raise AssertionError("the loop ends by return or raise")


class _Part:
    """The bytes that have arrived, their running digest, the file's name at the server, and the validator by which they
    may be continued."""

    def __init__(self, target: Path, source: str) -> None:
        self.target = target
        self._source = hashlib.sha256(source.encode()).hexdigest()
        self.path = target.with_name(target.name + ".part")
        self._note = target.with_name(target.name + ".part.json")
        self.validator, self.name = self._read_note()
        self.length = 0
        self._hash = hashlib.sha256()
        if self.path.is_file():
            with self.path.open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    self._add(chunk)

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def start_over(self, validator: str, name: str) -> None:
        self.clear()
        self.validator, self.name = validator, name
        note = {"source": self._source, "validator": validator, "name": name}
        self._note.write_text(json.dumps(note), encoding="utf-8")

    def append(self, chunks: Iterator[bytes], limit: int | None) -> Iterator[int]:
        """Write the chunks at the end; yields the length after each."""
        with self.path.open("ab") as file:
            for chunk in chunks:
                if limit is not None and self.length + len(chunk) > limit:
                    self.clear()
                    raise DigestMismatch(f"{self.target.name}: more arrives than the {limit} bytes that are expected")
                file.write(chunk)
                file.flush()  # a process that is killed keeps what it has got, to the last byte
                self._add(chunk)
                yield self.length
            os.fsync(file.fileno())

    def finish(self, target: Path) -> None:
        if not self.path.exists():
            self.path.touch()
        self.path.replace(target)
        self._note.unlink(missing_ok=True)
        folder = os.open(self.target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)
        self.length, self._hash, self.validator, self.name = 0, hashlib.sha256(), "", ""

    def _add(self, chunk: bytes) -> None:
        self.length += len(chunk)
        self._hash.update(chunk)

    def _read_note(self) -> tuple[str, str]:
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            return (str(note["validator"]), str(note["name"])) if note["source"] == self._source else ("", "")
        except (OSError, ValueError, KeyError, TypeError):
            return "", ""


def _fetch(
    client: httpx.Client,
    url: str,
    part: _Part,
    *,
    headers: dict[str, str],
    size: int | None,
    sha256: str | None,
    max_bytes: int | None,
    attempts: int,
    progress: Progress | None,
    sleep: Callable[[float], None],
) -> None:
    """Fill the part to its end."""
    failures = 0
    furthest = part.length
    while True:
        if size is not None and part.length > size:
            part.clear()
        # Without a validator only a known digest can tell a spliced file from a good one.
        if part.length and not part.validator and sha256 is None:
            part.clear()
        if size is not None and part.length == size and sha256 is not None and part.length > 0:
            return
        try:
            response = send(
                client,
                "GET",
                url,
                headers=headers | _range_headers(part),
                expect=(200, 206, 416),
                stream=True,
                attempts=max(1, attempts - failures),
                name_attempts=max(1, attempts - failures),
                sleep=sleep,
            )
            try:
                if _receive(url, response, part, size, max_bytes, progress):
                    return
            finally:
                response.close()
        except httpx.TransportError as cause:
            # Farther than ever: a server without Range that always breaks off begins anew each time, for ever.
            failures = 1 if part.length - furthest >= _PROGRESS_BYTES else failures + 1
            furthest = max(furthest, part.length)
            error = connection_error("GET", url, cause)
            if not error.retryable or failures >= attempts:
                raise error from cause
            sleep(backoff(failures))


def _range_headers(part: _Part) -> dict[str, str]:
    if not part.length:
        return {}
    headers = {"Range": f"bytes={part.length}-"}
    return headers | {"If-Range": part.validator} if part.validator else headers


def _receive(
    url: str,
    response: httpx.Response,
    part: _Part,
    size: int | None,
    max_bytes: int | None,
    progress: Progress | None,
) -> bool:
    """Take an answer's body into the part. False if the part did not fit to the answer and was thrown away."""
    name = part.name if response.status_code == 206 and part.name else _suggest_name(url, response)
    encoded = _is_encoded(response, name)
    if response.status_code == 416:
        complete = _total_of_range(response) == part.length
        if not complete:
            if not part.length:
                raise TransferError(f"GET {shown(response.request.url)}: the server refuses the whole file", status=416)
            part.clear()
        return complete
    if response.status_code == 206:
        if encoded or _start_of_range(response) != part.length or _is_of_another(response, part.validator):
            if not part.length:
                raise TransferError(f"GET {shown(response.request.url)}: the server sends a part unasked", status=206)
            part.clear()
            return False
        total = _total_of_range(response) or 0
    else:
        part.start_over("" if encoded else _validator(response), name)
        length = response.headers.get("content-length", "")
        total = int(length) if length.isdigit() and not encoded else 0
    if size is not None and total and total != size:
        raise DigestMismatch(f"GET {shown(response.request.url)}: the server has {total} bytes, {size} are expected")
    if max_bytes is not None and total > max_bytes:
        raise TransferError(f"GET {shown(response.request.url)}: {total} bytes, more than the {max_bytes} allowed")
    total = total or size or 0
    require_free_space(part.target.parent, max(0, total - part.length))
    # The server's own coding is undone: a file is what it is named, and a coded body cannot be continued.
    # No chunk size: what has arrived before a cut is written, to the last byte.
    chunks = response.iter_bytes() if encoded else response.iter_raw()
    told = part.length
    for done in part.append(chunks, size if size is not None else max_bytes):
        if progress is not None and done - told >= _PROGRESS_BYTES:
            progress(done, total)
            told = done
    if progress is not None:
        progress(part.length, total or part.length)
    return True


def _is_encoded(response: httpx.Response, name: str) -> bool:
    """Whether the body is in a coding of the server's own. Of `x.gz`, gzip is no coding but the file itself."""
    coding = response.headers.get("content-encoding", "").strip().lower()
    if coding in ("gzip", "x-gzip") and name.lower().endswith((".gz", ".tgz")):
        return False
    return coding not in ("", "identity")


def _is_of_another(response: httpx.Response, validator: str) -> bool:
    """Whether a server that passes over If-Range sends a part of another file than the one that was begun."""
    return validator.startswith('"') and _validator(response).startswith('"') and _validator(response) != validator


def _validator(response: httpx.Response) -> str:
    etag = response.headers.get("etag", "")
    if etag and not etag.startswith("W/"):
        return str(etag)
    return str(response.headers.get("last-modified", ""))


def _content_range(response: httpx.Response) -> re.Match[str] | None:
    return re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("content-range", "").strip())


def _start_of_range(response: httpx.Response) -> int | None:
    match = _content_range(response)
    return int(match[1]) if match and match[1] else None


def _total_of_range(response: httpx.Response) -> int | None:
    match = _content_range(response)
    return int(match[2]) if match and match[2] != "*" else None


def _mismatch(part: _Part, size: int | None, sha256: str | None) -> str | None:
    if size is not None and part.length != size:
        return f"{part.length} bytes arrived, {size} are expected"
    if sha256 is not None and part.digest != sha256.removeprefix("sha256:"):
        return f"the digest is sha256:{part.digest}, sha256:{sha256.removeprefix('sha256:')} is expected"
    return None


def _suggest_name(url: str, response: httpx.Response) -> str:
    header = Message()
    header["Content-Disposition"] = response.headers.get("content-disposition", "")
    named = header.get_filename()
    return _safe_name(named or "") or _name_of_address(url) or _name_of_address(str(response.request.url))


def _name_of_address(url: str) -> str:
    return _safe_name(unquote(httpx.URL(url).path).rstrip("/"))


def _safe_name(text: str) -> str:
    name = text.replace("\\", "/").rsplit("/", 1)[-1]
    name = "".join(letter for letter in name if letter.isprintable()).strip()
    return "" if name in ("", ".", "..") else name[-200:]

"""Blobs of a repository: uploads and downloads that continue after a break, and the bytes of small ones."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO
from urllib.parse import quote, urljoin

import httpx

from kaito.failure import Failure, TemporaryFailure
from kaito.oci.client import Repository
from kaito.oci.errors import ImageInvalid, RegistryUnavailable
from kaito.transfer import DigestMismatch, TransferError, backoff, download

CHUNK_BYTES = 32 << 20
_READ_BYTES = 1 << 20
# What registries answer about an upload that they no longer have, or cannot report on.
_FORGOTTEN = (400, 404, 405, 410, 416)
_OCTETS = {"Content-Type": "application/octet-stream"}

Progress = Callable[[int], None]


def has_blob(repository: Repository, digest: str) -> bool:
    response = repository.request("HEAD", repository.url(f"blobs/{digest}"), expect=(200, 404))
    return response.status_code == 200


def read_blob(repository: Repository, digest: str, max_bytes: int) -> bytes:
    """A small blob, such as an image configuration, whole and verified."""
    response = repository.request("GET", repository.url(f"blobs/{digest}"), expect=(200,), max_bytes=max_bytes)
    found = "sha256:" + hashlib.sha256(response.content).hexdigest()
    if found != digest:
        raise ImageInvalid(f"{repository.reference}: blob {digest} arrives with digest {found}", "push the image again")
    return response.content


def read_blob_range(repository: Repository, digest: str, start: int, length: int) -> bytes:
    """`length` bytes of a blob of any size from `start` on, fewer at its end. Not verified: no digest is of them."""
    if length <= 0:
        return b""
    headers = {"Range": f"bytes={start}-{start + length - 1}"}
    url = repository.url(f"blobs/{digest}")
    response = repository.request("GET", url, headers=headers, expect=(200, 206), max_bytes=start + length)
    return response.content if response.status_code == 206 else response.content[start : start + length]


def pull_blob(repository: Repository, digest: str, size: int, path: Path, progress: Callable[[int, int], None]) -> None:
    """Put a blob of any size at `path`, verified; what broke off goes on. `progress(done, total)` in bytes.

    A file that is there counts as the blob: it appears only when it is verified.
    """
    if path.exists():
        return
    url = repository.url(f"blobs/{digest}")
    for last in (False, True):
        try:
            download(
                repository.http,
                url,
                path,
                headers=repository.authorization(url),
                size=size,
                sha256=digest,
                attempts=repository.attempts,
                progress=progress,
                sleep=repository.sleep,
            )
        except DigestMismatch as error:
            hint = "it was damaged on its way or in the registry; push it again if this stays so"
            raise ImageInvalid(f"{repository.reference}: a layer is damaged: {error.message}", hint) from error
        except TransferError as error:
            if error.status not in (401, 403, 404) or last:
                raise repository.failure(error) from error
            # The login has expired, or is refused: `request` renews it, or says so.
            repository.request("HEAD", url, expect=(200,))
        else:
            return


def push_blob(
    repository: Repository,
    file: IO[bytes],
    digest: str,
    size: int,
    *,
    chunk_bytes: int = CHUNK_BYTES,
    progress: Progress,
) -> None:
    """Upload a blob of `size` bytes, unless the registry has it. `progress(bytes sent)`.

    After a break the registry is asked how much it has and the upload goes on there; one that the registry has
    forgotten, or whose digest it refuses, starts anew. Bounded by the repository's `attempts` without progress.
    """
    if has_blob(repository, digest):
        progress(size)
        return
    failures = 0
    upload = _Upload(repository, file, size, chunk_bytes=chunk_bytes, progress=progress)
    while True:
        before = upload.furthest
        try:
            upload.begin_or_continue()
            while upload.offset < size:
                upload.send_chunk()
            upload.finish(digest)
        except _Broken as broken:
            # Starting over is no progress: only bytes beyond all earlier ones count.
            failures = 1 if upload.furthest > before else failures + 1
            if failures >= repository.attempts:
                if has_blob(repository, digest):
                    break
                raise broken.failure from broken
            repository.sleep(backoff(failures, broken.pause))
        else:
            break
    progress(size)


def check_upload(repository: Repository) -> None:
    """Start an upload and drop it: proves that this login may push."""
    response = repository.request("POST", repository.url("blobs/uploads/"), content=b"", expect=(201, 202))
    location = _location(repository, response)
    # What cannot be dropped is dropped by the registry in time: some want another right for it.
    with suppress(RegistryUnavailable):
        repository.request("DELETE", location, expect=range(200, 500), attempts=1)


class _Broken(Exception):
    """An upload that may be continued or begun anew; `failure` is what to raise when that is done with."""

    def __init__(self, failure: Failure, pause: float | None = None) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.pause = pause


class _Upload:
    def __init__(
        self, repository: Repository, file: IO[bytes], size: int, chunk_bytes: int, progress: Progress
    ) -> None:
        self._repository = repository
        self._progress = progress
        self._file = file
        self._size = size
        self._chunk_bytes = chunk_bytes
        self._location = ""
        self.offset = 0  # bytes that the registry has
        self.furthest = 0

    def begin_or_continue(self) -> None:
        if self._location:
            response = self._repository.request("GET", self._location, expect=(200, 202, 204, *_FORGOTTEN))
            if response.status_code not in _FORGOTTEN:
                self._location = _location(self._repository, response, self._location)
                self.offset = min(_received(response), self._size)
                return
        response = self._repository.request("POST", self._repository.url("blobs/uploads/"), content=b"", expect=(202,))
        self._location, self.offset = _location(self._repository, response), 0
        smallest = response.headers.get("oci-chunk-min-length", "")
        if smallest.isdigit():
            self._chunk_bytes = max(self._chunk_bytes, int(smallest))

    def send_chunk(self) -> None:
        start, end = self.offset, min(self.offset + self._chunk_bytes, self._size)
        headers = _OCTETS | {"Content-Length": str(end - start), "Content-Range": f"{start}-{end - 1}"}
        response = self._try(
            "PATCH", self._location, (202, 201, 204, 404, 416), headers, lambda: self._read(start, end)
        )
        if response.status_code in (404, 416):
            raise self._forgotten(response)
        self._location = _location(self._repository, response, self._location)
        self.offset = end
        self.furthest = max(self.furthest, end)

    def finish(self, digest: str) -> None:
        joint = "&" if "?" in self._location else "?"
        url = f"{self._location}{joint}digest={quote(digest, safe='')}"
        response = self._try("PUT", url, (201, 204, 400, 404, 416), {"Content-Length": "0"}, None)
        if response.status_code not in (201, 204):
            if has_blob(self._repository, digest):
                return  # an earlier answer was lost on its way
            self._location = ""
            raise self._forgotten(response)

    def _try(
        self,
        method: str,
        url: str,
        expect: tuple[int, ...],
        headers: dict[str, str],
        content: Callable[[], Iterator[bytes]] | None,
    ) -> httpx.Response:
        """One attempt: a request that moves the upload must not be repeated before the registry is asked."""
        try:
            return self._repository.request(method, url, expect=expect, headers=headers, content=content, attempts=1)
        except RegistryUnavailable as failure:
            raise _Broken(failure, failure.pause) from failure

    def _forgotten(self, response: httpx.Response) -> _Broken:
        self._location = ""
        what = f"{self._repository.reference}: the registry gives up an upload ({response.status_code})"
        return _Broken(TemporaryFailure(what, "trying again may help", reason="RegistryUnavailable"))

    def _read(self, start: int, end: int) -> Iterator[bytes]:
        self._file.seek(start)
        left = end - start
        while left > 0:
            chunk = self._file.read(min(_READ_BYTES, left))
            if not chunk:
                raise EOFError(f"the blob ends {left} bytes early")
            left -= len(chunk)
            yield chunk
            self._progress(end - left)


def _location(repository: Repository, response: httpx.Response, before: str = "") -> str:
    """Where the upload goes on, by this registry's own scheme: behind a proxy some name http."""
    target = urljoin(before or repository.base, str(response.headers.get("location", "")) or before)
    secure = repository.base + "/"
    if secure.startswith("https://") and target.startswith("http://" + secure.removeprefix("https://")):
        target = "https://" + target.removeprefix("http://")
    return target


def _received(response: httpx.Response) -> int:
    """How many bytes an upload has. `0-0` is what registries say of an empty one."""
    match = re.fullmatch(r"(?:bytes=)?0-(\d+)", response.headers.get("range", "").strip())
    return int(match[1]) + 1 if match and match[1] != "0" else 0

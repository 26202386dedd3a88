"""The three places where data come from: addresses, an OCI image, a folder. Each fills the data folder and its record.

The user's own files are never written to, moved or removed.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from kaito.contract import digest_of
from kaito.datasets.files import DataFile, hash_file, recognise, scan_folder
from kaito.datasets.record import Finished, Record
from kaito.failure import DataFailure
from kaito.program import report
from kaito.transfer import build_client, download, require_free_space

# From this size on a file of the same file system is linked, not copied: both names then show the same content.
LINKED_BYTES = 256 << 20

_REPORT_SECONDS = 0.3
_LONGEST_NAME = 100


@dataclass(frozen=True, slots=True)
class Source:
    """Where the data lie: exactly one of the three."""

    urls: tuple[str, ...] = ()
    image: str = ""
    folder: str = ""


@dataclass(frozen=True, slots=True)
class Access:
    """What a source may need. `token`: of Hugging Face, sent to its host alone. `allow_hosts`: globs."""

    credentials: tuple[Path, ...] = ()
    allow_hosts: tuple[str, ...] = ()
    token: str = ""


def describe(source: Source) -> str:
    """A digest of where the data come from. Addresses may hold secrets: they are not written down."""
    folder = str(Path(source.folder).expanduser().absolute()) if source.folder else ""
    return digest_of({"urls": list(source.urls), "image": source.image, "folder": folder})


def fetch_urls(urls: Sequence[str], out: Path, record: Record, access: Access) -> None:
    with build_client(allow_hosts=access.allow_hosts) as client:
        done = 0
        for index, url in enumerate(urls):
            name = name_of(index, url)
            if not record.has(name):
                found = download(client, url, out / name, headers=_headers(url, access.token), progress=_reporter(done))
                _require_data(out / name, name)
                record.add(name, found.bytes, found.sha256)
            done += record.files[name].bytes


def name_of(index: int, url: str) -> str:
    """`000-train.parquet`: the place in the list and the last segment of the path, without the query."""
    segment = unquote(urlsplit(url).path.rstrip("/").rsplit("/", 1)[-1])
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", segment).strip("-.")[-_LONGEST_NAME:]
    return f"{index:03d}-{safe or 'data'}"


def fetch_folder(folder: Path, out: Path, record: Record) -> None:
    """Copy the data files of a folder, or one file. Large ones of the same file system become hard links."""
    files = _files_of(folder)
    record.keep_only({file.name for file in files})
    require_free_space(out, sum(file.bytes for file in files if file.bytes < LINKED_BYTES))
    total = sum(file.bytes for file in files)
    done = 0
    for file in files:
        if not record.has(file.name, like=file.path):
            target = out / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy(file, target)
            record.add(file.name, target.stat().st_size, hash_file(target))
        done += file.bytes
        report(done, total, "bytes")


def fetch_image(image: str, out: Path, record: Record, access: Access) -> None:
    """The data files of `/data` in an OCI image. Raises RegistryFailure, TemporaryFailure, ConfigFailure too."""
    from kaito.oci import Credentials, Reference, pull

    if record.files and all(record.has(name) for name in record.files):
        return
    unpacked = out / ".image"  # in the same file system, hidden from every reader of data files
    shutil.rmtree(unpacked, ignore_errors=True)
    pull(
        Reference.parse(image),
        unpacked,
        credentials=Credentials.load(access.credentials),
        allow_hosts=access.allow_hosts,
        progress=_reporter(0),
    )
    hashes = {file.name: Finished(file.bytes, hash_file(file.path)) for file in scan_folder(unpacked).files}
    record.announce(hashes)
    for name in hashes:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (unpacked / name).replace(out / name)
    shutil.rmtree(unpacked)


def _require_data(path: Path, name: str) -> None:
    """Refuse what is not data, and forget it: the next start asks the address again."""
    try:
        found = recognise(path, name)
    except DataFailure:
        path.unlink()
        raise
    if found is None:
        path.unlink()
        raise DataFailure(f"{name} is not a data file", "name addresses of data files alone")


def _files_of(folder: Path) -> tuple[DataFile, ...]:
    if folder.is_file():
        found = recognise(folder, folder.name)
        if found is None:
            raise DataFailure(f"{folder} is not a data file", "give JSON lines, a JSON array or parquet")
        return (DataFile(folder, folder.name, found, folder.stat().st_size),)
    if not folder.is_dir():
        raise DataFailure(f"{folder} does not exist", "name a folder with data files", reason="DataNotFound")
    return scan_folder(folder).files


def _copy(file: DataFile, target: Path) -> None:
    part = target.with_name(target.name + ".part")
    part.unlink(missing_ok=True)
    source = file.path.resolve()
    if file.bytes >= LINKED_BYTES:
        try:
            os.link(source, part)
        except OSError:
            pass  # another file system, or one without links
        else:
            part.replace(target)
            return
    shutil.copyfile(source, part)
    with part.open("rb+") as copied:
        os.fsync(copied.fileno())
    part.replace(target)


def _headers(url: str, token: str) -> Mapping[str, str]:
    """The hub's token, for the hub's host alone."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if token and urlsplit(url)[:2] == urlsplit(endpoint)[:2]:
        return {"Authorization": f"Bearer {token}"}
    return {}


def _reporter(before: int) -> Callable[[int, int], None]:
    told = 0.0

    def tell(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told >= _REPORT_SECONDS:
            told = time.monotonic()
            report(before + done, before + total if total else 0, "bytes")

    return tell

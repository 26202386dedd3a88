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
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from kaito.contract import digest_of
from kaito.datasets.files import DataFile, Refused, hash_file, how_to_give_data, recognise, scan_folder
from kaito.datasets.record import UNPACKED, Finished, Record
from kaito.failure import DataFailure
from kaito.program import report
from kaito.transfer import Downloaded, build_client, download, require_free_space

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
            prefix = f"{index:03d}-"
            name = record.find(prefix)
            if not name:
                found = download(
                    client,
                    url,
                    out / f"{index:03d}",
                    headers=_headers(url, access.token),
                    progress=_reporter(done),
                    place=partial(_place, record, out, prefix),
                )
                name = found.path.name
            done += record.files[name].bytes


def _place(record: Record, out: Path, prefix: str, found: Downloaded) -> Path:
    """Where a file of an address goes, and the record of it. What is not data is thrown away, and asked for again."""
    name = prefix + safe_name(found.name)
    try:
        if recognise(found.path, name) is None:
            raise DataFailure(f"{name} is not a data file", "name addresses of data files alone")
    except DataFailure:
        found.path.unlink()
        raise
    record.keep_only({other for other in record.files if not other.startswith(prefix)})
    record.add(name, found.bytes, found.sha256)
    return out / name


def safe_name(name: str) -> str:
    """A file's name, as its server or its address has it, without what a shell or a file system stumbles over."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[-_LONGEST_NAME:] or "data"


def fetch_folder(folder: Path, out: Path, record: Record) -> None:
    """Copy the data files of a folder, or one file. Large ones of the same file system become hard links."""
    files = _files_of(folder)
    record.keep_only({file.name for file in files})
    finished = {file.name for file in files if record.has(file.name, like=file.path)}
    missing = [file for file in files if file.name not in finished]
    require_free_space(out, sum(file.bytes for file in missing if file.bytes < LINKED_BYTES))
    total = sum(file.bytes for file in files)
    done = total - sum(file.bytes for file in missing)
    for file in missing:
        target = out / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(file, target)
        record.add(file.name, target.stat().st_size, hash_file(target))
        done += file.bytes
        report(done, total, "bytes")


def fetch_image(image: str, out: Path, record: Record, access: Access) -> None:
    """The data files of `/data` in an OCI image. Raises RegistryFailure, TemporaryFailure, ConfigFailure too."""
    from kaito.oci import Credentials, Reference, pull

    finished = {name: entry for name, entry in record.files.items() if record.has(name)}
    unpacked = out / UNPACKED  # in the same file system, hidden from every reader of data files
    if finished and len(finished) == len(record.files):
        shutil.rmtree(unpacked, ignore_errors=True)
        return
    if not unpacked.exists():
        finished = {}  # the image may be another one by now
        pull(
            Reference.parse(image),
            unpacked,
            credentials=Credentials.load(access.credentials),
            allow_hosts=access.allow_hosts,
            progress=_reporter(0),
        )
    try:
        files = scan_folder(unpacked, keep_refused=True).claimed
    except DataFailure:
        shutil.rmtree(unpacked)
        raise
    record.announce(finished | {file.name: Finished(file.bytes, hash_file(file.path)) for file in files})
    for file in files:
        (out / file.name).parent.mkdir(parents=True, exist_ok=True)
        file.path.replace(out / file.name)
    shutil.rmtree(unpacked)


def _files_of(folder: Path) -> tuple[DataFile | Refused, ...]:
    if folder.is_file():
        found = recognise(folder, folder.name)
        if found is None:
            raise DataFailure(f"{folder} is not a data file", how_to_give_data([folder.name]))
        return (DataFile(folder, folder.name, found, folder.stat().st_size),)
    if not folder.is_dir():
        hint = "tuning.input.volumeSource.hostPath.path names a folder with data files"
        raise DataFailure(f"{folder} does not exist", hint, reason="DataNotFound")
    files = scan_folder(folder, keep_refused=True).claimed  # which of them are meant, the configuration says
    if not files:
        raise DataFailure(f"no data file in {folder}: it is empty", how_to_give_data([]), reason="NoData")
    return files


def _copy(file: DataFile | Refused, target: Path) -> None:
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

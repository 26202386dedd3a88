"""`python -m kaito.datasets.fetch`: brings the training data into one folder. Files are recognised, rows not read."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaito.failure import ConfigFailure, DataFailure, NoSpaceFailure, TemporaryFailure
from kaito.program import read_token, run_program

if TYPE_CHECKING:
    from kaito.datasets.sources import Access, Source
    from kaito.transfer import TransferError

EXAMPLE = """examples:
  python -m kaito.datasets.fetch --url https://example.com/train.jsonl --out data
  python -m kaito.datasets.fetch --folder ~/answers --out data
  python -m kaito.datasets.fetch --image registry.example.com/answers:1 --credentials secrets/pull --out data
"""


def main(argv: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        prog="python -m kaito.datasets.fetch",
        description="Fetch training data from addresses, an OCI image or a folder.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--url", action="append", default=[], help="address of a file; may be repeated")
    source.add_argument("--image", default="", help="OCI image with the files in /data")
    source.add_argument("--folder", default="", help="folder (or one file) of this machine")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    parser.add_argument("--credentials", type=Path, action="append", default=[], help="folder with docker credentials")
    parser.add_argument("--allow-host", action="append", default=[], help="glob of hosts that may be private")
    parser.add_argument("--token-file", type=Path, help="file with a Hugging Face token")
    parser.add_argument("--expect-digest", default="", help="refuse data with another digest")
    options = parser.parse_args(argv)

    from kaito.datasets.sources import Access, Source

    allowed = os.environ.get("KAITO_ALLOW_HOSTS", "").split(",")
    access = Access(
        credentials=tuple(options.credentials),
        allow_hosts=(*options.allow_host, *(host.strip() for host in allowed if host.strip())),
        token=read_token(options.token_file),
    )
    where = Source(tuple(options.url), options.image, options.folder)
    return fetch(where, options.out, access, expect_digest=options.expect_digest)


def fetch(source: Source, out: Path, access: Access, *, expect_digest: str = "") -> dict[str, Any]:
    """Fill `out` with the data files of the source; returns {files, bytes, digest}.

    May be interrupted anywhere and called again: finished files are kept, a download goes on where it stopped. A
    folder that is not empty and was not filled by this function is refused. Raises DataFailure, ConfigFailure,
    TemporaryFailure, RegistryFailure.
    """
    from kaito.datasets import sources
    from kaito.datasets.files import RECOGNISED, digest_of_files, scan_folder
    from kaito.datasets.record import Record
    from kaito.transfer import NoSpace, TransferError

    record = Record.open(out, sources.describe(source))
    try:
        if source.urls:
            sources.fetch_urls(source.urls, out, record, access)
        elif source.image:
            sources.fetch_image(source.image, out, record, access)
        else:
            sources.fetch_folder(Path(source.folder).expanduser(), out, record)
    except NoSpace as error:
        hint = f"make room on the disk of {out.absolute()}; what has arrived is kept"
        raise NoSpaceFailure(str(error), hint) from error
    except TransferError as error:
        raise transfer_failure(error) from error
    listing = scan_folder(out, keep_refused=True)
    found = {file.name for file in listing.claimed}
    if strays := sorted(found - set(record.files)):
        raise ConfigFailure(f"{out} holds {strays[0]}, which no fetch put there", "move it elsewhere")
    if unknown := sorted(set(record.files) - found):
        raise DataFailure(f"{unknown[0]} is not a data file", "name data files alone")
    if not found:
        raise DataFailure("there is no data file", f"what is read: {RECOGNISED}", reason="NoData")
    for file in listing.files:
        say(f"{file.name}  {file.format}  {file.bytes} bytes  sha256:{record.files[file.name].sha256}")
    for refused in listing.refused:
        say(f"{refused.failure.message}: the check refuses it, unless DatasetConfig.dataset_path leaves it out")
    digest = digest_of_files({name: entry.sha256 for name, entry in record.files.items()})
    if expect_digest and digest != expect_digest:
        raise DataFailure(
            f"the data have changed since they were checked: {digest}, not {expect_digest}",
            "start the Workspace again, so that the new data are checked",
            reason="DataChanged",
        )
    return {"files": len(found), "bytes": sum(file.bytes for file in listing.claimed), "digest": digest}


def transfer_failure(error: TransferError) -> DataFailure | ConfigFailure | TemporaryFailure:
    """What a failed transfer means for the user."""
    from kaito.transfer import DigestMismatch, HostRefused

    if isinstance(error, HostRefused):
        hint = "if this host is meant, allow it: --allow-host GLOB or KAITO_ALLOW_HOSTS"
        return ConfigFailure(str(error), hint, reason="HostRefused")
    if error.status in (401, 403):
        return DataFailure(
            str(error), "the address needs permission: give one that is signed or public", reason="DataDenied"
        )
    if error.status in (404, 410):
        return DataFailure(str(error), "check the address: nothing is there", reason="DataNotFound")
    if isinstance(error, DigestMismatch) or error.retryable:
        return TemporaryFailure(str(error), "the same download may succeed later")
    return DataFailure(str(error), "check the address", reason="DataUnavailable")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_program(main)

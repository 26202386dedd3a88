"""`python -m kaito.oci.pull`: pulls an image's /data into a folder."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kaito.program import report, run_program


def main(argv: list[str]) -> Mapping[str, Any]:
    parser = argparse.ArgumentParser(
        prog="python -m kaito.oci.pull",
        description="Pull an image and put its folder /data at DIR.",
        epilog="example: python -m kaito.oci.pull --image registry.example/team/adapter:1 --out adapter",
    )
    parser.add_argument("--image", required=True, metavar="REF", help="registry/repository:tag or @sha256:…")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="a folder that is not there yet, or empty"
    )
    parser.add_argument("--credentials", type=Path, action="append", default=[], metavar="DIR", help="docker config")
    options = parser.parse_args(argv)

    from kaito.oci.client import ALLOWED_VARIABLE, globs_of_environment
    from kaito.oci.credentials import Credentials
    from kaito.oci.images import pull
    from kaito.oci.reference import Reference

    pulled = pull(
        Reference.parse(options.image),
        options.out,
        credentials=Credentials.load(options.credentials),
        allow_hosts=globs_of_environment(ALLOWED_VARIABLE),
        progress=lambda done, total: report(done, total, "bytes"),
    )
    return {"image": pulled.image, "digest": pulled.digest, "files": len(pulled.files)}


if __name__ == "__main__":
    run_program(main)

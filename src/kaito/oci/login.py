"""`python -m kaito.oci.login`: checks that an image may be pushed, by an upload that is started and dropped."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kaito.program import run_program


def main(argv: list[str]) -> Mapping[str, Any]:
    parser = argparse.ArgumentParser(
        prog="python -m kaito.oci.login",
        description="Check that the registry takes a push to REF.",
        epilog="example: python -m kaito.oci.login --image registry.example/team/adapter:1 --credentials secrets/acr",
    )
    parser.add_argument("--image", required=True, metavar="REF", help="where the push will go")
    parser.add_argument("--credentials", type=Path, action="append", default=[], metavar="DIR", help="docker config")
    options = parser.parse_args(argv)

    from kaito.oci.client import ALLOWED_VARIABLE, globs_of_environment
    from kaito.oci.credentials import Credentials
    from kaito.oci.images import check_push
    from kaito.oci.reference import Reference

    reference = Reference.parse(options.image)
    allow_hosts = globs_of_environment(ALLOWED_VARIABLE)
    check_push(reference, Credentials.load(options.credentials), allow_hosts=allow_hosts)
    return {"registry": reference.registry, "repository": reference.repository}


if __name__ == "__main__":
    run_program(main)

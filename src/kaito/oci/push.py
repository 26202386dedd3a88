"""`python -m kaito.oci.push`: pushes a finished results folder as an adapter image."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kaito.failure import ConfigFailure
from kaito.program import report, run_program


def main(argv: list[str]) -> Mapping[str, Any]:
    parser = argparse.ArgumentParser(
        prog="python -m kaito.oci.push",
        description="Push a finished adapter to an OCI registry.",
        epilog="example: python -m kaito.oci.push --results results --image registry.example/team/adapter:1",
    )
    parser.add_argument("--results", type=Path, required=True, metavar="DIR", help="what the training wrote")
    parser.add_argument("--image", required=True, metavar="REF", help="where it goes: registry/repository:tag")
    parser.add_argument("--credentials", type=Path, action="append", default=[], metavar="DIR", help="docker config")
    parser.add_argument("--preset", default="", metavar="NAME", help="the base model's preset, for KAITO's annotation")
    parser.add_argument("--annotation", action="append", default=[], metavar="KEY=VALUE", help="of the manifest")
    options = parser.parse_args(argv)

    from kaito.oci.adapters import push_adapter
    from kaito.oci.client import ALLOWED_VARIABLE, globs_of_environment
    from kaito.oci.credentials import Credentials
    from kaito.oci.media import MODEL_NAME
    from kaito.oci.reference import Reference

    annotations = {MODEL_NAME: options.preset} if options.preset else {}
    for text in options.annotation:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise ConfigFailure(f"--annotation {text!r} is not KEY=VALUE")
        annotations[key] = value
    pushed = push_adapter(
        Reference.parse(options.image),
        options.results,
        credentials=Credentials.load(options.credentials),
        annotations=annotations,
        allow_hosts=globs_of_environment(ALLOWED_VARIABLE),
        progress=lambda done, total: report(done, total, "bytes"),
    )
    return {"image": pushed.image, "digest": pushed.digest, "size_bytes": pushed.size_bytes}


if __name__ == "__main__":
    run_program(main)

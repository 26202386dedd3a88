"""Adapters in registries, by hand: push, pull, inspect. Values as they are printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kaito.oci import Credentials, Reference, inspect, pull, push_adapter
from kaito.oci.adapters import MARKER


def push_results(folder: Path, image: str, credentials: Sequence[Path]) -> dict[str, Any]:
    """Push a results folder, or an adapter that was pulled: `{image, digest, size_bytes}`. Raises Failure."""
    pushed = push_adapter(
        Reference.parse(image), folder, credentials=Credentials.load(credentials), finished=(folder / MARKER).exists()
    )
    return asdict(pushed)


def pull_files(image: str, out: Path, credentials: Sequence[Path]) -> dict[str, Any]:
    """Pull an image's files into `out`: `{image, digest, files}`. Raises Failure."""
    return asdict(pull(Reference.parse(image), out, credentials=Credentials.load(credentials)))


def inspect_image(image: str, credentials: Sequence[Path]) -> dict[str, Any]:
    """Manifest and configuration of an image. Raises Failure."""
    return asdict(inspect(Reference.parse(image), credentials=Credentials.load(credentials)))

"""Adapters in registries, by hand: push, pull, inspect. Values as they are printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kaito.failure import ConfigFailure
from kaito.oci import Credentials, Reference, inspect, pull, push_adapter
from kaito.oci.adapters import MARKER


def push_results(folder: Path, image: str, credentials: Sequence[Path]) -> dict[str, Any]:
    """Push a results folder, or an adapter that was pulled: `{image, digest, size_bytes}`. Raises Failure."""
    _require_folder(folder)
    pushed = push_adapter(
        Reference.parse(image), folder, credentials=Credentials.load(credentials), finished=(folder / MARKER).exists()
    )
    return asdict(pushed)


def pull_files(image: str, out: Path, credentials: Sequence[Path]) -> dict[str, Any]:
    """Pull an image's files into `out`: `{image, digest, files}`. Raises Failure."""
    return asdict(pull(Reference.parse(image), out, credentials=Credentials.load(credentials)))


def inspect_image(image: str, credentials: Sequence[Path]) -> dict[str, Any]:
    """Manifest and configuration of an image. Raises Failure."""
    if image.startswith(("/", "./", "../")) or Path(image).is_dir():
        _require_folder(Path(image))
        hint = f"kaito adapter push {image} IMAGE pushes it; inspect shows what a registry has"
        raise ConfigFailure(f"{image} is a folder of this machine, not an image", hint)
    return asdict(inspect(Reference.parse(image), credentials=Credentials.load(credentials)))


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ConfigFailure(f"the folder {folder} {what}", "Name the folder that holds the adapter's files.")

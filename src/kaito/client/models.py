"""Base models by hand: what one is, and packing one into a registry. Values as they are printed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

from kaito.catalog import find_model, nearest_models
from kaito.contract import to_json
from kaito.failure import ModelFailure
from kaito.hub.cache import ModelCache
from kaito.hub.repository import Source


def describe_model(name: str, *, ask: bool, revision: str = "", credentials: Sequence[Path] = ()) -> dict[str, Any]:
    """What the catalog knows of a model, which of its commits are cached, and with `ask` what its source says now.

    Raises Failure.
    """
    known = find_model(name)
    if known is None:
        near = nearest_models(name)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        hint += "kaito models lists the known ones; any Hugging Face id (ORG/NAME), folder or oci://IMAGE will do too"
        raise ModelFailure(f"no base model is called {name!r}", hint, reason="ModelNotFound")
    value: dict[str, Any] = {**asdict(known), "cached": ModelCache().commits(known.repo)}
    if ask or not known.known:
        value["found"] = _ask(_source(known.repo, revision, credentials))
    return value


def pack(
    name: str,
    image: str,
    *,
    revision: str = "",
    credentials: Sequence[Path] = (),
    progress: Callable[[int, int], None],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Push a model (a name of the catalog, an id, a folder) to `image`: `{image, digest, size_bytes, files, commit}`.

    Raises Failure.
    """
    from kaito.hub.pack import pack_model
    from kaito.oci import Reference

    known = find_model(name)
    source = _source(known.repo if known is not None else name, revision, credentials)
    packed = pack_model(source, Reference.parse(image), push_credentials=credentials, progress=progress, say=say)
    return asdict(packed)


def _source(repo: str, revision: str, credentials: Sequence[Path]) -> Source:
    return Source(repo, revision, os.environ.get("HF_TOKEN", "").strip(), credentials)


def _ask(source: Source) -> dict[str, Any]:
    from kaito.hub.resolve import resolve_source

    with tempfile.TemporaryDirectory() as folder, redirect_stderr(StringIO()):  # a program's log lines
        return to_json(resolve_source(source, Path(folder)))

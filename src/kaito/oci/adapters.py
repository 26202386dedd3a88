"""An adapter's results folder as an image: which of its files go where, and what the manifest says of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from io import BytesIO
from pathlib import Path
from typing import Any

from kaito.failure import ConfigFailure, DataFailure, TemporaryFailure
from kaito.oci.blobs import CHUNK_BYTES, push_blob
from kaito.oci.client import Repository
from kaito.oci.credentials import Credentials
from kaito.oci.layer import Layer, build_layer
from kaito.oci.manifest import build_config, build_manifest, digest_bytes, push_manifest
from kaito.oci.reference import Reference
from kaito.transfer import NoSpace

FOLDER = "data"  # in the image; KAITO reads the adapter there
MARKER = "fine_tuning_completed.txt"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
# What else leaves the machine, and nothing besides: a folder may hold checkpoints or somebody's data. Not the marker:
# it holds a time, and the same adapter shall be the same image.
COMPANION_FILES = (
    "README.md",
    "added_tokens.json",
    "chat_template.jinja",
    "evaluation.json",
    "merges.txt",
    "metrics.jsonl",
    "special_tokens_map.json",
    "tokenizer*.json",
    "tokenizer.model",
    "training_config.resolved.yaml",
    "vocab.*",
)
_LARGEST_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Pushed:
    """`digest` is the manifest's; `size_bytes` that of all that makes up the image."""

    image: str
    digest: str
    size_bytes: int


def push_adapter(
    reference: Reference,
    folder: Path,
    *,
    credentials: Credentials | None = None,
    annotations: Mapping[str, str] | None = None,
    allow_hosts: Sequence[str] = (),
    chunk_bytes: int = CHUNK_BYTES,
    finished: bool = True,
    progress: Callable[[int, int], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Pushed:
    """Push a complete results folder as an image whose layers hold `/data/adapter_*` and `/data/…`.

    The same folder and annotations give the same digests everywhere. `progress(done, total)` in bytes. Layers wait in
    temporary files beside the folder. `finished`: the marker of a finished training must be there; an adapter that was
    pulled has none. Raises DataFailure for an incomplete folder, ConfigFailure, PushDenied,
    RegistryUnavailable.
    """
    if reference.digest:
        raise ConfigFailure(f"image {reference}: a push needs a tag, not a digest", "leave @sha256:… out")
    adapter, companions = list_files(folder, finished=finished)
    merged = lineage(folder) | dict(annotations or {})
    with ExitStack() as stack:
        layers = []
        for files in (adapter, companions):
            layers.append(_build(files, folder))
            stack.callback(layers[-1].file.close)
        config = build_config(layers)
        manifest = build_manifest(config, layers, merged)
        repository = stack.enter_context(
            Repository(reference, "push", credentials=credentials, allow_hosts=allow_hosts, sleep=sleep)
        )
        _push_blobs(repository, layers, config, chunk_bytes, progress or (lambda _done, _total: None))
        manifest = push_manifest(repository, manifest, build_manifest(config, layers, merged, with_artifact_type=False))
    size = sum(layer.size for layer in layers) + len(config) + len(manifest)
    return Pushed(str(reference), digest_bytes(manifest), size)


def list_files(folder: Path, *, finished: bool = True) -> tuple[list[Path], list[Path]]:
    """The adapter's two files, and those that go with them. Raises DataFailure where the folder is not complete."""
    missing = [name for name in (*ADAPTER_FILES, *((MARKER,) if finished else ())) if not (folder / name).is_file()]
    if missing:
        hint = "push what a finished training wrote" if MARKER in missing else "the training has not saved its adapter"
        raise DataFailure(f"results {folder}: {', '.join(missing)} is missing", hint, reason="ResultsIncomplete")
    companions = [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and any(fnmatchcase(path.name, glob) for glob in COMPANION_FILES)
    ]
    return [folder / name for name in ADAPTER_FILES], companions


def lineage(folder: Path) -> dict[str, str]:
    """What `adapter_config.json` says of the adapter, as annotations: readable without pulling it."""
    path = folder / ADAPTER_FILES[0]
    try:
        with path.open("rb") as file:
            value: Any = json.loads(file.read(_LARGEST_CONFIG_BYTES))
    except ValueError as error:
        raise DataFailure(f"{path}: not JSON: {error}", "the training did not save it whole") from error
    if not isinstance(value, dict):
        raise DataFailure(f"{path}: not a JSON object", "the training did not save it whole")
    names = {
        "base_model_name_or_path": "sh.kaito.adapter.base-model",
        "revision": "sh.kaito.adapter.base-revision",
        "peft_type": "sh.kaito.adapter.peft-type",
        "r": "sh.kaito.adapter.rank",
        "lora_alpha": "sh.kaito.adapter.alpha",
    }
    return {key: str(value[name]) for name, key in names.items() if value.get(name) not in (None, "")}


def _build(files: Sequence[Path], folder: Path) -> Layer:
    try:
        return build_layer(files, FOLDER, folder.absolute().parent)
    except NoSpace as error:
        raise TemporaryFailure(f"packing {folder}: {error.message}", "free some space", reason="NoSpace") from error
    except OSError as error:
        raise DataFailure(f"packing {folder}: {error.filename or ''} {error.strerror or error}") from error


def _push_blobs(
    repository: Repository,
    layers: Sequence[Layer],
    config: bytes,
    chunk_bytes: int,
    progress: Callable[[int, int], None],
) -> None:
    total = sum(layer.size for layer in layers) + len(config)
    base = 0
    blobs = [(layer.file, layer.digest, layer.size) for layer in layers]
    for file, digest, size in [*blobs, (BytesIO(config), digest_bytes(config), len(config))]:
        told = base
        push_blob(
            repository,
            file,
            digest,
            size,
            chunk_bytes=chunk_bytes,
            progress=lambda done, told=told: progress(told + done, total),  # type: ignore[misc]  # the loop's value
        )
        base += size

"""A base model into a registry, as a ModelPack artifact: a blob for each file, uncompressed, its name in annotations.

The CNCF's model-spec v1. Reproducible: the same files of the same source give the same digest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

from kaito.failure import ConfigFailure
from kaito.hub.cache import ModelCache
from kaito.hub.digests import with_sha256
from kaito.hub.facts import parse_config
from kaito.hub.files import CONFIG, RepoFile, digest_of_repo_files, legal_names
from kaito.hub.place import local_path
from kaito.hub.repository import Opened, Progress, Source, model_files, open_source
from kaito.oci import Credentials, Reference
from kaito.oci.blobs import push_blob
from kaito.oci.client import ALLOWED_VARIABLE, Repository, globs_of_environment
from kaito.oci.manifest import LARGEST_MANIFEST_BYTES, digest_bytes, encode, push_manifest
from kaito.oci.media import (
    MODEL_ARTIFACT,
    MODEL_CONFIG,
    MODEL_DOC,
    MODEL_FILEPATH,
    MODEL_WEIGHT,
    MODEL_WEIGHT_CONFIG,
    OCI_MANIFEST,
    TITLE,
)

SOURCE_REPO = "sh.kaito.model.repo"
SOURCE_COMMIT = "sh.kaito.model.commit"
FILES_DIGEST = "sh.kaito.model.files-digest"


@dataclass(frozen=True, slots=True)
class Packed:
    """`digest` is the manifest's: the commit of the packed model. `commit` is that of its source."""

    image: str
    digest: str
    size_bytes: int
    files: int
    commit: str


@dataclass(frozen=True, slots=True)
class _Blob:
    file: RepoFile
    path: Path
    media_type: str


def pack_model(
    source: Source,
    reference: Reference,
    *,
    push_credentials: Sequence[Path] = (),
    cache: ModelCache | None = None,
    progress: Progress = lambda _done, _total: None,
    say: Callable[[str], None] = lambda _line: None,
) -> Packed:
    """Push a model's files to `reference`. A file that the registry has is not sent; a broken upload goes on.

    Nothing is packed into a temporary file. A model from afar goes through the machine's cache. `progress(done, total)`
    in bytes of this phase: fetched, then sent. Raises Failure.
    """
    if reference.digest:
        raise ConfigFailure(f"image {reference}: a push needs a tag, not a digest", "leave @sha256:… out")
    used = cache or ModelCache()
    with nullcontext() if source.is_folder else used.in_use():
        opened = open_source(source, used, progress, say)  # all its files, not only those that the cache knows
        blobs = _local_blobs(opened, used, progress, say)
        config = _build_config(blobs)
        lineage = {} if source.is_folder else {SOURCE_REPO: source.repo, SOURCE_COMMIT: opened.commit}
        with Repository(
            reference,
            "push",
            credentials=Credentials.load(push_credentials),
            allow_hosts=globs_of_environment(ALLOWED_VARIABLE),
        ) as registry:
            say(f"pushing {len(blobs)} files to {reference}")
            _push(registry, blobs, config, progress)
            manifest = push_manifest(
                registry, _build_manifest(config, blobs, lineage), _build_manifest(config, blobs, lineage, typed=False)
            )
    size = sum(blob.file.bytes for blob in blobs) + len(config) + len(manifest)
    return Packed(str(reference), digest_bytes(manifest), size, len(blobs), opened.commit)


def _local_blobs(opened: Opened, cache: ModelCache, progress: Progress, say: Callable[[str], None]) -> list[_Blob]:
    """The model's files with their SHA-256, fetched if need be; small ones first, so that they are seen first."""
    needed = model_files(opened)
    weights = [name for name in needed if name.endswith(".safetensors")]
    small = [name for name in needed if name not in weights]
    kinds = [(small, MODEL_WEIGHT_CONFIG), (legal_names(list(opened.files)), MODEL_DOC), (weights, MODEL_WEIGHT)]
    total = sum(opened.files[name].bytes for names, _ in kinds for name in names)
    blobs: list[_Blob] = []
    done = 0
    for names, media_type in kinds:
        for name in names:

            def tell(part: int, _total: int, before: int = done) -> None:
                progress(before + part, total)

            path = local_path(opened, name, cache, tell)
            file = replace(with_sha256(opened.files[name], path), blob="")
            say(f"{name}  {file.bytes} bytes  sha256:{file.sha256}")
            blobs.append(_Blob(file, path, media_type))
            done += file.bytes
            progress(done, total)
    return blobs


def _build_config(blobs: Sequence[_Blob]) -> bytes:
    """ModelPack's configuration: no clock, no name of this machine."""
    model = next(blob for blob in blobs if blob.file.path == CONFIG)
    described = parse_config(model.path.read_bytes())
    technical: dict[str, Any] = {"architecture": "transformer", "format": "safetensors"}
    precision = described.get("dtype") or described.get("torch_dtype")
    if isinstance(precision, str):
        technical["precision"] = precision
    descriptor = {"family": described["model_type"]} if isinstance(described.get("model_type"), str) else {}
    return encode(
        {
            "descriptor": descriptor,
            "config": technical,
            "modelfs": {"type": "layers", "diffIds": [f"sha256:{blob.file.sha256}" for blob in blobs]},
        }
    )


def _build_manifest(config: bytes, blobs: Sequence[_Blob], lineage: Mapping[str, str], *, typed: bool = True) -> bytes:
    model = [blob.file for blob in blobs if blob.media_type != MODEL_DOC]
    value: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": MODEL_CONFIG, "digest": digest_bytes(config), "size": len(config)},
        "layers": [
            {
                "mediaType": blob.media_type,
                "digest": f"sha256:{blob.file.sha256}",
                "size": blob.file.bytes,
                # ModelPack's name, and the one by which `oras pull` writes it.
                "annotations": {MODEL_FILEPATH: blob.file.path, TITLE: blob.file.path},
            }
            for blob in blobs
        ],
        "annotations": {FILES_DIGEST: digest_of_repo_files(model), **lineage},
    }
    if typed:
        value["artifactType"] = MODEL_ARTIFACT
    encoded = encode(value)
    if len(encoded) > LARGEST_MANIFEST_BYTES:
        raise ConfigFailure(f"the model has {len(blobs)} files, too many for one manifest", "merge its weight files")
    return encoded


def _push(registry: Repository, blobs: Sequence[_Blob], config: bytes, progress: Progress) -> None:
    total = sum(blob.file.bytes for blob in blobs) + len(config)
    done = 0

    def tell(part: int) -> None:
        progress(done + part, total)

    for blob in blobs:
        with blob.path.open("rb") as file:
            push_blob(registry, file, f"sha256:{blob.file.sha256}", blob.file.bytes, progress=tell)
        done += blob.file.bytes
    push_blob(registry, BytesIO(config), digest_bytes(config), len(config), progress=tell)

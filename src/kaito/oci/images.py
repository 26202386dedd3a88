"""Images read: pulled into a folder, looked at without pulling, and the check that a push would be allowed."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kaito.failure import ConfigFailure
from kaito.oci.blobs import check_upload, pull_blob, read_blob
from kaito.oci.client import Repository
from kaito.oci.credentials import Credentials
from kaito.oci.errors import ImageInvalid
from kaito.oci.extract import Extraction
from kaito.oci.manifest import Descriptor, Manifest, fetch_manifest
from kaito.oci.media import IMAGE_CONFIGS, TAR_GZIP_LAYERS, TAR_LAYERS, TITLE
from kaito.oci.reference import Reference
from kaito.transfer import TransferError

# Bounds a pull that names none: larger than any adapter or data set, smaller than a disk.
MAX_BYTES = 64 << 30

_LARGEST_CONFIG_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Pulled:
    """`files` are relative to the target, sorted. `digest` is the manifest's."""

    image: str
    digest: str
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Inspected:
    """An image's manifest and configuration. `size_bytes` is that of the layers as stored."""

    image: str
    digest: str
    media_type: str
    artifact_type: str
    size_bytes: int
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str]
    config: Mapping[str, Any]


def pull(
    reference: Reference,
    target: Path,
    *,
    credentials: Credentials | None = None,
    max_bytes: int = MAX_BYTES,
    subfolder: str = "data",
    allow_hosts: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Pulled:
    """Pull an image and put its folder `/data` (`subfolder`) at `target`, which appears whole or not at all.

    Reads images (OCI and Docker) and artifacts whose layers carry a title. Every blob is verified; `TARGET.pull`
    beside the target holds what has arrived, so that a pull that broke off goes on. `max_bytes` bounds the layers,
    packed and unpacked. `progress(done, total)` in bytes. Raises ImageNotFound, ImageInvalid, PullDenied,
    RegistryUnavailable, ConfigFailure (the target is not empty).
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigFailure(f"{target} is there already and not empty", "remove it, or pull into another folder")
    work = target.absolute().with_name(target.name + ".pull")
    root = work / "root"
    shutil.rmtree(root, ignore_errors=True)
    with Repository(reference, "pull", credentials=credentials, allow_hosts=allow_hosts, sleep=sleep) as repository:
        manifest = fetch_manifest(repository)
        is_image = manifest.config.media_type in IMAGE_CONFIGS
        _check_layers(reference, manifest, is_image, max_bytes)
        blobs = _download_layers(repository, manifest, work / "blobs", progress)
        try:
            files = _extract(reference, manifest, blobs, root, subfolder if is_image else "", max_bytes)
        except ImageInvalid:
            shutil.rmtree(work, ignore_errors=True)
            raise
        except TransferError as error:
            raise repository.failure(error) from error
    if target.exists():
        target.rmdir()
    root.rename(target)
    shutil.rmtree(work)
    return Pulled(str(reference), manifest.digest, tuple(files))


def inspect(
    reference: Reference, *, credentials: Credentials | None = None, allow_hosts: Sequence[str] = ()
) -> Inspected:
    """Manifest and configuration of an image, without its layers. Raises as `pull` does."""
    with Repository(reference, "pull", credentials=credentials, allow_hosts=allow_hosts) as repository:
        manifest = fetch_manifest(repository)
        config: Any = {}
        if manifest.config.media_type in IMAGE_CONFIGS:
            try:
                config = json.loads(read_blob(repository, manifest.config.digest, _LARGEST_CONFIG_BYTES))
            except ValueError as error:
                raise ImageInvalid(f"{reference}: its configuration is not JSON") from error
    return Inspected(
        image=str(reference),
        digest=manifest.digest,
        media_type=manifest.media_type,
        artifact_type=manifest.artifact_type,
        size_bytes=sum(layer.size for layer in manifest.layers),
        layers=manifest.layers,
        annotations=manifest.annotations,
        config=config if isinstance(config, dict) else {},
    )


def check_push(
    reference: Reference, credentials: Credentials | None = None, *, allow_hosts: Sequence[str] = ()
) -> None:
    """Start an upload at the registry and drop it. Raises PushDenied, RegistryUnavailable, ConfigFailure."""
    with Repository(reference, "push", credentials=credentials, allow_hosts=allow_hosts) as repository:
        check_upload(repository)


def _check_layers(reference: Reference, manifest: Manifest, is_image: bool, max_bytes: int) -> None:
    total = sum(layer.size for layer in manifest.layers)
    if total > max_bytes:
        raise ImageInvalid(f"{reference}: its layers have {total} bytes, at most {max_bytes} are taken")
    for layer in manifest.layers:
        if is_image and layer.media_type not in (*TAR_LAYERS, *TAR_GZIP_LAYERS):
            hint = "push it with gzip layers" if layer.media_type.endswith("zstd") else "push it with tar+gzip layers"
            raise ImageInvalid(f"{reference}: layers of type {layer.media_type or 'unknown'} cannot be read", hint)
        if not is_image and TITLE not in layer.annotations:
            what = f"{reference}: neither an image nor an artifact whose layers carry {TITLE}"
            raise ImageInvalid(what, "push the files with a tool that names them, such as oras")


def _download_layers(
    repository: Repository, manifest: Manifest, folder: Path, progress: Callable[[int, int], None] | None
) -> dict[str, Path]:
    """The layers' blobs in files, by digest."""
    total = sum({layer.digest: layer.size for layer in manifest.layers}.values())
    base = 0
    blobs: dict[str, Path] = {}
    for layer in manifest.layers:
        if layer.digest in blobs:
            continue
        blobs[layer.digest] = folder / layer.digest.replace(":", "-")

        def tell(done: int, _: int, before: int = base) -> None:
            if progress is not None:
                progress(before + done, total)

        pull_blob(repository, layer.digest, layer.size, blobs[layer.digest], tell)
        base += layer.size
    return blobs


def _extract(
    reference: Reference,
    manifest: Manifest,
    blobs: Mapping[str, Path],
    root: Path,
    subfolder: str,
    max_bytes: int,
) -> list[str]:
    extraction = Extraction(root, subfolder, image=str(reference), max_bytes=max_bytes)
    is_image = manifest.config.media_type in IMAGE_CONFIGS
    for layer in manifest.layers:
        if is_image:
            extraction.add_layer(blobs[layer.digest], is_gzip=layer.media_type in TAR_GZIP_LAYERS)
        else:
            extraction.add_file(blobs[layer.digest], layer.annotations[TITLE])
    files = extraction.finish()
    if not files:
        where = f"in its folder /{subfolder}" if subfolder else "in it"
        raise ImageInvalid(f"{reference}: there are no files {where}", f"put the files under /{subfolder or ''}")
    return files

"""Manifests: built, read from a registry with their digest verified, an index resolved to one platform."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kaito.failure import ConfigFailure
from kaito.oci.client import Repository
from kaito.oci.errors import ImageInvalid
from kaito.oci.layer import Layer
from kaito.oci.media import (
    ADAPTER_ARTIFACT,
    INDEXES,
    MANIFESTS,
    OCI_CONFIG,
    OCI_MANIFEST,
)

# What the distribution specification has registries accept.
LARGEST_MANIFEST_BYTES = 4 << 20
_INDEX_DEPTH = 2
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Descriptor:
    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image manifest as the registry has it. `digest` is of its bytes."""

    media_type: str
    digest: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str]
    artifact_type: str = ""


def build_config(layers: Sequence[Layer]) -> bytes:
    """The image configuration: a platform and the layers' uncompressed digests, no clock."""
    return encode(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        }
    )


def build_manifest(
    config: bytes, layers: Sequence[Layer], annotations: Mapping[str, str], *, with_artifact_type: bool = True
) -> bytes:
    """The manifest of an adapter image. Raises ConfigFailure where the annotations make it too large."""
    value: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": digest_bytes(config), "size": len(config)},
        "layers": [{"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size} for layer in layers],
    }
    if with_artifact_type:
        value["artifactType"] = ADAPTER_ARTIFACT
    if annotations:
        value["annotations"] = dict(annotations)
    encoded = encode(value)
    if len(encoded) > LARGEST_MANIFEST_BYTES:
        what = f"the image's manifest would have {len(encoded)} bytes, registries take {LARGEST_MANIFEST_BYTES}"
        raise ConfigFailure(what, "shorten the annotations")
    return encoded


def fetch_manifest(repository: Repository) -> Manifest:
    """The manifest that the reference names; of an index that for linux/amd64. Digests are verified."""
    target = repository.reference.target
    for _ in range(_INDEX_DEPTH + 1):
        media_type, digest, value = _fetch(repository, target)
        if media_type in MANIFESTS:
            return _read_manifest(repository, media_type, digest, value)
        if media_type not in INDEXES:
            raise ImageInvalid(
                f"{repository.reference}: manifests of type {media_type or 'unknown'} cannot be read",
                "push the image anew with a current tool",
            )
        target = _choose_platform(repository, value)
    raise ImageInvalid(f"{repository.reference}: its index leads to indexes only")


def push_manifest(repository: Repository, manifest: bytes, plain: bytes) -> bytes:
    """Put a manifest under the reference's tag; returns the one that the registry took.

    A registry that knows no `artifactType` gets `plain`, the one without. Raises PushDenied, RegistryUnavailable.
    """
    url, headers = repository.url(f"manifests/{repository.reference.tag}"), {"Content-Type": OCI_MANIFEST}
    response = repository.request("PUT", url, content=manifest, headers=headers, expect=(201, 400, 415, 422))
    if response.status_code == 201:
        return manifest
    repository.request("PUT", url, content=plain, headers=headers, expect=(201,))
    return plain


def encode(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest_bytes(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _fetch(repository: Repository, target: str) -> tuple[str, str, dict[str, Any]]:
    response = repository.request(
        "GET",
        repository.url(f"manifests/{target}"),
        headers={"Accept": ", ".join((*MANIFESTS, *INDEXES))},
        expect=(200,),
        max_bytes=LARGEST_MANIFEST_BYTES,
    )
    digest = digest_bytes(response.content)
    announced = target if _DIGEST.fullmatch(target) else response.headers.get("docker-content-digest", "")
    if announced.startswith("sha256:") and announced != digest:
        what = f"{repository.reference}: the manifest arrives with digest {digest}, {announced} is expected"
        raise ImageInvalid(what, "it was damaged on its way or in the registry; push it again if this stays so")
    try:
        value = json.loads(response.content)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ImageInvalid(f"{repository.reference}: its manifest is not a JSON object")
    media_type = value.get("mediaType") or response.headers.get("content-type", "").partition(";")[0].strip()
    return str(media_type), digest, value


def _choose_platform(repository: Repository, index: Mapping[str, Any]) -> str:
    entries = index.get("manifests")
    if not isinstance(entries, list):
        raise ImageInvalid(f"{repository.reference}: its index has no list of manifests")
    for entry in entries:
        platform = entry.get("platform") if isinstance(entry, dict) else None
        if not isinstance(platform, dict) or (platform.get("os"), platform.get("architecture")) == ("linux", "amd64"):
            return _read_descriptor(repository, entry).digest
    names = [f"{e['platform'].get('os')}/{e['platform'].get('architecture')}" for e in entries]
    raise ImageInvalid(f"{repository.reference}: has no image for linux/amd64, only {', '.join(names) or 'none'}")


def _read_manifest(repository: Repository, media_type: str, digest: str, value: Mapping[str, Any]) -> Manifest:
    layers = value.get("layers")
    if not isinstance(layers, list):
        raise ImageInvalid(f"{repository.reference}: its manifest has no list of layers")
    return Manifest(
        media_type,
        digest,
        _read_descriptor(repository, value.get("config")),
        tuple(_read_descriptor(repository, layer) for layer in layers),
        _read_annotations(value),
        str(value.get("artifactType") or ""),
    )


def _read_descriptor(repository: Repository, value: object) -> Descriptor:
    if isinstance(value, dict):
        digest, size = value.get("digest"), value.get("size")
        if isinstance(digest, str) and _DIGEST.fullmatch(digest) and isinstance(size, int) and size >= 0:
            return Descriptor(str(value.get("mediaType") or ""), digest, size, _read_annotations(value))
    raise ImageInvalid(f"{repository.reference}: its manifest has an entry without a sha256 digest and a size")


def _read_annotations(value: Mapping[str, Any]) -> dict[str, str]:
    annotations = value.get("annotations")
    if not isinstance(annotations, dict):
        return {}
    return {str(key): str(text) for key, text in annotations.items()}

"""A model in an OCI registry: as an artifact with a blob for each file (ModelPack, ORAS), or in an image's layers.

Of an artifact the small files and the weights' headers are read where they are. What is in layers can only be seen by
unpacking them: such an image is pulled whole, once, into the machine's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from kaito.failure import ConfigFailure, ModelFailure
from kaito.hub.cache import ModelCache
from kaito.hub.files import CONFIG, RepoFile
from kaito.hub.repository import CachedRepository, Opened, Progress, Source
from kaito.oci import Credentials, Reference
from kaito.oci.blobs import pull_blob, read_blob_range
from kaito.oci.client import ALLOWED_VARIABLE, Repository, globs_of_environment
from kaito.oci.manifest import Descriptor, Manifest, fetch_manifest
from kaito.oci.media import IMAGE_CONFIGS, MODEL_FILEPATH, TITLE

_DIGEST_LENGTH = len("sha256:") + 64
_PACKED = (".tar", ".tar+gzip", ".tar.gzip", ".tar+zstd", ".zip")
_UNPACK = "io.deis.oras.content.unpack"


def open_image(source: Source, cache: ModelCache, progress: Progress, say: Callable[[str], None]) -> Opened:
    """The model in an image. Raises RegistryFailure, ModelFailure, ConfigFailure, TemporaryFailure."""
    reference = _reference(source)
    credentials = Credentials.load(source.credentials)
    session = Repository(reference, "pull", credentials=credentials, allow_hosts=globs_of_environment(ALLOWED_VARIABLE))
    manifest = fetch_manifest(session)
    files = _files_of(manifest)
    if files is not None:
        return ImageRepository(session, manifest, files)
    model = cache.find_whole(source.repo, manifest.digest)
    if model is None:
        from kaito.hub.unpack import unpack_image

        total = sum(layer.size for layer in manifest.layers)
        say(f"{source.repo} has its files in layers: all {total:,} bytes are pulled to look into them")
        model = unpack_image(session, manifest, source.repo, cache, progress)
    return CachedRepository(cache, model)


class ImageRepository:
    """An artifact with a blob for each file. `commit` is the manifest's digest."""

    gated = False
    parameters = 0

    def __init__(self, session: Repository, manifest: Manifest, blobs: Mapping[str, Descriptor]) -> None:
        self._session = session
        self.commit = manifest.digest
        self.files: Mapping[str, RepoFile] = {
            path: RepoFile(path, blob.size, blob.digest.removeprefix("sha256:")) for path, blob in blobs.items()
        }

    def read(self, name: str, start: int, length: int) -> bytes:
        return read_blob_range(self._session, self._digest(name), start, length)

    def fetch(self, name: str, target: Path, progress: Progress) -> None:
        pull_blob(self._session, self._digest(name), self.files[name].bytes, target, progress)

    def _digest(self, name: str) -> str:
        return f"sha256:{self.files[name].sha256}"


def _reference(source: Source) -> Reference:
    reference = Reference.parse(source.repo)
    if not source.revision:
        return reference
    if not source.revision.startswith("sha256:") or len(source.revision) != _DIGEST_LENGTH:
        message = f"revision {source.revision!r} of {source.repo} is not an image's digest (sha256:…)"
        raise ConfigFailure(message, "leave it out, and write the tag behind the image's name")
    return replace(reference, digest=source.revision)


def _files_of(manifest: Manifest) -> dict[str, Descriptor] | None:
    """The files of an artifact, paths relative to the folder of its config.json; None where they are in layers."""
    if manifest.config.media_type in IMAGE_CONFIGS:
        return None
    files: dict[str, Descriptor] = {}
    for layer in manifest.layers:
        path = layer.annotations.get(MODEL_FILEPATH) or layer.annotations.get(TITLE, "")
        if layer.media_type.endswith(_PACKED) or layer.annotations.get(_UNPACK) == "true":
            return None
        if not path or ".." in PurePosixPath(path).parts or path.startswith("/"):
            message = f"{manifest.digest}: its layer {layer.digest} names no file of a model"
            hint = "pack the model with `kaito models pack`, or with a tool that writes ModelPack artifacts"
            raise ModelFailure(message, hint, reason="NotAModel")
        files[str(PurePosixPath(path))] = layer
    return _below_config(files)


def _below_config(files: Mapping[str, Descriptor]) -> dict[str, Descriptor]:
    configs = [PurePosixPath(path).parent for path in files if PurePosixPath(path).name == CONFIG]
    if not configs:
        return dict(files)  # the files that are there tell what it is instead
    root = min(configs, key=lambda folder: (len(folder.parts), str(folder)))
    return {
        str(PurePosixPath(path).relative_to(root)): blob
        for path, blob in files.items()
        if PurePosixPath(path).is_relative_to(root)
    }

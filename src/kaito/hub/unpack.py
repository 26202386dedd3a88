"""An image whose layers hold a model, into the machine's cache: pulled, unpacked, its model found and verified."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from kaito.failure import ModelFailure
from kaito.hub.cache import CachedModel, ModelCache
from kaito.hub.files import CONFIG
from kaito.hub.repository import FolderRepository, Progress, model_files
from kaito.oci.blobs import pull_blob
from kaito.oci.client import Repository
from kaito.oci.errors import ImageInvalid
from kaito.oci.extract import Extraction
from kaito.oci.manifest import Descriptor, Manifest
from kaito.oci.media import MODEL_FILEPATH, TITLE
from kaito.transfer import NoSpace, TransferError, require_free_space

# A bound against archives that unpack without end; what the disk has free is asked before.
MAX_BYTES = 8 << 40


def unpack_image(
    session: Repository, manifest: Manifest, repo: str, cache: ModelCache, progress: Progress
) -> CachedModel:
    """Pull an image's layers and take its model into the cache. Call it inside `cache.in_use`.

    The model is in the folder that holds config.json and *.safetensors. Layers that have arrived are kept until all is
    done. Raises ModelFailure, RegistryFailure, TemporaryFailure.
    """
    work = cache.folder / "images" / manifest.digest.replace(":", "-")
    total = sum(layer.size for layer in manifest.layers)
    with cache.exclusive(work, lambda: progress(_bytes_in(work / "layers"), total)):
        known = cache.find_whole(repo, manifest.digest)
        if known is not None:  # another process has just done it
            return known
        try:
            layers = list(_pull_layers(session, manifest, work / "layers", progress))
            folder = _extract(session, layers, work / "root")
        except TransferError as error:
            raise session.failure(error) from error
        except (ImageInvalid, ModelFailure):
            shutil.rmtree(work, ignore_errors=True)
            raise
        repository = FolderRepository(folder, repo, progress)
        names = model_files(repository)
        for name in names:
            source = repository.path(name).resolve()  # an image may hold links within its folder
            cache.fetch(repository.files[name], _linked(source), progress)
        model = CachedModel(repo, manifest.digest, False, 0, tuple(repository.files[name] for name in names))
        cache.save(model)
        shutil.rmtree(work)
        return model


def _linked(source: Path) -> Callable[[Path, Progress], None]:
    return lambda target, _told: os.link(source, target)


def _pull_layers(
    session: Repository, manifest: Manifest, folder: Path, progress: Progress
) -> Iterator[tuple[Descriptor, Path]]:
    total = sum(layer.size for layer in manifest.layers)
    try:
        require_free_space(folder, 2 * total - _bytes_in(folder))  # packed, and what it unpacks to
    except NoSpace as error:
        raise session.failure(error) from error
    done = 0
    for layer in manifest.layers:
        path = folder / layer.digest.replace(":", "-")

        def tell(part: int, _total: int, before: int = done) -> None:
            progress(before + part, total)

        pull_blob(session, layer.digest, layer.size, path, tell)
        done += layer.size
        yield layer, path


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*") if path.is_file())


def _extract(session: Repository, layers: list[tuple[Descriptor, Path]], root: Path) -> Path:
    """The folder of the model, unpacked below `root`."""
    image = str(session.reference)
    folders = _model_folders(image, layers)
    if len(folders) != 1:
        found = f"models in {', '.join(f'/{folder}' for folder in folders)}" if folders else "no model"
        hint = "an image has one folder with config.json and *.safetensors; `kaito models pack` makes such an image"
        raise ModelFailure(f"image {image} has {found}", hint, reason="NotAModel")
    shutil.rmtree(root, ignore_errors=True)
    extraction = Extraction(root, folders[0], image=image, max_bytes=MAX_BYTES)
    for layer, path in layers:
        name = layer.annotations.get(MODEL_FILEPATH) or layer.annotations.get(TITLE, "")
        if _is_tar(layer):
            extraction.add_layer(path, is_gzip=_is_gzip(layer))
        elif PurePosixPath(name).is_relative_to(folders[0]):
            extraction.add_file(path, str(PurePosixPath(name).relative_to(folders[0])))
    extraction.finish()
    return root


def _model_folders(image: str, layers: list[tuple[Descriptor, Path]]) -> list[str]:
    """The folders that hold a model's config.json and weights, the root as ""."""
    with_config, with_weights = set(), set()
    for name in _names(image, layers):
        path = PurePosixPath(name)
        if path.name == CONFIG:
            with_config.add(path.parent)
        elif path.suffix == ".safetensors":
            with_weights.add(path.parent)
    return sorted(str(folder).removeprefix(".") for folder in with_config & with_weights)


def _names(image: str, layers: list[tuple[Descriptor, Path]]) -> Iterator[str]:
    for layer, path in layers:
        if not _is_tar(layer):
            yield layer.annotations.get(MODEL_FILEPATH) or layer.annotations.get(TITLE, "")
            continue
        try:
            with tarfile.open(path, "r|gz" if _is_gzip(layer) else "r|") as archive:
                for entry in archive:
                    yield str(PurePosixPath(entry.name))
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ImageInvalid(f"{image}: a layer is damaged: {error}", "push the image again") from error


def _is_tar(layer: Descriptor) -> bool:
    if layer.media_type.endswith(("zstd", ".zip")):
        hint = "push it with tar or tar+gzip layers"
        raise ImageInvalid(f"layers of type {layer.media_type} cannot be read", hint)
    return ".tar" in layer.media_type


def _is_gzip(layer: Descriptor) -> bool:
    return layer.media_type.endswith("gzip")

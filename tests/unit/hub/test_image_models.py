from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from kaito.failure import ConfigFailure, Failure, ModelFailure
from kaito.hub.cache import ModelCache
from kaito.hub.pack import Packed, pack_model
from kaito.hub.pull import RECORD, pull
from kaito.hub.repository import Source
from kaito.hub.resolve import resolve
from kaito.oci import PullDenied, Reference
from kaito.oci import pull as pull_image
from kaito.oci.blobs import push_blob
from kaito.oci.client import Repository
from kaito.oci.manifest import digest_bytes, encode, fetch_manifest, push_manifest
from kaito.oci.media import (
    LAYER_TAR,
    LAYER_TAR_GZIP,
    MODEL_ARTIFACT,
    MODEL_CONFIG,
    MODEL_FILEPATH,
    MODEL_WEIGHT,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
)
from tests.servers.hub import Hub, HubRepo
from tests.servers.proxy import Fault, run_proxy
from tests.servers.registry import PASSWORD, RegistryServer, run_registry, write_docker_config
from tests.unit.hub.conftest import read_all, safetensors

WEIGHTS = "model.safetensors"


@pytest.fixture
def image(request: pytest.FixtureRequest, registry: RegistryServer) -> str:
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name.lower()).strip("-")
    return f"{registry.host}/models/{name}:1"


def pack(folder: Path, image: str, **options: Any) -> Packed:
    return pack_model(Source(str(folder)), Reference.parse(image), **options)


def push(image: str, config_type: str, layers: list[tuple[str, bytes, Mapping[str, str]]]) -> str:
    """An image as another tool makes it; its digest."""
    config = b"{}"
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": config_type, "digest": digest_bytes(config), "size": len(config)},
        "layers": [
            {"mediaType": kind, "digest": digest_bytes(content), "size": len(content), "annotations": dict(notes)}
            for kind, content, notes in layers
        ],
    }
    with Repository(Reference.parse(image), "push") as registry:
        for content in [config, *(content for _, content, _ in layers)]:
            push_blob(registry, BytesIO(content), digest_bytes(content), len(content), progress=lambda _: None)
        push_manifest(registry, encode(manifest), encode(manifest))
    return digest_bytes(encode(manifest))


def tar(files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, BytesIO(content))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return packed.getvalue()


def test_a_packed_folder_is_the_same_model_from_the_registry(model_folder: Path, image: str, tmp_path: Path) -> None:
    packed = pack(model_folder, image)
    local = resolve(str(model_folder), "", tmp_path / "local")
    facts = resolve(f"oci://{image}", "", tmp_path / "model")
    assert facts.commit == packed.digest
    assert facts.files_digest == local.files_digest
    for name in ("parameters", "bytes", "layers", "hidden", "kv_bytes_per_token", "vocab", "context", "architecture"):
        assert getattr(facts, name) == getattr(local, name)
    assert not (tmp_path / "model" / WEIGHTS).exists()
    result = pull(f"oci://{image}", facts.commit, tmp_path / "model")
    assert result["commit"] == packed.digest and result["files_digest"] == facts.files_digest
    for path in (tmp_path / "model").iterdir():
        assert path.name == RECORD or path.read_bytes() == (model_folder / path.name).read_bytes()


def test_the_same_files_give_the_same_digest_and_are_sent_once(
    model_folder: Path, image: str, registry: RegistryServer
) -> None:
    first = pack(model_folder, image)
    with run_proxy(registry.host) as proxy:
        again = pack(model_folder, image.replace(registry.host, proxy.host))
        assert proxy.count("PATCH") == 0
    assert again.digest == first.digest
    (model_folder / "config.json").write_text((model_folder / "config.json").read_text() + " ")
    assert pack(model_folder, image).digest != first.digest


def test_resolve_of_an_image_reads_small_files_and_headers_alone(
    model_folder: Path, image: str, registry: RegistryServer, tmp_path: Path
) -> None:
    (model_folder / WEIGHTS).write_bytes(safetensors({"a": [3000, 400], "b": [64]}))
    pack(model_folder, image)
    digest = hashlib.sha256((model_folder / WEIGHTS).read_bytes()).hexdigest()
    with run_proxy(registry.host) as proxy:
        proxy.add(Fault("GET", f"blobs/sha256:{digest}", times=1, skip=2, status=404))
        assert resolve(f"oci://{image.replace(registry.host, proxy.host)}", "", tmp_path / "m").parameters == 1200064
        assert proxy.count("GET", f"blobs/sha256:{digest}") == 2
        sent = sum(path.stat().st_size for path in (tmp_path / "m").iterdir())
    assert sent < 100_000


def test_a_broken_pull_of_weights_goes_on_where_it_stopped(
    model_folder: Path, image: str, registry: RegistryServer, tmp_path: Path
) -> None:
    packed = pack(model_folder, image)
    digest = hashlib.sha256((model_folder / WEIGHTS).read_bytes()).hexdigest()
    with run_proxy(registry.host) as proxy:
        proxy.add(Fault("GET", f"blobs/sha256:{digest}", times=2, cut_response=80_000))
        pull(f"oci://{image.replace(registry.host, proxy.host)}", packed.digest, tmp_path / "model")
        assert proxy.count("GET", f"blobs/sha256:{digest}") == 3
    assert (tmp_path / "model" / WEIGHTS).read_bytes() == (model_folder / WEIGHTS).read_bytes()


def test_weights_that_the_registry_damaged_are_not_used(
    model_folder: Path, image: str, registry: RegistryServer, tmp_path: Path
) -> None:
    packed = pack(model_folder, image)
    digest = hashlib.sha256((model_folder / WEIGHTS).read_bytes()).hexdigest()
    with run_proxy(registry.host) as proxy:
        proxy.add(Fault("GET", f"blobs/sha256:{digest}", times=9, flip=1000))
        with pytest.raises(Failure) as refusal:
            pull(f"oci://{image.replace(registry.host, proxy.host)}", packed.digest, tmp_path / "model")
    assert refusal.value.reason == "ImageInvalid"
    assert not (tmp_path / "model" / WEIGHTS).exists()


def test_a_pinned_image_stays_what_it_was_when_its_tag_moves(model_folder: Path, image: str, tmp_path: Path) -> None:
    before = pack(model_folder, image)
    (model_folder / "generation_config.json").write_text('{"moved": true}')
    assert pack(model_folder, image).digest != before.digest
    pull(f"oci://{image}", before.digest, tmp_path / "model")
    assert (tmp_path / "model" / "generation_config.json").read_text() == "{}"
    with pytest.raises(ConfigFailure, match="is not an image's digest"):
        resolve(f"oci://{image}", "main", tmp_path / "other")


def test_an_index_is_pinned_to_the_image_that_it_leads_to(model_folder: Path, image: str, tmp_path: Path) -> None:
    packed = pack(model_folder, image)
    entry = {"mediaType": OCI_MANIFEST, "digest": packed.digest, "size": manifest_size(image)}
    index = encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]})
    with Repository(Reference.parse(image), "push") as repository:
        url = repository.url(f"manifests/{digest_bytes(index)}")
        repository.request("PUT", url, content=index, headers={"Content-Type": OCI_INDEX}, expect=(201,))
    by_index = f"oci://{image.rpartition(':')[0]}@{digest_bytes(index)}"
    facts = resolve(by_index, "", tmp_path / "model")
    assert facts.commit == packed.digest
    assert pull(by_index, facts.commit, tmp_path / "model")["commit"] == packed.digest


def manifest_size(image: str) -> int:
    with Repository(Reference.parse(image), "pull") as repository:
        url = repository.url(f"manifests/{repository.reference.tag}")
        return len(repository.request("GET", url, headers={"Accept": OCI_MANIFEST}, expect=(200,)).content)


def test_a_model_of_the_hub_is_packed_with_its_origin_and_shares_its_weights_with_the_cache(
    hub: Hub, model_folder: Path, image: str, registry: RegistryServer, tmp_path: Path
) -> None:
    hub.repos["acme/small"] = HubRepo(read_all(model_folder))
    packed = pack_model(Source("acme/small"), Reference.parse(image))
    with Repository(Reference.parse(image), "pull") as repository:
        manifest = fetch_manifest(repository)
    assert manifest.artifact_type == MODEL_ARTIFACT
    assert manifest.annotations["sh.kaito.model.repo"] == "acme/small"
    assert manifest.annotations["sh.kaito.model.commit"] == hub.repos["acme/small"].commit == packed.commit
    names = [layer.annotations[MODEL_FILEPATH] for layer in manifest.layers]
    assert names[-1] == WEIGHTS and "README.md" in names and "training_args.bin" not in names
    with run_proxy(registry.host) as proxy:
        pull(f"oci://{image.replace(registry.host, proxy.host)}", packed.digest, tmp_path / "model")
        assert proxy.count("GET", f"blobs/{manifest.layers[-1].digest}") == 0
    pinned = Source("acme/small", hub.repos["acme/small"].commit)
    assert pack_model(pinned, Reference.parse(image)).digest == packed.digest


def test_a_packed_model_can_be_pulled_by_any_client_of_artifacts(
    model_folder: Path, image: str, tmp_path: Path
) -> None:
    pack(model_folder, image)
    pull_image(Reference.parse(image), tmp_path / "all")
    assert (tmp_path / "all" / WEIGHTS).read_bytes() == (model_folder / WEIGHTS).read_bytes()


def test_an_artifact_of_another_tool_with_its_files_in_a_folder_is_read(
    model_folder: Path, image: str, tmp_path: Path
) -> None:
    layers = [
        (MODEL_WEIGHT, content, {MODEL_FILEPATH: f"phi/{name}"})
        for name, content in read_all(model_folder).items()
        if name != "training_args.bin"
    ]
    digest = push(image, MODEL_CONFIG, layers)
    facts = resolve(f"oci://{image}", "", tmp_path / "model")
    assert (facts.commit, facts.parameters) == (digest, 300 * 400 + 64)


@pytest.mark.parametrize("root", ["workspace/tfs/weights/", "models/", ""])
@pytest.mark.parametrize("kind", [LAYER_TAR, LAYER_TAR_GZIP])
def test_an_image_with_baked_weights_is_looked_into_once(
    root: str, kind: str, model_folder: Path, registry: RegistryServer, tmp_path: Path
) -> None:
    image = f"{registry.host}/baked/{hashlib.sha256(f'{root}{kind}'.encode()).hexdigest()[:8]}:1"
    files = {f"{root}{name}": content for name, content in read_all(model_folder).items()}
    weights = {name: files.pop(name) for name in list(files) if name.endswith(".safetensors")}
    layers = [tar({"usr/bin/program": b"#!", **files}), tar(weights)]
    packed = [gzip.compress(layer) if kind == LAYER_TAR_GZIP else layer for layer in layers]
    digest = push(image, OCI_CONFIG, [(kind, layer, {}) for layer in packed])
    facts = resolve(f"oci://{image}", "", tmp_path / "model")
    assert (facts.commit, facts.parameters) == (digest, 300 * 400 + 64)
    assert facts.files_digest == resolve(str(model_folder), "", tmp_path / "local").files_digest
    with run_proxy(registry.host) as proxy:
        through = f"oci://{image.replace(registry.host, proxy.host)}"
        resolve(through, digest, tmp_path / "model")
        before = proxy.count("GET", "blobs/")
        pull(through, digest, tmp_path / "model")
        assert proxy.count("GET", "blobs/") == before
    assert (tmp_path / "model" / WEIGHTS).read_bytes() == (model_folder / WEIGHTS).read_bytes()
    assert not list(ModelCache().folder.glob("images/sha256-*/layers"))


def test_links_within_an_image_lead_to_its_files(model_folder: Path, image: str, tmp_path: Path) -> None:
    files = read_all(model_folder)
    weights = files.pop(WEIGHTS)
    contents = {**{f"data/{name}": content for name, content in files.items()}, "data/blobs/abc": weights}
    push(image, OCI_CONFIG, [(LAYER_TAR, tar(contents, {f"data/{WEIGHTS}": "blobs/abc"}), {})])
    pull(f"oci://{image}", "", tmp_path / "model")
    assert (tmp_path / "model" / WEIGHTS).read_bytes() == weights


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"data/train.jsonl": b"{}"}, "has no model"),
        (
            {f"{where}/{name}": b"{}" for where in ("a", "b") for name in ("config.json", WEIGHTS)},
            "has models in /a, /b",
        ),
    ],
)
def test_an_image_without_one_model_is_refused(files: dict[str, bytes], said: str, image: str, tmp_path: Path) -> None:
    push(image, OCI_CONFIG, [(LAYER_TAR, tar(files), {})])
    with pytest.raises(ModelFailure, match=said):
        resolve(f"oci://{image}", "", tmp_path / "model")


def test_an_artifact_that_is_no_model_is_refused(image: str, tmp_path: Path) -> None:
    push(image, MODEL_CONFIG, [(MODEL_WEIGHT, b"x", {MODEL_FILEPATH: "../config.json"})])
    with pytest.raises(ModelFailure) as refusal:
        resolve(f"oci://{image}", "", tmp_path / "model")
    assert refusal.value.reason == "NotAModel"


def test_a_private_registry_takes_the_credentials_that_are_given(model_folder: Path, tmp_path: Path) -> None:
    with run_registry(tmp_path / "registry", users=("robot",)) as private:
        image = f"{private.host}/models/private:1"
        login = {private.host: {"username": "robot", "password": PASSWORD}}
        credentials = [write_docker_config(tmp_path / "secret", login)]
        pack(model_folder, image, push_credentials=credentials)
        with pytest.raises(PullDenied):
            resolve(f"oci://{image}", "", tmp_path / "model")
        facts = resolve(f"oci://{image}", "", tmp_path / "model", credentials=credentials)
        pull(f"oci://{image}", facts.commit, tmp_path / "model", credentials=credentials)
    assert (tmp_path / "model" / WEIGHTS).exists()
    assert json.loads((tmp_path / "model" / RECORD).read_text())["commit"] == facts.commit

"""Pulls: images that others made, damaged ones, and the bounds."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from kaito.failure import ConfigFailure
from kaito.oci import ImageInvalid, ImageNotFound, Reference, RegistryUnavailable, inspect, pull, push_adapter
from tests.servers.proxy import Fault, FaultProxy
from tests.servers.registry import RegistryServer

CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
TAR, TAR_GZIP = "application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.layer.v1.tar+gzip"
TITLE = "org.opencontainers.image.title"


class Builder:
    """Puts hand-made images into a registry, with nothing of the client under test."""

    def __init__(self, registry: RegistryServer, repository: str) -> None:
        self.reference = Reference.parse(f"{registry.host}/{repository}:1")
        self._base = f"{registry.url}/v2/{repository}"

    def blob(self, data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        location = httpx.post(f"{self._base}/blobs/uploads/").headers["location"]
        assert httpx.put(f"{location}&digest={digest}", content=data).status_code == 201
        return {"mediaType": media_type, "digest": digest, "size": len(data), **more}

    def manifest(self, value: dict[str, Any], media_type: str = MANIFEST, tag: str = "1") -> dict[str, Any]:
        data = json.dumps({"schemaVersion": 2, "mediaType": media_type, **value}).encode()
        answer = httpx.put(f"{self._base}/manifests/{tag}", content=data, headers={"Content-Type": media_type})
        assert answer.status_code == 201, answer.text
        return {"mediaType": media_type, "digest": answer.headers["docker-content-digest"], "size": len(data)}

    def image(self, *layers: tuple[bytes, str], tag: str = "1") -> dict[str, Any]:
        config = self.blob(b'{"rootfs":{"diff_ids":[]}}', CONFIG)
        return self.manifest({"config": config, "layers": [self.blob(*layer) for layer in layers]}, tag=tag)


@pytest.fixture
def builder(registry: RegistryServer, repository: str) -> Builder:
    return Builder(registry, repository)


def tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def test_what_kaito_pushed_is_read(builder: Builder, tmp_path: Path) -> None:
    """KAITO's pusher: `tar -cf` of data/, gzip -9, a configuration with nothing but the diff ids."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "adapter_config.json").write_bytes(b"{}")
    (tmp_path / "data" / "adapter_model.safetensors").write_bytes(b"weights")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.add(tmp_path / "data", "data")
    layer = builder.blob(gzip.compress(out.getvalue(), 9), TAR_GZIP, annotations={TITLE: "layer.tar.gz"})
    diff_id = "sha256:" + hashlib.sha256(out.getvalue()).hexdigest()
    config = builder.blob(json.dumps({"rootfs": {"diff_ids": [diff_id]}}).encode(), CONFIG)
    annotations = {"sh.kaito.model.name": "phi-3-mini-128k-instruct"}
    builder.manifest({"config": config, "layers": [layer], "annotations": annotations})
    pulled = pull(builder.reference, tmp_path / "back")
    assert pulled.files == ("adapter_config.json", "adapter_model.safetensors")
    assert (tmp_path / "back" / "adapter_model.safetensors").read_bytes() == b"weights"
    assert inspect(builder.reference).annotations == annotations


def test_layers_lie_over_each_other_in_order(builder: Builder, tmp_path: Path) -> None:
    builder.image(
        (tar({"data/a": b"1", "data/b": b"1", "etc/x": b"1"}), TAR),
        (gzip.compress(tar({"data/b": b"2", "data/.wh.a": b""})), TAR_GZIP),
    )
    assert pull(builder.reference, tmp_path / "back").files == ("b",)
    assert (tmp_path / "back" / "b").read_bytes() == b"2"


def test_dockers_own_media_types_are_read(builder: Builder, tmp_path: Path) -> None:
    docker = "application/vnd.docker"
    layer = builder.blob(gzip.compress(tar({"data/a": b"1"})), f"{docker}.image.rootfs.diff.tar.gzip")
    config = builder.blob(b"{}", f"{docker}.container.image.v1+json")
    builder.manifest({"config": config, "layers": [layer]}, f"{docker}.distribution.manifest.v2+json")
    assert pull(builder.reference, tmp_path / "back").files == ("a",)


def test_of_an_index_linux_amd64_is_taken(builder: Builder, tmp_path: Path) -> None:
    manifests = []
    for architecture in ("arm64", "amd64"):
        entry = builder.image((tar({f"data/{architecture}": b"1"}), TAR), tag=architecture)
        manifests.append({**entry, "platform": {"os": "linux", "architecture": architecture}})
    builder.manifest({"manifests": manifests}, INDEX)
    assert pull(builder.reference, tmp_path / "back").files == ("amd64",)
    builder.manifest({"manifests": manifests[:1]}, INDEX)
    with pytest.raises(ImageInvalid, match="only linux/arm64"):
        pull(builder.reference, tmp_path / "other")


def test_an_artifact_with_titles_is_read(builder: Builder, tmp_path: Path) -> None:
    config = builder.blob(b"{}", "application/vnd.oci.empty.v1+json")
    layers = [
        builder.blob(name.encode(), TAR, annotations={TITLE: name}) for name in ("adapter_config.json", "sub/x.bin")
    ]
    builder.manifest({"config": config, "layers": layers})
    assert pull(builder.reference, tmp_path / "back").files == ("adapter_config.json", "sub/x.bin")
    assert (tmp_path / "back" / "sub" / "x.bin").read_bytes() == b"sub/x.bin"


@pytest.mark.parametrize("title", ["../x", "/etc/x", "."])
def test_a_title_that_leads_out_is_refused(builder: Builder, tmp_path: Path, title: str) -> None:
    config = builder.blob(b"{}", "application/vnd.oci.empty.v1+json")
    builder.manifest({"config": config, "layers": [builder.blob(b"x", TAR, annotations={TITLE: title})]})
    with pytest.raises(ImageInvalid):
        pull(builder.reference, tmp_path / "back")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("files", "media_type", "words"),
    [
        ({"other/a": b""}, TAR, "no files in its folder /data"),
        ({"data/../../a": b""}, TAR, "leads out"),
        ({"data/a": b""}, TAR + "+zstd", "zstd"),
        ({"data/a": b""}, TAR_GZIP, "damaged"),
    ],
)
def test_an_image_that_cannot_be_used_leaves_nothing(
    builder: Builder, tmp_path: Path, files: dict[str, bytes], media_type: str, words: str
) -> None:
    builder.image((tar(files), media_type))
    with pytest.raises(ImageInvalid, match=words) as caught:
        pull(builder.reference, tmp_path / "back")
    assert str(builder.reference) in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_the_bound_holds_before_a_byte_is_fetched(builder: Builder, tmp_path: Path) -> None:
    builder.image((tar({"data/a": bytes(100_000)}), TAR))
    with pytest.raises(ImageInvalid, match="at most 50000"):
        pull(builder.reference, tmp_path / "back", max_bytes=50_000)


def test_a_missing_tag_or_repository_is_not_found(registry: RegistryServer, builder: Builder, tmp_path: Path) -> None:
    builder.image((tar({"data/a": b""}), TAR))
    for name in (f"{builder.reference.name}:other", f"{registry.host}/nobody/nothing:1"):
        with pytest.raises(ImageNotFound, match="not found"):
            pull(Reference.parse(name), tmp_path / "back")


def test_a_target_with_something_in_it_is_left_alone(builder: Builder, tmp_path: Path) -> None:
    builder.image((tar({"data/a": b""}), TAR))
    (tmp_path / "back").mkdir()
    assert pull(builder.reference, tmp_path / "back").files == ("a",)
    with pytest.raises(ConfigFailure, match="not empty"):
        pull(builder.reference, tmp_path / "back")


def test_a_digest_pins_the_image(builder: Builder, tmp_path: Path) -> None:
    first = builder.image((tar({"data/a": b"1"}), TAR))
    builder.image((tar({"data/a": b"2"}), TAR))
    pinned = Reference.parse(f"{builder.reference}@{first['digest']}")
    pulled = pull(pinned, tmp_path / "back")
    assert (pulled.digest, (tmp_path / "back" / "a").read_bytes()) == (first["digest"], b"1")


# --- when the way there breaks --------------------------------------------------------------------------------------


def test_a_flipped_byte_in_a_layer_is_detected(
    proxy: FaultProxy, repository: str, results: Path, tmp_path: Path
) -> None:
    reference = Reference.parse(f"{proxy.host}/{repository}:1")
    push_adapter(reference, results)
    proxy.add(Fault(path="/blobs/", flip=1_000_000, times=9))
    with pytest.raises(ImageInvalid, match="damaged"):
        pull(reference, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_flipped_byte_in_a_manifest_is_detected(
    proxy: FaultProxy, repository: str, results: Path, tmp_path: Path
) -> None:
    reference = Reference.parse(f"{proxy.host}/{repository}:1")
    push_adapter(reference, results)
    proxy.add(Fault(path="/manifests/", flip=5))
    with pytest.raises(ImageInvalid, match="digest"):
        pull(reference, tmp_path / "back")


def test_a_pull_goes_on_with_what_an_earlier_one_left(
    proxy: FaultProxy, repository: str, results: Path, tmp_path: Path
) -> None:
    reference = Reference.parse(f"{proxy.host}/{repository}:1")
    push_adapter(reference, results)
    weights = inspect(reference).layers[0]
    proxy.faults = [
        Fault(path=f"/blobs/{weights.digest}", cut_response=2_000_000),
        Fault(path=f"/blobs/{weights.digest}", status=404, times=99),
        Fault("HEAD", path=f"/blobs/{weights.digest}", status=404, times=99),
    ]
    with pytest.raises(ImageNotFound):
        pull(reference, tmp_path / "back")
    assert [path.stat().st_size for path in (tmp_path / "back.pull").rglob("*.part")] == [2_000_000]
    proxy.faults = [Fault(path="/blobs/", cut_response=weights.size - 2_000_000 + 1)]  # more than what is left
    before = proxy.count("GET", weights.digest)
    pull(reference, tmp_path / "back")
    assert (tmp_path / "back" / "adapter_model.safetensors").read_bytes() == (
        results / "adapter_model.safetensors"
    ).read_bytes()
    assert proxy.count("GET", weights.digest) == before + 1
    assert not (tmp_path / "back.pull").exists()


def test_an_overloaded_registry_is_temporary(proxy: FaultProxy, tmp_path: Path, pauses: list[float]) -> None:
    proxy.add(Fault(status=503, times=999))
    with pytest.raises(RegistryUnavailable, match="503"):
        pull(Reference.parse(f"{proxy.host}/a:1"), tmp_path / "back", sleep=pauses.append)
    assert len(pauses) == 4

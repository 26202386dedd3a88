"""Pushes to a real registry: what is in the image, and what is not pushed at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kaito.failure import ConfigFailure, DataFailure
from kaito.oci import (
    Reference,
    inspect,
    pull,
    push_adapter,
)
from kaito.oci.layer import build_layer
from kaito.oci.manifest import LARGEST_MANIFEST_BYTES
from tests.servers.proxy import FaultProxy
from tests.servers.registry import RegistryServer
from tests.unit.oci.results_folder import PUBLISHED, WEIGHTS, write_results


def test_what_is_pushed_comes_back_bit_for_bit_and_nothing_else_left(
    registry: RegistryServer, repository: str, results: Path, tmp_path: Path
) -> None:
    reference = Reference.parse(f"{registry.host}/{repository}:1")
    told: list[tuple[int, int]] = []
    pushed = push_adapter(reference, results, progress=lambda *at: told.append(at))
    pulled = pull(reference, tmp_path / "back")
    assert pulled.files == PUBLISHED
    assert all((tmp_path / "back" / name).read_bytes() == (results / name).read_bytes() for name in PUBLISHED)
    assert (pushed.image, pushed.digest) == (str(reference), pulled.digest)
    assert told[-1][0] == told[-1][1]
    assert told == sorted(told)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "run"]
    assert [path.name for path in results.parent.iterdir()] == ["results"]


def test_the_manifest_is_an_image_that_kaito_and_containerd_read(
    registry: RegistryServer, repository: str, results: Path
) -> None:
    reference = Reference.parse(f"{registry.host}/{repository}:1")
    push_adapter(reference, results, annotations={"sh.kaito.model.name": "phi-3", "sh.kaito.adapter.rank": "9"})
    image = inspect(reference)
    assert image.media_type == "application/vnd.oci.image.manifest.v1+json"
    assert image.artifact_type == "application/vnd.kaito.adapter.v1"
    assert {layer.media_type for layer in image.layers} == {"application/vnd.oci.image.layer.v1.tar+gzip"}
    assert (image.config["os"], image.config["architecture"]) == ("linux", "amd64")
    assert len(image.config["rootfs"]["diff_ids"]) == len(image.layers) == 2
    assert image.annotations == {
        "sh.kaito.model.name": "phi-3",
        "sh.kaito.adapter.base-model": "org/base",
        "sh.kaito.adapter.base-revision": "c0ffee",
        "sh.kaito.adapter.peft-type": "LORA",
        "sh.kaito.adapter.rank": "9",
        "sh.kaito.adapter.alpha": "16",
    }


def test_the_same_adapter_has_the_same_digest(registry: RegistryServer, repository: str, tmp_path: Path) -> None:
    digests = set()
    for number in range(2):
        results = write_results(tmp_path / f"run-{number}" / "results")
        os.utime(results / "README.md", (number, number))
        (results / "README.md").chmod(0o600 if number else 0o644)
        digests.add(push_adapter(Reference.parse(f"{registry.host}/{repository}:{number}"), results).digest)
    assert len(digests) == 1


def test_the_digest_does_not_depend_on_the_machine(tmp_path: Path) -> None:
    """Written down: no compressor, clock or user has a part in it."""
    results = write_results(tmp_path / "results", weights=b"weights" * 50_000)
    files = [results / "adapter_config.json", results / "adapter_model.safetensors"]
    layer = build_layer(files, "data", tmp_path)
    assert layer.digest == "sha256:6e6fa556d084aa669e3b867f3b731fcbf2be4f3b7b910c7003133c56ef5c6ab2"


def test_another_weight_changes_only_its_own_layer(registry: RegistryServer, repository: str, tmp_path: Path) -> None:
    layers = []
    for number in range(2):
        results = write_results(tmp_path / f"run-{number}" / "results", weights=WEIGHTS + bytes([number]))
        reference = Reference.parse(f"{registry.host}/{repository}:{number}")
        push_adapter(reference, results)
        layers.append([layer.digest for layer in inspect(reference).layers])
    assert layers[0][0] != layers[1][0]
    assert layers[0][1] == layers[1][1]


def test_a_second_push_uploads_nothing(proxy: FaultProxy, repository: str, results: Path) -> None:
    push_adapter(Reference.parse(f"{proxy.host}/{repository}:1"), results)
    uploaded = proxy.count("PATCH")
    push_adapter(Reference.parse(f"{proxy.host}/{repository}:2"), results)
    assert proxy.count("PATCH") == uploaded > 0


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "fine_tuning_completed.txt"])
def test_an_incomplete_folder_is_not_pushed(
    registry: RegistryServer, repository: str, results: Path, name: str
) -> None:
    (results / name).unlink()
    reference = Reference.parse(f"{registry.host}/{repository}:1")
    with pytest.raises(DataFailure, match=name):
        push_adapter(reference, results)
    assert not (registry.storage / "docker/registry/v2/repositories" / repository).exists()


def test_a_broken_adapter_configuration_is_named(results: Path) -> None:
    (results / "adapter_config.json").write_text('{"r": ')
    with pytest.raises(DataFailure, match=r"adapter_config\.json: not JSON"):
        push_adapter(Reference.parse("127.0.0.1:1/a"), results)


def test_a_push_to_a_digest_is_refused(results: Path) -> None:
    with pytest.raises(ConfigFailure, match="needs a tag"):
        push_adapter(Reference.parse("127.0.0.1:1/a@sha256:" + "0" * 64), results)


def test_annotations_that_no_registry_takes_are_refused(results: Path) -> None:
    with pytest.raises(ConfigFailure, match="manifest"):
        push_adapter(Reference.parse("127.0.0.1:1/a"), results, annotations={"a": "x" * LARGEST_MANIFEST_BYTES})

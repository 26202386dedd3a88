"""Pushes over a connection, and to a registry, that break."""

from __future__ import annotations

from pathlib import Path

import pytest

from kaito.oci import (
    PushDenied,
    Reference,
    RegistryUnavailable,
    inspect,
    pull,
    push_adapter,
)
from kaito.oci.blobs import push_blob
from kaito.oci.client import Repository
from kaito.oci.layer import build_layer
from tests.servers.proxy import Fault, FaultProxy
from tests.servers.registry import run_registry

CHUNK = 1 << 20


@pytest.mark.parametrize("cut", [0, 1, 700_000])
def test_a_cut_upload_is_finished(
    proxy: FaultProxy, repository: str, results: Path, tmp_path: Path, pauses: list[float], cut: int
) -> None:
    reference = Reference.parse(f"{proxy.host}/{repository}:1")
    proxy.faults = [Fault("PATCH", cut_request=cut)]
    pushed = push_adapter(reference, results, chunk_bytes=CHUNK, sleep=pauses.append)
    assert pull(reference, tmp_path / "back").digest == pushed.digest
    assert 1 <= len(pauses) <= 2  # two where the registry is asked before it has noticed the cut


def test_an_upload_goes_on_after_the_chunks_that_arrived(
    proxy: FaultProxy, repository: str, results: Path, pauses: list[float]
) -> None:
    """The third chunk is dropped before a byte of it is through: the registry still knows of the first two."""
    proxy.add(Fault("PATCH", skip=2, cut_request=0))
    reference = Reference.parse(f"{proxy.host}/{repository}:1")
    layer = build_layer([results / "adapter_model.safetensors"], "data", results.parent)
    with Repository(reference, "push", sleep=pauses.append) as session:
        push_blob(session, layer.file, layer.digest, layer.size, chunk_bytes=CHUNK, progress=lambda _done: None)
    assert proxy.count("POST") == 1
    assert proxy.count("PATCH") == 4
    assert proxy.count("GET", "/blobs/uploads/") == 1


def test_an_upload_that_keeps_breaking_ends(
    proxy: FaultProxy, repository: str, results: Path, pauses: list[float]
) -> None:
    proxy.add(Fault("PATCH", cut_request=100, times=999))
    with pytest.raises(RegistryUnavailable):
        push_adapter(Reference.parse(f"{proxy.host}/{repository}:1"), results, chunk_bytes=CHUNK, sleep=pauses.append)
    assert proxy.count("PATCH") == 5


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("method", ["HEAD", "POST", "PATCH", "PUT"])
def test_an_overloaded_registry_is_waited_for(
    proxy: FaultProxy, repository: str, results: Path, pauses: list[float], method: str, status: int
) -> None:
    proxy.add(Fault(method, status=status, times=2, headers={"Retry-After": "3"}))
    push_adapter(Reference.parse(f"{proxy.host}/{repository}:1"), results, sleep=pauses.append)
    assert pauses == [3.0, 3.0]


def test_a_lost_answer_to_the_last_request_does_no_harm(
    proxy: FaultProxy, repository: str, results: Path, pauses: list[float]
) -> None:
    proxy.add(Fault("PUT", path="/blobs/uploads/", drop_answer=True))
    push_adapter(Reference.parse(f"{proxy.host}/{repository}:1"), results, sleep=pauses.append)
    assert len(pauses) == 1


def test_a_registry_that_is_down_is_temporary(proxy: FaultProxy, results: Path, pauses: list[float]) -> None:
    proxy.stop()
    with pytest.raises(RegistryUnavailable, match="refused"):
        push_adapter(Reference.parse(f"{proxy.host}/a:1"), results, sleep=pauses.append)


def test_a_read_only_registry_is_a_denial(tmp_path: Path, results: Path) -> None:
    with run_registry(tmp_path / "r", read_only=True) as registry, pytest.raises(PushDenied, match="405"):
        push_adapter(Reference.parse(f"{registry.host}/a:1"), results)


def test_a_registry_that_knows_no_artifact_type_gets_the_plain_image(
    proxy: FaultProxy, repository: str, results: Path, tmp_path: Path
) -> None:
    proxy.add(Fault("PUT", path="/manifests/", status=400))
    reference = Reference.parse(f"{proxy.host}/{repository}:1")
    pushed = push_adapter(reference, results)
    image = inspect(reference)
    assert (image.artifact_type, image.digest) == ("", pushed.digest)

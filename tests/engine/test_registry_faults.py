"""The registry refuses, is down, slow or full after the training: nothing is trained twice, and retry finishes it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.machine import Machine, wait_until, write_workspace
from tests.servers.proxy import Fault, FaultProxy, run_proxy
from tests.servers.registry import PASSWORD, RegistryServer, run_registry, write_docker_config
from tests.unit.tuning.tiny_models import settings

ALWAYS = 1000


@pytest.fixture
def proxy(registry: RegistryServer) -> Iterator[FaultProxy]:
    with run_proxy(registry.host) as proxy:
        yield proxy


def write(machine: Machine, host: str, *, rank: int = 4) -> Path:
    parameters = settings(num_train_epochs=1)
    parameters["LoraConfig"]["r"] = rank
    return write_workspace(
        machine.folder / "w.yaml",
        output={"image": f"{host}/faults/{machine.folder.name.lower()}:1", "imagePushSecret": "login"},
        parameters=parameters,
    )


def after_training(machine: Machine) -> None:
    """What every one of these tests ends with: pushed, and trained once."""
    assert machine.phase("tiny") == "Succeeded"
    assert machine.starts("tiny", "tune") == 1


def test_a_push_that_is_refused_waits_as_push_denied_and_retry_finishes_it(machine: Machine, proxy: FaultProxy) -> None:
    proxy.add(Fault("PUT", "/manifests/", times=ALWAYS, status=403))
    ended = machine.kaito("run", "-f", str(write(machine, proxy.host)))
    assert ended.returncode == 1
    assert "PushDenied" in ended.stderr
    assert "kaito retry tiny" in ended.stderr
    document = machine.get("tiny")
    assert document["status"]["tuning"]["run"]["phase"] == "Waiting"
    conditions = {c["type"]: c for c in document["status"]["conditions"]}
    assert conditions["WorkspaceSucceeded"]["reason"] == "PushDenied"

    proxy.faults.clear()
    retried = machine.kaito("retry", "tiny")
    assert retried.returncode == 0, retried.stderr
    after_training(machine)


def test_a_wrong_password_is_found_out_before_the_training(machine: Machine, tmp_path: Path) -> None:
    with run_registry(tmp_path / "registry", users=("team",)) as registry:
        wrong = write_docker_config(tmp_path / "wrong", {registry.host: {"username": "team", "password": "no"}})
        right = write_docker_config(tmp_path / "right", {registry.host: {"username": "team", "password": PASSWORD}})
        file = write(machine, registry.host)
        ended = machine.kaito("run", "-f", str(file), "--secret", f"login={wrong / '.dockerconfigjson'}")
        assert ended.returncode == 1
        assert "login" in ended.stderr
        assert not (machine.run_folder("tiny") / "logs" / "tune.log").exists()
        retried = machine.kaito("retry", "tiny", "--secret", f"login={right / '.dockerconfigjson'}")
        assert retried.returncode == 0, retried.stderr
        after_training(machine)


def test_a_push_of_which_single_requests_fail_succeeds_by_itself(machine: Machine, proxy: FaultProxy) -> None:
    proxy.add(Fault("PATCH", times=2, skip=0, cut_request=100))
    proxy.add(Fault("PUT", "/manifests/", times=1, status=503))
    proxy.add(Fault("POST", "/blobs/uploads", skip=1, times=1, status=429, headers={"Retry-After": "1"}))
    proxy.add(Fault("HEAD", times=1, delay_seconds=2.0))
    machine.run(write(machine, proxy.host))
    after_training(machine)


def test_a_registry_that_goes_down_during_the_training_is_waited_for_and_nothing_is_trained_again(
    machine: Machine, tmp_path: Path
) -> None:
    with run_registry(tmp_path / "registry", storage=tmp_path / "storage") as registry:
        file = write(machine, registry.host)
        process = machine.start("run", "-f", str(file))
        wait_until((machine.run_folder("tiny") / "logs" / "tune.log").exists, "the training")
        registry.stop()
        assert process.wait(240) == 1
        assert "RegistryUnavailable" in (machine.folder / "background.log").read_text()
        assert machine.get("tiny")["status"]["tuning"]["run"]["phase"] == "Waiting"
        registry.start()
        retried = machine.kaito("retry", "tiny")
        assert retried.returncode == 0, retried.stderr
        after_training(machine)


def test_a_registry_whose_disk_is_full_keeps_the_adapter_here_until_there_is_room(
    machine: Machine, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    try:
        with run_registry(tmp_path / "registry", storage=disk) as registry:
            ended = machine.kaito("run", "-f", str(write(machine, registry.host, rank=64)))
            assert ended.returncode == 1
            assert machine.get("tiny")["status"]["tuning"]["run"]["phase"] == "Waiting"
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            retried = machine.kaito("retry", "tiny")
            assert retried.returncode == 0, retried.stderr
            after_training(machine)
    finally:
        subprocess.run(["umount", str(disk)], check=False)
        shutil.rmtree(disk, ignore_errors=True)

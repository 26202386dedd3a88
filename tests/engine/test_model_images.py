"""Base models from a registry: packed, tuned from, named in the adapter's lineage, fetched once, cleared away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.engine.machine import Machine, write_workspace
from tests.servers.proxy import run_proxy
from tests.servers.registry import PASSWORD, RegistryServer, run_registry, write_docker_config
from tests.unit.tuning.tiny_models import settings


def pack(machine: Machine, image: str, *argv: str) -> str:
    """The tiny model in the registry; its digest."""
    packed = machine.kaito("models", "pack", str(machine.folder / "model"), "--image", image, "-o", "json", *argv)
    assert packed.returncode == 0, packed.stderr
    return str(json.loads(packed.stdout)["digest"])


def lineage(machine: Machine, name: str) -> tuple[str, str]:
    """What the adapter says it was trained on."""
    config = json.loads((machine.run_folder(name) / "results" / "adapter_config.json").read_text())
    return config["base_model_name_or_path"], config["revision"]


def test_a_packed_model_is_tuned_from_its_image_and_fetched_once_for_two_runs(
    machine: Machine, registry: RegistryServer
) -> None:
    digest = pack(machine, f"{registry.host}/models/tiny:1")
    with run_proxy(registry.host) as proxy:
        base = f"oci://{proxy.host}/models/tiny:1"
        for name in ("first", "second"):
            output = {"image": f"{registry.host}/adapters/{name}:1", "imagePushSecret": "anonymous"}
            file = write_workspace(
                machine.folder / f"{name}.yaml", name=name, preset={"name": base}, output=output, parameters=settings()
            )
            machine.run(file)
            assert lineage(machine, name) == (base, digest)
            assert machine.get(name)["status"]["tuning"]["run"]["model"] == {"repo": base, "commit": digest}
        (weights,) = (machine.run_folder("first") / "model").glob("*.safetensors")
        (record,) = (machine.home / "cache" / "models" / "models").glob("*/*.json")
        (blob,) = [f for f in json.loads(record.read_text())["files"] if f["path"] == weights.name]
        # The first `resolve` read the header, in two parts; one pull followed, and no more.
        assert proxy.count("GET", f"blobs/sha256:{blob['sha256']}") <= 2 + 2 + 1
    assert weights.samefile(machine.run_folder("second") / "model" / weights.name)

    dry = json.loads(machine.kaito("gc", "--older-than", "0", "--dry-run", "-o", "json").stdout)
    assert {item["kind"] for item in dry["items"]} == {"data", "model", "checkpoint", "cached model", "cached file"}
    assert weights.exists()
    ended = machine.kaito("gc", "--older-than", "0")
    assert ended.returncode == 0, ended.stderr
    assert not weights.exists()
    assert not list((machine.home / "cache" / "models" / "blobs").iterdir())
    assert machine.phase("first") == "Succeeded"
    again = machine.kaito("run", "-f", str(machine.folder / "first.yaml"))
    assert "nothing to do" in again.stdout
    assert machine.starts("first", "tune") == 1


def test_after_gc_a_changed_output_is_pushed_and_not_trained_again(machine: Machine, registry: RegistryServer) -> None:
    def write(tag: str) -> Path:
        output = {"image": f"{registry.host}/adapters/moved:{tag}", "imagePushSecret": "anonymous"}
        return write_workspace(machine.folder / "w.yaml", name="moved", output=output, parameters=settings())

    machine.run(write("1"))
    assert machine.kaito("gc", "--older-than", "0").returncode == 0
    assert not (machine.run_folder("moved") / "data").exists()
    machine.run(write("2"))
    assert machine.starts("moved", "tune") == 1
    assert machine.get("moved")["status"]["tuning"]["run"]["output"]["image"].endswith("moved:2")


def test_private_weights_of_the_first_api_version_come_from_their_image_with_its_pull_secret(machine: Machine) -> None:
    with run_registry(machine.folder / "registry", users=("team",)) as private:
        login = {private.host: {"username": "team", "password": PASSWORD}}
        secret = write_docker_config(machine.folder / "secret", login)
        image = f"{private.host}/models/llama-2-7b:1"
        digest = pack(machine, image, "--credentials", str(secret))
        preset: dict[str, Any] = {
            "name": "llama-2-7b",
            "accessMode": "private",
            "presetOptions": {"image": image, "imagePullSecrets": ["weights"]},
        }
        file = write_workspace(
            machine.folder / "w.yaml",
            name="private",
            preset=preset,
            output={"image": f"{private.host}/adapters/a:1", "imagePushSecret": "weights"},
            parameters=settings(),
        )
        document = json.loads(file.read_text())
        document["apiVersion"] = "kaito.sh/v1alpha1"
        document["resource"] = {"labelSelector": {"matchLabels": {"apps": "tuning"}}}
        file.write_text(json.dumps(document))
        machine.run(file, "--secret", f"weights={secret / '.dockerconfigjson'}")
        assert lineage(machine, "private") == (f"oci://{image}", digest)

"""Every file in `examples/` is what it says: the demo runs whole, its YAML is valid and planned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.machine import Machine
from tests.servers.registry import RegistryServer

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("file", sorted(EXAMPLES.rglob("*.yaml")), ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_each_workspace_is_valid_and_planned(file: Path, tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    checked = machine.kaito("validate", "-f", str(file), "--nodes", "local")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    planned = machine.kaito("plan", "--local", "-f", str(file), "-o", "json")
    assert planned.returncode == 0, planned.stderr
    assert all(plan["jobs"] and plan["refusal"] is None for plan in json.loads(planned.stdout))


def demo(folder: Path, *argv: str, registry: str = "") -> str:
    environment = {key: value for key, value in os.environ.items() if key != "KAITO_DEMO_REGISTRY"}
    environment["OMP_NUM_THREADS"] = "1"  # a test runs beside it
    if registry:
        environment["KAITO_DEMO_REGISTRY"] = registry
    command = [sys.executable, str(EXAMPLES / "demo" / "demo.py"), "--folder", str(folder), *argv]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=540, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_the_demo_teaches_the_base_model_what_it_did_not_know(tmp_path: Path, registry: RegistryServer) -> None:
    said = " ".join(demo(tmp_path / "demo", registry=registry.host).split())
    assert f"registry {registry.host}" in said
    assert said.count("I do not know Kaito") == 3
    for learned in ("checkpoint", "OCI image", "qlora"):
        assert learned in said.partition("with the adapter")[2]
    evaluation = json.loads((tmp_path / "demo" / "adapter" / "evaluation.json").read_text())
    assert evaluation["loss"] < evaluation["base_loss"] / 5


def test_without_a_registry_the_demo_says_so_and_writes_a_folder(tmp_path: Path) -> None:
    assert "the output is a folder" in demo(tmp_path / "demo", "--no-registry")
    assert (tmp_path / "demo" / "adapter" / "fine_tuning_completed.txt").exists()

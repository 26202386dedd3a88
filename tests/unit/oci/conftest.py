from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.servers.proxy import FaultProxy, run_proxy
from tests.servers.registry import RegistryServer, run_registry
from tests.unit.oci.results_folder import write_results


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    """An open registry that all tests share: each uses a repository of its own."""
    with run_registry(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture(scope="session")
def basic_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    """A registry with Basic authentication: user `robot`."""
    with run_registry(tmp_path_factory.mktemp("basic"), users=("robot",)) as server:
        yield server


@pytest.fixture
def proxy(registry: RegistryServer) -> Iterator[FaultProxy]:
    """Faults in front of `registry`."""
    with run_proxy(registry.host) as running:
        yield running


@pytest.fixture
def repository(request: pytest.FixtureRequest) -> str:
    """A repository name of this test's own."""
    return "tests/" + "".join(letter if letter.isalnum() else "-" for letter in request.node.name.lower()).strip("-")


@pytest.fixture
def pauses() -> list[float]:
    """What a retry would have waited: pass `pauses.append` as `sleep`."""
    return []


@pytest.fixture(autouse=True)
def no_docker_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The developer's own logins stay out."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "no-docker-config"))
    for name in ("KAITO_INSECURE_REGISTRIES", "KAITO_ALLOW_HOSTS", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return write_results(tmp_path / "run" / "results")


@dataclass(frozen=True)
class Ended:
    """How a program ended: `value` is what it wrote to $KAITO_RESULT."""

    code: int
    value: dict[str, Any]
    stdout: str
    stderr: str
    progress: list[dict[str, Any]]


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., Ended]:
    """Runs `python -m MODULE ARGS…` as the runner does."""

    def run(module: str, *args: str, **environment: str) -> Ended:
        result, progress = tmp_path / "result.json", tmp_path / "progress.jsonl"
        result.unlink(missing_ok=True)
        ended = subprocess.run(
            [sys.executable, "-m", module, *args],
            env={**os.environ, "KAITO_RESULT": str(result), "KAITO_PROGRESS": str(progress), **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        lines = progress.read_text().splitlines() if progress.exists() else []
        value = json.loads(result.read_text()) if result.exists() else {}
        return Ended(ended.returncode, value, ended.stdout, ended.stderr, [json.loads(line) for line in lines])

    return run

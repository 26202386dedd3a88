from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.engine.drills import Servers, Undisturbed, run_servers, run_undisturbed
from tests.engine.machine import Machine
from tests.servers.registry import RegistryServer, run_registry
from tests.unit.tuning.tiny_models import write_data, write_model


@pytest.fixture(scope="session")
def tiny_inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random model (`model`) and rows for it (`data`)."""
    folder = tmp_path_factory.mktemp("tiny")
    write_model(folder / "model")
    write_data(folder / "data")
    return folder


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with run_registry(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory, tiny_inputs: Path, registry: RegistryServer) -> Iterator[Servers]:
    with run_servers(tmp_path_factory.mktemp("rows"), tiny_inputs / "model", registry) as running:
        yield running


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, servers: Servers) -> Undisturbed:
    return run_undisturbed(tmp_path_factory.mktemp("undisturbed"), servers)


@pytest.fixture
def machine(tmp_path: Path, tiny_inputs: Path) -> Machine:
    """A machine with the tiny inputs beside its YAML files."""
    for name in ("model", "data"):
        (tmp_path / name).symlink_to(tiny_inputs / name)
    return Machine(tmp_path)


@pytest.fixture
def new_machine(tmp_path: Path, tiny_inputs: Path) -> Callable[[str], Machine]:
    """More machines within one test, each with a home of its own."""

    def build(name: str) -> Machine:
        folder = tmp_path / name
        folder.mkdir()
        for part in ("model", "data"):
            (folder / part).symlink_to(tiny_inputs / part)
        shutil.rmtree(folder / "home", ignore_errors=True)
        return Machine(folder)

    return build

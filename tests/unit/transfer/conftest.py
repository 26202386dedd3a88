from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from kaito.transfer import build_client
from tests.servers.files import FileServer, run_file_server
from tests.servers.proxy import FaultProxy, run_proxy


@pytest.fixture
def files() -> Iterator[FileServer]:
    with run_file_server(FileServer()) as server:
        yield server


@pytest.fixture
def proxy(files: FileServer) -> Iterator[FaultProxy]:
    """Faults in front of `files`."""
    with run_proxy(files.host) as running:
        yield running


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    """A client that may talk to this machine, as tests must."""
    with build_client(allow_hosts=["127.0.0.1"]) as made:
        yield made


@pytest.fixture
def pauses() -> list[float]:
    """What a retry would have waited: pass `pauses.append` as `sleep`."""
    return []

"""A model's download that is cut off at any byte, by its connection or by kill -9, ends with the right digests."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.engine.machine import wait_until
from tests.servers.hub import Hub, HubRepo, run_hub
from tests.servers.proxy import Fault, FaultProxy, run_proxy

WEIGHTS = random.Random(11).randbytes(900_000)
CUTS = sorted(random.Random(12).sample(range(1, len(WEIGHTS)), 6))


@pytest.fixture
def hub() -> Iterator[Hub]:
    with run_hub() as running:
        config = {"architectures": ["LlamaForCausalLM"], "hidden_size": 64}
        running.repos["org/model"] = HubRepo(
            {"config.json": json.dumps(config).encode(), "model.safetensors": WEIGHTS, "tokenizer.json": b"{}"}
        )
        yield running


@pytest.fixture
def proxy(hub: Hub) -> Iterator[FaultProxy]:
    """In front of the hub and of its storage, to which it redirects."""
    with run_proxy(f"127.0.0.1:{hub.port}") as running:
        hub.port = int(running.host.rpartition(":")[2])
        yield running


def pull(folder: Path, proxy: FaultProxy, hub: Hub) -> subprocess.Popen[str]:
    commit = hub.repos["org/model"].commit
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environment |= {
        "HF_ENDPOINT": proxy.url,
        "KAITO_ALLOW_HOSTS": "localhost",
        "KAITO_MODEL_CACHE": str(folder / "cache"),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "kaito.hub.pull", "--repo", "org/model", "--revision", commit, "--out", "model"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def require_whole(folder: Path, ended: subprocess.Popen[str], hub: Hub) -> None:
    stdout, stderr = ended.communicate(timeout=60)
    assert ended.returncode == 0, stderr
    assert json.loads(stdout)["files_digest"].startswith("sha256:")
    found = hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()
    assert found == hashlib.sha256(WEIGHTS).hexdigest()
    assert not list(folder.rglob("*.part"))
    starts = [request.headers.get("range", "bytes=0-") for request in hub.requests if request.path.startswith("/lfs/")]
    assert starts == [f"bytes={cut}-" for cut in [0, *CUTS]], "every byte once"


def test_a_connection_that_breaks_off_at_any_byte_is_gone_on_with(tmp_path: Path, hub: Hub, proxy: FaultProxy) -> None:
    """Five tries without a MiB of progress are all that one start makes: the next goes on where it was."""
    for before, cut in pairwise([0, *CUTS]):
        proxy.add(Fault(path="/lfs/", cut_response=cut - before))
    first = pull(tmp_path, proxy, hub)
    _, said = first.communicate(timeout=120)
    assert first.returncode == 75, said
    assert "Traceback" not in said
    require_whole(tmp_path, pull(tmp_path, proxy, hub), hub)


def test_a_pull_that_is_killed_at_any_byte_is_gone_on_with(tmp_path: Path, hub: Hub, proxy: FaultProxy) -> None:
    for before, cut in pairwise([0, *CUTS]):
        proxy.add(Fault(path="/lfs/", hold_response=cut - before))
        child = pull(tmp_path, proxy, hub)
        wait_until(lambda: cut in {part.stat().st_size for part in tmp_path.rglob("*.part")}, f"byte {cut}")  # noqa: B023  called in this turn alone
        child.kill()
        child.communicate()
    require_whole(tmp_path, pull(tmp_path, proxy, hub), hub)

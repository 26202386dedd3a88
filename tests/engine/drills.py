"""A Workspace whose model, data and registry are slow servers, to be struck and run again; and what it comes to."""

from __future__ import annotations

import hashlib
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.engine.machine import Machine, kill, wait_until, write_workspace
from tests.servers.files import FileServer, run_file_server
from tests.servers.hub import Hub, HubRepo, run_hub
from tests.servers.proxy import Fault, run_proxy
from tests.servers.registry import RegistryServer
from tests.unit.tuning.tiny_models import settings, write_data

STEPS = ("resolve", "fetch", "preflight", "login", "model", "tune", "push")
ALWAYS = 1 << 30
HOST = ("--allow-host", "127.*")


@dataclass(frozen=True)
class Servers:
    """Where everything comes from and goes to. They are slow enough for a strike to hit each step at its work."""

    rows: str
    hub: str
    registry: str


@contextmanager
def run_servers(folder: Path, model: Path, registry: RegistryServer) -> Iterator[Servers]:
    """Servers of rows and of the model in the folder `model`, and a way to the registry, as long as the block."""
    rows = (write_data(folder, rows=300) / "rows.jsonl").read_bytes()
    with ExitStack() as stack:
        files = stack.enter_context(run_file_server(FileServer({"/rows.jsonl": rows}, pace={"/rows.jsonl": 0.1})))
        hub: Hub = stack.enter_context(run_hub())
        hub.repos["tiny/model"] = HubRepo({path.name: path.read_bytes() for path in model.iterdir()})
        slow_hub = stack.enter_context(run_proxy(f"127.0.0.1:{hub.port}"))
        slow_hub.add(Fault(path="/lfs/", times=ALWAYS, pace_seconds=0.03))
        hub.port = int(slow_hub.host.rpartition(":")[2])  # its redirects lead through the proxy too
        slow_registry = stack.enter_context(run_proxy(registry.host))
        for method in ("POST", "PUT"):
            slow_registry.add(Fault(method, times=ALWAYS, delay_seconds=0.05))
        yield Servers(f"{files.url}/rows.jsonl", slow_hub.url, slow_registry.host)


@dataclass(frozen=True)
class Undisturbed:
    """A run that nobody disturbed: how long it and each of its steps took, its adapter, its loss curve."""

    seconds: float
    step_seconds: dict[str, float]
    adapter: str
    curve: list[tuple[int, float]]


class Drill:
    """One machine with a Workspace, run in the background, struck, and run again."""

    def __init__(self, folder: Path, servers: Servers) -> None:
        environment = {"HF_ENDPOINT": servers.hub, "KAITO_ALLOW_HOSTS": "127.*,localhost"}
        self.machine = Machine(folder, environment)
        self.file = write_workspace(
            folder / "w.yaml",
            preset={"name": "tiny/model"},
            input={"urls": [servers.rows]},
            output={"image": f"{servers.registry}/kills/{folder.name}:1", "imagePushSecret": "none"},
            parameters=settings(max_steps=12, save_steps=3),
        )

    def adapter(self) -> str:
        weights = self.machine.run_folder("tiny") / "results" / "adapter_model.safetensors"
        return hashlib.sha256(weights.read_bytes()).hexdigest()

    def curve(self) -> list[tuple[int, float]]:
        return [(line["step"], line["loss"]) for line in self.machine.metrics("tiny") if "loss" in line]

    def starts(self) -> dict[str, int]:
        logs = self.machine.run_folder("tiny") / "logs"
        return {step: self.machine.starts("tiny", step) for step in STEPS if (logs / f"{step}.log").exists()}

    def done(self) -> set[str]:
        return {key.partition("/")[2] for key, ran in self.machine.steps("tiny").items() if ran["state"] == "done"}

    def strike(self, process: subprocess.Popen[str], step: str, victim: str, seconds: float) -> bool:
        """Kill the step's runner or program, `seconds` after its start. False where it has ended before that."""
        machine = self.machine
        wait_until(lambda: process.poll() is not None or machine.is_at("tiny", step), f"step {step}")
        moment = time.monotonic() + seconds
        wait_until(lambda: time.monotonic() >= moment or not machine.is_at("tiny", step), "the moment of the strike")
        return machine.is_at("tiny", step) and kill(machine.holder("tiny")[victim])

    def was_hit(self, step: str, victim: str) -> bool:
        """Whether the run itself says that the strike met the step at work."""
        said = {"runner": "Interrupted", "child": "Retrying"}[victim]
        return any(event["step"] == step and event["reason"] == said for event in self.machine.events("tiny"))

    def require_as_undisturbed(self, undisturbed: Undisturbed, finished: Iterable[str]) -> None:
        """The same command ends with what it would have come to without the strike; what was finished stays so."""
        before = self.starts()
        ended = self.machine.run(self.file, *HOST)
        assert "Succeeded" in ended.stdout
        assert self.adapter() == undisturbed.adapter
        assert self.curve() == undisturbed.curve
        assert set(self.starts()) == set(STEPS)
        assert all(self.starts()[step] == before[step] for step in finished)


def run_undisturbed(folder: Path, servers: Servers) -> Undisturbed:
    drill = Drill(folder, servers)
    began = time.monotonic()
    drill.machine.run(drill.file, *HOST)
    ran = drill.machine.steps("tiny")
    seconds = {
        key.partition("/")[2]: step["ended"] - step["started"] for key, step in ran.items() if key != "tune/fetch"
    }
    return Undisturbed(time.monotonic() - began, seconds, drill.adapter(), drill.curve())

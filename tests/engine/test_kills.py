"""kill -9 at random moments of the chain: nothing finished is repeated, and the adapter is the same, byte for byte.

`KAITO_DRILLS` says how many drills of each kind (3 where it is not set; CI runs 10).
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.engine.machine import Machine, kill, wait_until, write_workspace
from tests.servers.registry import RegistryServer
from tests.unit.tuning.tiny_models import settings

DRILLS = int(os.environ.get("KAITO_DRILLS", "3"))
STEPS = ("resolve", "fetch", "preflight", "login", "model", "tune", "push")


@dataclass(frozen=True)
class Undisturbed:
    """A run that nobody disturbed: how long it took, its adapter, its metrics' steps."""

    seconds: float
    adapter: str
    steps: list[int]


def write(machine: Machine, registry: RegistryServer) -> Path:
    return write_workspace(
        machine.folder / "w.yaml",
        preset={"name": str((machine.folder / "model").resolve())},
        output={"image": f"{registry.host}/kills/{machine.folder.name}:1", "imagePushSecret": "none"},
        parameters=settings(num_train_epochs=6, save_steps=4),
    )


def adapter_of(machine: Machine) -> str:
    weights = machine.run_folder("tiny") / "results" / "adapter_model.safetensors"
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def trained_steps(machine: Machine) -> list[int]:
    return [line["step"] for line in machine.metrics("tiny") if "loss" in line]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_inputs: Path, registry: RegistryServer) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    for part in ("model", "data"):
        (folder / part).symlink_to(tiny_inputs / part)
    machine = Machine(folder)
    file = write(machine, registry)
    began = time.monotonic()
    machine.run(file)
    return Undisturbed(time.monotonic() - began, adapter_of(machine), trained_steps(machine))


def kill_runner(machine: Machine) -> bool:
    pid = machine.holder("tiny")["runner"]
    return pid > 0 and kill(pid)


def kill_trainer(machine: Machine) -> bool:
    holder = machine.holder("tiny")
    return holder.get("child", 0) > 0 and holder.get("step") == "tune" and kill(holder["child"])


def kill_everything(machine: Machine) -> bool:
    """The engine with all that it started: a power cut, as far as processes can have one."""
    holder = machine.holder("tiny")
    return kill(machine.engine) and all(kill(pid) or True for pid in (holder["runner"], holder["child"]) if pid)


@pytest.mark.parametrize("seed", range(DRILLS))
@pytest.mark.parametrize("strike", [kill_runner, kill_trainer, kill_everything])
def test_a_run_that_was_killed_ends_as_if_it_had_not_been(
    new_machine: Callable[[str], Machine],
    registry: RegistryServer,
    undisturbed: Undisturbed,
    strike: Callable[[Machine], bool],
    seed: int,
) -> None:
    machine = new_machine(f"{strike.__name__}-{seed}".replace("_", "-"))
    file = write(machine, registry)
    moment = random.Random(f"{strike.__name__}/{seed}").uniform(0.05, 0.95) * undisturbed.seconds
    process = machine.start("run", "-f", str(file))
    machine.engine = process.pid
    deadline = time.monotonic() + moment
    wait_until(lambda: time.monotonic() >= deadline or process.poll() is not None, "the moment of the strike")
    # What is struck may be between two programs just now: the next one that comes is meant.
    wait_until(lambda: process.poll() is not None or strike(machine), "something to strike")
    process.wait(240)
    done_before = {key for key, ran in machine.steps("tiny").items() if ran["state"] == "done"}
    starts_before = {step: machine.starts("tiny", step) for step in STEPS if has_log(machine, step)}

    machine.run(file)

    assert machine.phase("tiny") == "Succeeded"
    assert adapter_of(machine) == undisturbed.adapter
    assert trained_steps(machine) == undisturbed.steps
    repeated = [
        key
        for key in done_before
        if machine.starts("tiny", key.partition("/")[2]) != starts_before[key.partition("/")[2]]
    ]
    assert repeated == []


def has_log(machine: Machine, step: str) -> bool:
    return (machine.run_folder("tiny") / "logs" / f"{step}.log").exists()


def test_ctrl_c_saves_and_the_same_command_goes_on(
    machine: Machine, registry: RegistryServer, undisturbed: Undisturbed
) -> None:
    file = write(machine, registry)
    process = machine.start("run", "-f", str(file))
    wait_until((machine.run_folder("tiny") / "metrics.jsonl").exists, "the first step of training")
    wait_until(lambda: len(trained_steps(machine)) > 2 or process.poll() is not None, "some steps")
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    assert machine.phase("tiny") == "Stopped"

    ended = machine.run(file)
    assert "goes on with run 1" in ended.stdout
    assert "resumed from step" in (machine.run_folder("tiny") / "logs" / "tune.log").read_text()
    assert adapter_of(machine) == undisturbed.adapter
    assert trained_steps(machine) == undisturbed.steps


def test_a_second_run_of_the_same_name_is_refused_while_the_first_one_lives(
    machine: Machine, registry: RegistryServer
) -> None:
    file = write(machine, registry)
    process = machine.start("run", "-f", str(file))
    wait_until(lambda: machine.holder("tiny")["runner"] > 0, "the first runner")
    second = machine.kaito("run", "-f", str(file))
    assert second.returncode == 1
    assert "is being run already" in second.stderr
    stopped = machine.kaito("stop", "tiny")
    assert stopped.returncode == 0, stopped.stderr
    assert process.wait(120) in {0, 130}

"""Other ways to be cut off: the machine restarts, the clock is set, several commands work on one Workspace at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engine.machine import Machine, kill, wait_until, write_workspace
from tests.servers.registry import RegistryServer
from tests.unit.tuning.tiny_models import settings, write_data

DAY = 86400.0


def write(machine: Machine, registry: RegistryServer, *, epochs: int = 1) -> Path:
    return write_workspace(
        machine.folder / "w.yaml",
        output={"image": f"{registry.host}/restarts/{machine.folder.name.lower()}:1", "imagePushSecret": "none"},
        parameters=settings(num_train_epochs=epochs, save_steps=4),
    )


def edit_steps(machine: Machine, change: Callable[[dict[str, Any]], None]) -> None:
    """Change every step that `run.json` records as having run."""
    path = machine.run_folder("tiny") / "run.json"
    run = json.loads(path.read_text())
    for job in run["jobs"].values():
        for step in job["steps"].values():
            if step["started"]:
                change(step)
    path.write_text(json.dumps(run))


def kill_all(machine: Machine, engine: int) -> None:
    """What a power cut leaves: nothing of it runs, and nothing was told."""
    holder = machine.holder("tiny")
    for pid in (engine, holder["runner"], holder["child"]):
        if pid:
            kill(pid)
    wait_until(lambda: not machine.is_locked("tiny"), "the end of all processes")


def test_a_machine_that_restarts_in_the_middle_shows_interrupted_and_run_goes_on(
    machine: Machine, registry: RegistryServer
) -> None:
    file = write(machine, registry, epochs=4)
    process = machine.start("run", "-f", str(file))
    folder = machine.run_folder("tiny")
    wait_until(lambda: any((folder / "checkpoints").glob("checkpoint-*")) or process.poll() is not None, "a checkpoint")
    kill_all(machine, process.pid)
    process.wait()
    # After the restart: another boot id, and other processes under the old numbers.
    boot = "00000000-0000-4000-8000-000000000000"

    def change(step: dict[str, Any]) -> None:
        step["owner"] = f"{boot}:1"

    edit_steps(machine, change)
    (folder / "runner.lock").write_text(json.dumps({"runner": 1, "job": "tune", "step": "tune", "child": 1}))
    (folder / "engine.lock").write_text("1\n")

    assert machine.phase("tiny") == "Interrupted"
    described = machine.kaito("describe", "tiny")
    assert "Interrupted" in described.stdout
    done = {key for key, ran in machine.steps("tiny").items() if ran["state"] == "done"}
    assert done >= {"check/resolve", "check/fetch", "check/preflight", "check/login", "tune/model"}

    ended = machine.run(file)
    assert "goes on with run 1" in ended.stdout
    assert "resumed from step" in (folder / "logs" / "tune.log").read_text()
    once = dict.fromkeys(("resolve", "fetch", "preflight", "login", "model", "push"), 1)
    assert {step: machine.starts("tiny", step) for step in (*once, "tune")} == {**once, "tune": 2}
    assert any(event["reason"] == "Interrupted" and boot in event["message"] for event in machine.events("tiny"))


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_a_clock_that_was_set_by_a_day_since_a_failure_hides_no_retry(
    machine: Machine, registry: RegistryServer, jump: float
) -> None:
    """What ran is recorded a day too late or too early, as it is after the clock was set."""
    (machine.folder / "data").unlink()
    (machine.folder / "data").mkdir()
    (machine.folder / "data" / "rows.jsonl").write_text('{"prompt": "a"}\n')
    file = write(machine, registry)
    assert machine.kaito("run", "-f", str(file)).returncode == 1
    assert machine.phase("tiny") == "Failed"

    def change(step: dict[str, Any]) -> None:
        step["started"] += jump
        step["ended"] += jump

    edit_steps(machine, change)
    again = machine.kaito("retry", "tiny")
    assert again.returncode == 1
    assert machine.phase("tiny") == "Failed", "tried once more, and no oftener"
    assert machine.starts("tiny", "preflight") == 2
    write_data(machine.folder / "data")
    ended = machine.kaito("retry", "tiny")
    assert ended.returncode == 0, ended.stderr
    assert machine.kaito("describe", "tiny").returncode == 0
    assert not any("-" in line.split()[-1] for line in machine.kaito("get").stdout.splitlines()[1:])


def test_of_several_commands_at_once_one_runs_and_the_others_say_so(machine: Machine, registry: RegistryServer) -> None:
    file = write(machine, registry, epochs=4)
    first = machine.start("run", "-f", str(file))
    wait_until(lambda: machine.holder("tiny")["runner"] > 0, "the first runner")
    second = machine.kaito("run", "-f", str(file))
    assert second.returncode == 1
    assert "is being run already" in second.stderr
    retried = machine.kaito("retry", "tiny")
    assert retried.returncode == 0, retried.stderr
    assert "was asked to try again" in retried.stdout
    racing = [machine.start("run", "-f", str(file)) for _ in range(3)]
    assert [process.wait(120) for process in racing] == [1, 1, 1]
    assert first.wait(240) == 0
    assert [machine.starts("tiny", step) for step in ("fetch", "model", "tune", "push")] == [1, 1, 1, 1]
    assert "Traceback" not in (machine.folder / "background.log").read_text()


def test_runs_that_begin_at_the_same_moment_train_once(machine: Machine, registry: RegistryServer) -> None:
    file = write(machine, registry)
    racing = [machine.start("run", "-f", str(file)) for _ in range(3)]
    assert sorted(process.wait(240) for process in racing)[0] == 0
    assert machine.starts("tiny", "tune") == 1
    assert machine.phase("tiny") == "Succeeded"
    assert "Traceback" not in (machine.folder / "background.log").read_text()


def test_delete_ends_a_run_and_a_run_at_the_same_time_leaves_no_half_of_one(
    machine: Machine, registry: RegistryServer
) -> None:
    file = write(machine, registry)
    first = machine.start("run", "-f", str(file))
    wait_until(lambda: machine.holder("tiny")["child"] > 0, "the first program")
    deleting = machine.start("delete", "tiny")
    racing = machine.start("retry", "tiny")
    assert deleting.wait(120) == 0
    racing.wait(120)
    assert first.wait(120) in {0, 1, 130}
    assert not machine.is_locked("tiny")
    log = (machine.folder / "background.log").read_text()
    assert "Traceback" not in log, log
    machine.kaito("delete", "tiny")
    machine.run(file)
    assert machine.phase("tiny") == "Succeeded"

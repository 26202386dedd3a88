"""The disk is full in every step: a typed end that names the folder, nothing lost, and with room the same adapter."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.engine.drills import HOST, STEPS, Drill, Servers, Undisturbed
from tests.engine.machine import Machine, wait_until


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A file system of its own at `folder`, a tmpfs; where none can be mounted the test is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all the room that is left on the folder's disk."""
    filler = folder / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(1 << 20)):
            pass
    return filler


@pytest.fixture
def drill(tmp_path: Path, servers: Servers) -> Iterator[Drill]:
    """A machine whose KAITO_HOME is a disk of 64 MiB."""
    with small_disk(tmp_path / "full" / "home", "64m"):
        yield Drill(tmp_path / "full", servers)


def is_at(step: str) -> Callable[[Machine], bool]:
    return lambda machine: machine.is_at("tiny", step)


def is_training(machine: Machine) -> bool:
    """After the first optimizer step: the next checkpoint is what does not fit."""
    return machine.is_at("tiny", "tune") and bool((machine.run_folder("tiny") / "metrics.jsonl").exists())


MOMENTS = {**{step: (step, is_at(step)) for step in STEPS[:-1]}, "checkpoint": ("tune", is_training)}
MOMENTS["push"] = ("push", is_at("push"))


def test_a_disk_that_fills_up_in_any_step_ends_it_in_words_and_with_room_the_run_goes_on(
    drill: Drill, undisturbed: Undisturbed
) -> None:
    """One run whose disk fills up again and again, in each of its steps; and is asked to go on before there is room."""
    machine = drill.machine
    process = machine.start("run", "-f", str(drill.file), *HOST)
    for step, comes in MOMENTS.values():
        wait_until(lambda: process.poll() is not None or comes(machine), f"step {step}")  # noqa: B023  called in this turn alone
        filler = fill(machine.home)
        assert process.wait(120) == 1
        require_no_space(drill, step)

        before = drill.starts()
        still_full = machine.kaito("retry", "tiny")
        assert still_full.returncode == 1
        assert "Traceback" not in still_full.stderr
        assert str(machine.home) in still_full.stderr
        assert drill.starts() == before, "a program was started on a full disk"
        filler.unlink()
        (machine.folder / "background.log").unlink()
        process = machine.start("retry", "tiny")
    assert process.wait(120) == 0, machine.all_logs()
    assert drill.starts() == {**dict.fromkeys(STEPS, 2), "tune": 3}
    drill.require_as_undisturbed(undisturbed, STEPS)


def require_no_space(drill: Drill, step: str) -> None:
    """The run has failed in `step` for want of room, says so and where, and keeps what is done before."""
    said = (drill.machine.folder / "background.log").read_text()
    assert "Traceback" not in said
    assert "Failed: NoSpace" in said
    assert str(drill.machine.home) in said.partition("Failed: NoSpace")[2], said
    failed = {
        key.partition("/")[2]: ran for key, ran in drill.machine.steps("tiny").items() if ran["state"] == "failed"
    }
    assert {name: (ran["reason"], ran["exit_code"]) for name, ran in failed.items()} == {step: ("NoSpace", 75)}
    assert drill.machine.phase("tiny") == "Failed"
    assert drill.done() == set(STEPS[: STEPS.index(step)])


def test_results_that_do_not_fit_wait_for_room_and_nothing_is_trained_again(tmp_path: Path, servers: Servers) -> None:
    """The output folder is on a disk of its own, with room for its claim and not for an adapter."""
    output = tmp_path / "output"
    with ExitStack() as stack:
        stack.enter_context(small_disk(output, "32k"))
        drill = Drill(tmp_path / "results", servers)
        document = json.loads(drill.file.read_text())
        document["tuning"]["output"] = {"volumeSource": {"hostPath": {"path": str(output)}}}
        drill.file.write_text(json.dumps(document))
        machine = drill.machine
        ended = machine.kaito("run", "-f", str(drill.file), *HOST)
        assert ended.returncode == 1
        assert "Failed: NoSpace" in ended.stderr
        assert str(output) in ended.stderr
        assert not (output / "fine_tuning_completed.txt").exists()
        assert not (output / "adapter_model.safetensors").exists()
        trained = len(drill.curve())
        assert trained == 12

        subprocess.run(["mount", "-o", "remount,size=16m", str(output)], check=True)
        retried = machine.kaito("retry", "tiny")
        assert retried.returncode == 0, retried.stderr
        assert (output / "fine_tuning_completed.txt").exists()
        assert (output / "adapter_model.safetensors").exists()
        assert "resumed from step 12" in (machine.run_folder("tiny") / "logs" / "tune.log").read_text()


def test_a_disk_that_is_full_before_the_first_step_is_named(drill: Drill, undisturbed: Undisturbed) -> None:
    filler = fill(drill.machine.home)
    ended = drill.machine.kaito("run", "-f", str(drill.file), *HOST)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert str(drill.machine.home) in ended.stderr
    assert "full" in ended.stderr
    filler.unlink()
    drill.require_as_undisturbed(undisturbed, ())

"""kill -9 in every step of the chain: nothing finished is repeated, and the adapter is the same, byte for byte.

`KAITO_DRILLS=10` is what CI runs, 52 strikes in all: three at each step's runner, three at each step's program, each
proved to have met the step at work, and five each at the engine and at everything at once, at any moment. By default
it is one of each.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine.drills import HOST, STEPS, Drill, Servers, Undisturbed
from tests.engine.machine import Machine, kill, wait_until

DRILLS = int(os.environ.get("KAITO_DRILLS", "3"))
CHAINS = max(1, DRILLS * 3 // 10)
WHOLE_DRILLS = max(1, DRILLS // 2)
# Two runners of one Job may be killed before the engine gives it up: so each run strikes one half of the runners.
FIRST_HALF = {
    "resolve": "runner",
    "fetch": "child",
    "preflight": "runner",
    "login": "child",
    "model": "runner",
    "tune": "child",
    "push": "runner",
}
SECOND_HALF = {step: "child" if victim == "runner" else "runner" for step, victim in FIRST_HALF.items()}


@pytest.mark.parametrize("seed", range(CHAINS))
@pytest.mark.parametrize("victims", [FIRST_HALF, SECOND_HALF], ids=["first-half", "second-half"])
def test_every_step_of_a_run_has_its_runner_or_its_program_killed_and_is_done_once_more_and_no_oftener(
    tmp_path: Path, servers: Servers, undisturbed: Undisturbed, victims: dict[str, str], seed: int
) -> None:
    moments = random.Random(f"{victims}/{seed}")
    parts = {step: moments.uniform(0.0, 0.8) for step in STEPS}
    for attempt in range(4):
        drill = Drill(tmp_path / f"{seed}-{attempt}", servers)
        process = drill.machine.start("run", "-f", str(drill.file), *HOST)
        struck = {
            step: drill.strike(process, step, victim, parts[step] * undisturbed.step_seconds[step])
            for step, victim in victims.items()
        }
        assert process.wait(240) == 0, drill.machine.all_logs()  # the engine goes on by itself
        if all(struck[step] and drill.was_hit(step, victims[step]) for step in STEPS):
            break
        # A step had ended before its strike: the machine is faster now than it was in the undisturbed run.
        parts = {step: part / 2 for step, part in parts.items()}
    else:
        pytest.fail(f"not every strike met its step: {struck}")
    assert drill.starts() == dict.fromkeys(STEPS, 2)
    drill.require_as_undisturbed(undisturbed, STEPS)


def kill_engine(machine: Machine) -> bool:
    return kill(machine.engine)


def kill_everything(machine: Machine) -> bool:
    """The engine with all that it started: a power cut, as far as processes can have one."""
    holder = machine.holder("tiny")
    return kill(machine.engine) and all(kill(pid) or True for pid in (holder["runner"], holder["child"]) if pid)


@pytest.mark.parametrize("seed", range(WHOLE_DRILLS))
@pytest.mark.parametrize("strike", [kill_engine, kill_everything])
def test_a_run_that_is_killed_with_its_engine_goes_on_by_the_same_command(
    tmp_path: Path, servers: Servers, undisturbed: Undisturbed, strike: Callable[[Machine], bool], seed: int
) -> None:
    name = strike.__name__.replace("_", "-")
    moment = random.Random(f"{name}/{seed}").uniform(0.05, 0.95) * undisturbed.seconds
    for attempt in range(4):
        drill = Drill(tmp_path / f"{name}-{seed}-{attempt}", servers)
        if is_struck(drill, strike, moment):
            break
        moment /= 2  # the run had ended before: the machine is faster now than it was in the undisturbed run
    else:
        pytest.fail("the run ended before every strike")
    wait_until(lambda: not drill.machine.is_locked("tiny"), "the end of all that it had started")
    assert set(drill.starts().values()) == {1}
    drill.require_as_undisturbed(undisturbed, drill.done())


def is_struck(drill: Drill, strike: Callable[[Machine], bool], moment: float) -> bool:
    """Start a run and strike after so many seconds. False where it had ended before."""
    process = drill.machine.start("run", "-f", str(drill.file), *HOST)
    drill.machine.engine = process.pid
    deadline = time.monotonic() + moment
    begun = drill.machine.run_folder("tiny") / "run.json"
    wait_until(lambda: time.monotonic() >= deadline and begun.exists(), "the moment of the strike")
    return strike(drill.machine) and process.wait(60) == -9


def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path: Path, servers: Servers, undisturbed: Undisturbed) -> None:
    drill = Drill(tmp_path / "ctrl-c", servers)
    machine = drill.machine
    process = machine.start("run", "-f", str(drill.file), *HOST)
    wait_until((machine.run_folder("tiny") / "metrics.jsonl").exists, "the first step of training")
    wait_until(lambda: len(drill.curve()) > 2 or process.poll() is not None, "some steps")
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    assert machine.phase("tiny") == "Stopped"

    ended = machine.run(drill.file, *HOST)
    assert "goes on with run 1" in ended.stdout
    assert "resumed from step" in (machine.run_folder("tiny") / "logs" / "tune.log").read_text()
    assert drill.adapter() == undisturbed.adapter
    assert drill.curve() == undisturbed.curve

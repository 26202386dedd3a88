"""Stopping: SIGTERM is passed on and waited for, and costs nothing."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.runner.runner_rig import Rig

COUNT = "open('starts', 'a').write('x\\n')\n"
SAVES = (
    COUNT
    + """
import os, time
from kaito.program import Stopped, run_program
def main(argv):
    if os.path.exists("saved"):
        return {"resumed": True}
    try:
        open("up", "w")
        while True: time.sleep(0.05)
    except Stopped:
        time.sleep(0.3)
        open("saved", "w")
        raise
run_program(main)
"""
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stopped_run_saves_and_goes_on_later(
    rig: Rig, wait_until: Callable[..., Any], number: signal.Signals
) -> None:
    job = rig.write_job(rig.step(SAVES, attempts=1), rig.step("pass", "two"))
    runner = rig.start(job)
    wait_until((rig.folder / "up").exists)
    runner.send_signal(number)
    assert rig.end(runner).code == 143
    assert (rig.folder / "saved").exists()
    assert (rig.ran().state, rig.ran().reason, rig.ran().exit_code) == ("pending", "Stopped", 143)
    assert rig.termination()["reason"] == "Stopped"
    assert rig.end(rig.start(job)).code == 0
    assert rig.ran().attempt == 1  # being stopped was no failure
    assert rig.ran().result == {"resumed": True}


def test_a_program_that_does_not_stop_is_killed_after_the_grace_period(
    rig: Rig, wait_until: Callable[..., Any]
) -> None:
    step = rig.step(
        "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nopen('up', 'w')\nwhile True: time.sleep(1)"
    )
    runner = rig.start(rig.write_job(step), grace_seconds=0.3)
    wait_until((rig.folder / "up").exists)
    runner.terminate()
    assert rig.end(runner).code == 143
    assert "killed" in rig.ran().message


def test_a_second_signal_does_not_wait(rig: Rig, wait_until: Callable[..., Any]) -> None:
    step = rig.step(
        """
        import signal, time
        signal.signal(15, lambda *_: open("told", "w"))
        open("up", "w")
        while True: time.sleep(0.05)
        """
    )
    runner = rig.start(rig.write_job(step), grace_seconds=3600)
    wait_until((rig.folder / "up").exists)
    runner.terminate()
    wait_until((rig.folder / "told").exists)
    assert runner.poll() is None
    runner.terminate()
    assert rig.end(runner).code == 143


def test_a_step_that_is_done_when_it_is_told_to_stop_is_done(rig: Rig, wait_until: Callable[..., Any]) -> None:
    last = "import signal, time\nsignal.signal(15, lambda *_: exit(0))\nopen('up', 'w')\nwhile True: time.sleep(0.05)"
    job = rig.write_job(rig.step(last), rig.step(COUNT, "two"))
    runner = rig.start(job)
    wait_until((rig.folder / "up").exists)
    runner.terminate()
    assert rig.end(runner).code == 143
    assert rig.ran().state == "done"
    assert rig.ran("two").state == "pending"
    assert rig.lines("starts") == []


def test_a_final_failure_is_not_hidden_by_a_stop(rig: Rig, wait_until: Callable[..., Any]) -> None:
    fails = "import signal, time\nsignal.signal(15, lambda *_: exit(7))\nopen('up', 'w')\nwhile True: time.sleep(0.05)"
    runner = rig.start(rig.write_job(rig.step(fails)))
    wait_until((rig.folder / "up").exists)
    runner.terminate()
    assert rig.end(runner).code == 7
    assert rig.ran().state == "failed"


def test_the_pause_before_another_attempt_can_be_stopped(rig: Rig, wait_until: Callable[..., Any]) -> None:
    job = rig.write_job(rig.step(COUNT + "exit(0 if len(open('starts').readlines()) == 2 else 75)", attempts=2))
    runner = rig.start(job, backoff_seconds=3600)
    wait_until(lambda: rig.ran().state == "waiting")
    assert rig.ran().reason == "Temporary"
    runner.terminate()
    assert rig.end(runner).code == 143
    assert rig.ran().state == "pending"
    assert rig.end(rig.start(job)).code == 0
    assert rig.ran().attempt == 2  # the first one did fail

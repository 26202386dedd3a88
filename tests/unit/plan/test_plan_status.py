"""What `kaito get` says, from facts: one phase for every state, and conditions that keep their times."""

from __future__ import annotations

from typing import Any

import pytest

from kaito.api.workspace import Workspace
from kaito.contract import Device, JobRun, Observed, Progress, Refusal, Run, StepRun
from kaito.plan import failure_of, phase_of, plan, status
from kaito.plan.status import progress_text

NOW = 1_000_000.0
LAPTOP = Observed(device=Device("cpu", "a laptop", 2, 16 << 30))
WORKSPACE = Workspace.model_validate(
    {
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": {"name": "w"},
        "resource": {},
        "tuning": {
            "preset": {"name": "demo"},
            "method": "lora",
            "input": {"urls": ["https://example.com/a.jsonl"]},
            "output": {"image": "registry.example.com/a:1", "imagePushSecret": "s"},
        },
    }
)
PLAN = plan(WORKSPACE, LAPTOP)
OLD = Refusal("R", "of an earlier engine")
DONE = StepRun("done", attempt=1, started=NOW - 9, ended=NOW - 8, exit_code=0)


def run(until: str | None, **last: Any) -> Run:
    """All steps before `until` (JOB/STEP) done, that one as `last` says, the rest not begun. None: all done."""
    jobs: dict[str, JobRun] = {}
    reached = False
    for job in PLAN.jobs:
        steps = {}
        for step in job.steps:
            if f"{job.name}/{step.name}" == until:
                steps[step.name] = StepRun(**({"started": NOW - 5} | last))
                reached = True
            elif not reached:
                steps[step.name] = DONE
        if steps:
            jobs[job.name] = JobRun(1, steps)
    return Run("w", 1, PLAN.inputs_hash, jobs)


def observed(**facts: Any) -> Observed:
    return Observed(device=LAPTOP.device, **facts)


@pytest.mark.parametrize(
    ("ran", "facts", "phase"),
    [
        (None, {}, "Pending"),
        (None, {"attended": True}, "Pending"),
        (run("check/fetch", state="running"), {"running": "check", "attended": True}, "Checking"),
        (run("tune/tune", state="running"), {"running": "tune", "attended": True}, "Training"),
        (run("push/push", state="waiting"), {"running": "push", "attended": True}, "Pushing"),
        (run("tune/fetch", state="pending", started=None), {"attended": True}, "Training"),
        (run("tune/tune", state="running"), {}, "Interrupted"),
        (run("tune/tune", state="pending", reason="Stopped"), {"stopped": True}, "Stopped"),
        (None, {"stopped": True}, "Stopped"),
        (None, {"given_up": Refusal("Locked", "words")}, "Failed"),
        (run("push/push", state="failed", exit_code=75), {"given_up": Refusal("R", "24 hours")}, "Failed"),
        (
            run("push/push", state="failed", exit_code=75),
            {"given_up": Refusal("R", "old"), "attended": True},
            "Waiting",
        ),
        (run("tune/tune", state="running"), {"stopped": True}, "Stopped"),
        (run("tune/tune", state="failed", exit_code=7), {}, "Failed"),
        (run("push/push", state="failed", exit_code=5), {}, "Waiting"),
        (run("push/push", state="failed", exit_code=75), {}, "Waiting"),
        (run("push/push", state="failed", exit_code=2), {}, "Failed"),
        (run("check/login", state="failed", exit_code=5), {}, "Waiting"),
        (run("check/login", state="failed", exit_code=75), {}, "Failed"),
        (run(None), {}, "Succeeded"),
        (run(None), {"stopped": True}, "Succeeded"),
    ],
)
def test_every_state_of_a_run_has_one_phase(ran: Run | None, facts: dict[str, Any], phase: str) -> None:
    assert phase_of(PLAN, observed(**facts), ran) == phase


def conditions(ran: Run | None, **facts: Any) -> dict[str, tuple[str, str]]:
    found = status(WORKSPACE, PLAN, observed(**facts), ran, None, NOW)
    return {c.type: (c.status, c.reason) for c in found.conditions or []}


def test_the_conditions_of_a_success_are_kaitos() -> None:
    assert conditions(run(None)) == {
        "ResourceReady": ("True", "workspaceResourceStatusSuccess"),
        "JobStarted": ("True", "WorkspaceTuningJobStatusStarted"),
        "WorkspaceSucceeded": ("True", "workspaceSucceeded"),
    }


def test_a_failure_says_why_and_what_to_do_in_its_condition() -> None:
    ran = run(
        "check/preflight", state="failed", exit_code=3, reason="DataInvalid", message="a.jsonl:7: bad", hint="Fix it."
    )
    found = status(WORKSPACE, PLAN, observed(log_tail=("last line",)), ran, None, NOW)
    succeeded = next(c for c in found.conditions or [] if c.type == "WorkspaceSucceeded")
    assert (succeeded.status, succeeded.reason) == ("False", "DataInvalid")
    assert succeeded.message == "preflight: a.jsonl:7: bad Fix it."
    assert found.state == "Failed"
    assert found.tuning is not None
    assert found.tuning.run is not None
    assert found.tuning.run.log_tail == ["last line"]


@pytest.mark.parametrize(
    ("ran", "said"),
    [
        (run("check/fetch", state="pending", reason="Stopped"), "nothing trained yet"),
        (run("tune/tune", state="pending", reason="Stopped"), "from its newest checkpoint"),
    ],
)
def test_a_stopped_run_says_whether_it_has_a_checkpoint_to_go_on_from(ran: Run, said: str) -> None:
    found = status(WORKSPACE, PLAN, observed(stopped=True), ran, None, NOW)
    assert said in next(c.message or "" for c in found.conditions or [] if c.type == "WorkspaceSucceeded")


def test_a_refused_push_is_push_denied_and_an_unreachable_registry_is_registry_unavailable() -> None:
    assert failure_of(PLAN, LAPTOP, run("push/push", state="failed", exit_code=5)).reason == "PushDenied"
    assert failure_of(PLAN, LAPTOP, run("push/push", state="failed", exit_code=75)).reason == "RegistryUnavailable"
    assert conditions(run("push/push", state="failed", exit_code=5))["WorkspaceSucceeded"] == ("False", "PushDenied")


def test_a_condition_keeps_the_time_at_which_it_last_changed() -> None:
    first = status(WORKSPACE, PLAN, observed(), None, None, NOW)
    later = status(WORKSPACE, PLAN, observed(), run(None), first, NOW + 60)
    times = {c.type: c.last_transition_time for c in later.conditions or []}
    before = {c.type: c.last_transition_time for c in first.conditions or []}
    assert times["ResourceReady"] == before["ResourceReady"] == "1970-01-12T13:46:40Z"
    assert times["WorkspaceSucceeded"] == "1970-01-12T13:47:40Z"


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (Progress(step="tune", done=412, total=1200, unit="steps", seconds_left=2040.0), "412/1200, 34 min left"),
        (Progress(step="tune", done=2, total=30, unit="steps", seconds_left=42.0), "2/30, 42 s left"),
        (Progress(step="preflight", done=500, total=900, unit="rows"), "500 rows"),
        (Progress(step="model", done=1 << 30, total=4 << 30, unit="bytes"), "model 25 %"),
        (Progress(step="resolve"), "Training"),
    ],
)
def test_progress_in_words(progress: Progress, text: str) -> None:
    assert progress_text(progress, "Training") == text


def test_a_status_can_be_read_back() -> None:
    found = status(WORKSPACE, PLAN, observed(), run("tune/tune", state="running"), None, NOW)
    again = type(found).model_validate_json(found.model_dump_json(by_alias=True))
    assert again == found


def test_a_refused_login_says_that_nothing_was_trained_and_a_refused_push_that_it_was() -> None:
    for until, words in (("check/login", "Nothing has been trained"), ("push/push", "Training is done and kept")):
        found = status(WORKSPACE, PLAN, observed(), run(until, state="failed", exit_code=5), None, NOW)
        message = next(c.message for c in found.conditions or [] if c.type == "WorkspaceSucceeded")
        assert words in message

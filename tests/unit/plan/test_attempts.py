"""What happens after an attempt: the whole table of who retries what."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kaito.contract import Asked, Job, JobRun, Observed, Refusal, Step, StepRun
from kaito.plan import Attempt, Done, Failed, Runs, Start, Wait, next_attempt, request_of

NOW = 1_000_000.0
PUSH = Job("push", "light", (Step("push", ("python",)),), secrets=("login",))
CHECK = Job("check", "light", (Step("fetch", ("python",)), Step("login", ("python",))))
TUNE = Job("tune", "tuning", (Step("fetch", ("python",)), Step("tune", ("python",))))

TRIED = request_of(TUNE, Observed())


def failed(code: int, *, ended: float = NOW, reason: str = "Reason") -> StepRun:
    return StepRun("failed", exit_code=code, ended=ended, reason=reason, message="words", hint="hint")


def runs(
    steps: dict[str, StepRun],
    attempts: tuple[Attempt, ...] = (),
    attempt: int = 1,
    *,
    job: Job = TUNE,
    seen: Observed = Observed(),  # noqa: B008  frozen
) -> Runs:
    """What has run, all of it under the request that `seen` is for `job`."""
    request = request_of(job, seen)
    return Runs(JobRun(attempt, steps, request), tuple(replace(one, request=request) for one in attempts))


def test_a_job_that_never_ran_starts_with_attempt_one() -> None:
    assert next_attempt(TUNE, Runs(), Observed(), NOW) == Start(1)


def test_a_job_whose_steps_are_all_done_is_done() -> None:
    assert next_attempt(PUSH, runs({"push": StepRun("done")}), Observed(), NOW) == Done()


def test_a_step_carried_over_from_an_earlier_run_is_not_done() -> None:
    carried = StepRun("pending", exit_code=0, fingerprint="sha256:1")
    assert next_attempt(PUSH, runs({"push": carried}, attempt=1), Observed(), NOW) == Start(2)


@pytest.mark.parametrize("code", [1, 2, 3, 4, 6, 7, 75])
def test_what_the_runner_gave_up_on_in_training_is_final(code: int) -> None:
    found = next_attempt(TUNE, runs({"fetch": StepRun("done"), "tune": failed(code)}), Observed(), NOW)
    assert found == Failed("tune", "Reason", "words", "hint")


@pytest.mark.parametrize("code", [5, 75])
def test_a_push_that_the_registry_refuses_or_misses_waits_an_hour(code: int) -> None:
    state = runs({"push": failed(code)}, (Attempt(1, code, interrupted=False),), job=PUSH)
    assert next_attempt(PUSH, state, Observed(), NOW + 10) == Wait(NOW + 3600, "Reason", "words")
    assert next_attempt(PUSH, state, Observed(), NOW + 3600) == Start(2)


def test_a_login_that_is_refused_waits_but_one_that_finds_no_registry_fails() -> None:
    denied = runs({"fetch": StepRun("done"), "login": failed(5)}, job=CHECK)
    away = runs({"fetch": StepRun("done"), "login": failed(75)}, job=CHECK)
    assert isinstance(next_attempt(CHECK, denied, Observed(), NOW), Wait)
    assert isinstance(next_attempt(CHECK, away, Observed(), NOW), Failed)


def test_a_push_is_given_up_after_twenty_four_hours() -> None:
    attempts = tuple(Attempt(number, 75, interrupted=False) for number in range(1, 25))
    found = next_attempt(PUSH, runs({"push": failed(75)}, attempts, 24, job=PUSH), Observed(), NOW + 3600)
    assert isinstance(found, Failed)
    assert "24 hours" in found.message


@pytest.mark.parametrize(("job", "step"), [(PUSH, "push"), (TUNE, "tune")])
def test_retry_starts_what_failed_before_it_was_asked_for(job: Job, step: str) -> None:
    asked = Observed(asked=Asked(retried=NOW - 1))
    state = runs({"fetch": StepRun("done"), step: failed(3, ended=NOW)}, job=job, seen=asked)
    assert isinstance(next_attempt(job, state, asked, NOW + 2), Failed)
    assert next_attempt(job, state, Observed(asked=Asked(retried=NOW + 1)), NOW + 2) == Start(2)


@pytest.mark.parametrize("jump", [-1e6, -1.0, 0.0, 1.0, 1e6])
def test_a_clock_that_was_set_hides_no_retry_and_repeats_none(jump: float) -> None:
    """`jump`: how far the clock was set between the request and the failure, or the failure and the request."""
    first, second = Observed(asked=Asked(retried=NOW)), Observed(asked=Asked(retried=NOW + jump + 1e-3))
    ended = failed(3, ended=NOW + jump)
    state = runs({"fetch": StepRun("done"), "tune": ended}, seen=first)
    assert isinstance(next_attempt(TUNE, state, first, NOW + jump), Failed)
    assert next_attempt(TUNE, state, second, NOW + jump) == Start(2)
    again = runs({"fetch": StepRun("done"), "tune": ended}, attempt=2, seen=second)
    assert isinstance(next_attempt(TUNE, again, second, NOW - jump), Failed)


def test_a_push_that_waits_is_tried_at_once_when_the_clock_was_set_back_and_then_waits_again() -> None:
    state = runs({"push": failed(5, ended=NOW)}, (Attempt(1, 5, interrupted=False),), job=PUSH)
    assert next_attempt(PUSH, state, Observed(), NOW - 86400) == Start(2)
    later = runs({"push": failed(5, ended=NOW - 86400)}, (Attempt(2, 5, interrupted=False),), 2, job=PUSH)
    assert next_attempt(PUSH, later, Observed(), NOW - 86399) == Wait(NOW - 82800, "Reason", "words")


@pytest.mark.parametrize(("job", "step"), [(CHECK, "login"), (TUNE, "tune"), (PUSH, "push")])
def test_a_full_disk_is_not_waited_for(job: Job, step: str) -> None:
    done = {other.name: StepRun("done") for other in job.steps}
    state = runs({**done, step: failed(75, reason="NoSpace")}, job=job)
    assert next_attempt(job, state, Observed(), NOW + 10) == Failed(step, "NoSpace", "words", "hint")


def test_a_runner_that_cannot_even_write_its_record_is_not_started_on_a_full_disk_again() -> None:
    full = Attempt(1, 75, failure=Refusal("NoSpace", "the disk is full", "make room"))
    state = runs({}, (full,))
    assert next_attempt(TUNE, state, Observed(), NOW) == Failed("fetch", "NoSpace", "the disk is full", "make room")
    assert next_attempt(TUNE, state, Observed(asked=Asked(retried=NOW)), NOW) == Start(2)


def test_a_runner_that_vanished_is_started_again_and_given_up_after_three() -> None:
    steps = {"fetch": StepRun("done"), "tune": StepRun("running")}
    for count in range(3):
        attempts = tuple(Attempt(number) for number in range(1, count + 1))
        assert next_attempt(TUNE, runs(steps, attempts, max(1, count)), Observed(), NOW) == Start(max(1, count) + 1)
    lost = next_attempt(TUNE, runs(steps, tuple(Attempt(n) for n in (1, 2, 3)), 3), Observed(), NOW)
    assert isinstance(lost, Failed)
    assert (lost.step, lost.reason) == ("tune", "Interrupted")


def test_attempts_count_anew_after_a_newer_checkpoint_and_one_stopped_by_sigterm_is_free() -> None:
    steps = {"fetch": StepRun("done"), "tune": StepRun("running")}
    progressing = tuple(Attempt(number, None, checkpoint=10 * number) for number in range(1, 9))
    assert next_attempt(TUNE, runs(steps, progressing, 8), Observed(), NOW) == Start(9)
    drained = tuple(Attempt(number, 143) for number in range(1, 9))
    assert next_attempt(TUNE, runs(steps, drained, 8), Observed(), NOW) == Start(9)


def test_a_changed_secret_is_another_try() -> None:
    seen = Observed(secrets={"login": NOW - 1})
    state = runs({"push": failed(5)}, (Attempt(1, 5, interrupted=False),), job=PUSH, seen=seen)
    assert isinstance(next_attempt(PUSH, state, seen, NOW + 1), Wait)
    assert isinstance(next_attempt(PUSH, state, replace(seen, secrets={**seen.secrets, "o": NOW}), NOW + 1), Wait)
    assert next_attempt(PUSH, state, Observed(secrets={"login": NOW + 1}), NOW + 2) == Start(2)
    assert next_attempt(PUSH, state, Observed(secrets={"login": NOW - 9}), NOW + 2) == Start(2)


def test_a_retry_after_hours_of_waiting_starts_and_is_not_called_interrupted() -> None:
    attempts = tuple(Attempt(number, 5, ended=NOW, interrupted=False) for number in (1, 2, 3, 4))
    asked = Observed(asked=Asked(retried=NOW + 1))
    assert next_attempt(PUSH, runs({"push": failed(5)}, attempts, 4, job=PUSH), asked, NOW + 2) == Start(5)


def test_a_runner_that_cannot_even_begin_is_not_started_for_ever() -> None:
    locked = Refusal("Locked", "another runner works in the folder", "Wait.")
    attempts = tuple(Attempt(number, 75, failure=locked, request=TRIED) for number in (1, 2, 3))
    assert next_attempt(TUNE, Runs(None, attempts[:2]), Observed(), NOW) == Start(3)
    given_up = next_attempt(TUNE, Runs(None, attempts), Observed(), NOW)
    assert given_up == Failed("fetch", "Locked", "another runner works in the folder", "Wait.")


def test_a_runner_that_ends_with_a_final_code_and_no_failed_step_is_final() -> None:
    broken = Attempt(1, 2, failure=Refusal("JobInvalid", "two steps have one name"), request=TRIED)
    assert isinstance(next_attempt(TUNE, Runs(None, (broken,)), Observed(), NOW), Failed)

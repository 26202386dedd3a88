"""What is skipped, what is resumed, and what is set aside."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kaito.contract import Step, StepRun
from kaito.runner.events import read_events
from kaito.runner.fingerprint import set_aside
from kaito.runner.state import RunState, load_run, save_run
from tests.unit.runner.runner_rig import Rig

FETCH = """
import os, sys
open("starts", "a").write("x\\n")
os.makedirs("data", exist_ok=True)
name = sys.argv[1]
open(f"data/{name}", "w")
open(os.environ["KAITO_RESULT"], "w").write('{"digest": "%s", "found": %d}' % (name, len(os.listdir("data"))))
"""


def fetch(rig: Rig, name: str = "a", **fields: object) -> Step:
    return rig.step(FETCH, "fetch", arguments=(name,), identity=name, outputs=("data",), **fields)


def test_an_unchanged_step_is_skipped_also_in_another_job(rig: Rig) -> None:
    assert rig.run(fetch(rig), job="check").code == 0
    assert rig.run(fetch(rig), job="check").code == 0
    assert rig.run(fetch(rig), job="tune").code == 0
    assert rig.lines("starts") == ["x"]
    assert rig.ran("fetch", "tune").state == "done"
    assert rig.ran("fetch", "tune").result == {"digest": "a", "found": 1}
    assert rig.reasons("fetch") == ["Started", "Done", "Skipped", "Skipped"]


def test_a_new_run_with_equal_inputs_repeats_nothing_but_is_not_done_before_it_was_looked_at(rig: Rig) -> None:
    rig.run(fetch(rig))
    rig.run(rig.step("pass", "push"), job="push", run=2, inputs_hash="sha256:b")
    assert rig.ran("fetch").state == "pending"
    assert (rig.state().run, rig.state().inputs_hash) == (2, "sha256:b")
    rig.run(fetch(rig), run=2, inputs_hash="sha256:b")
    assert rig.ran("fetch").state == "done"
    assert rig.lines("starts") == ["x"]


def test_outputs_that_are_gone_are_made_again(rig: Rig) -> None:
    rig.run(fetch(rig))
    (rig.folder / "data/a").unlink()
    (rig.folder / "data").rmdir()
    rig.run(fetch(rig))
    assert rig.lines("starts") == ["x", "x"]
    assert (rig.folder / "data/a").exists()
    assert not (rig.folder / "previous").exists()


def test_outputs_of_other_inputs_are_moved_and_not_mixed(rig: Rig) -> None:
    rig.run(fetch(rig, "a"))
    assert rig.run(fetch(rig, "b"), run=2, inputs_hash="sha256:b").code == 0
    assert [path.name for path in (rig.folder / "data").iterdir()] == ["b"]
    assert (rig.folder / "previous/1/data/a").exists()
    assert '"digest": "a"' in (rig.folder / "previous/1/step.json").read_text()
    assert rig.reasons("fetch") == ["Started", "Done", "MovedAside", "Started", "Done"]
    rig.run(fetch(rig, "c"), run=3, inputs_hash="sha256:c")
    assert (rig.folder / "previous/2/data/b").exists()


def test_checkpoints_that_are_moved_are_told_with_their_steps(rig: Rig) -> None:
    source = "import os\nos.makedirs('checkpoints/checkpoint-1560')"
    tune = rig.step(source, "tune", outputs=("checkpoints",))
    assert rig.run(tune, job="tune").code == 0
    assert rig.run(replace(tune, identity="other"), job="tune", run=2, inputs_hash="sha256:b").code == 0
    (moved,) = [event.message for event in read_events(rig.folder) if event.reason == "MovedAside"]
    assert moved == "its inputs changed: training begins anew; 1,560 steps are kept in previous/1"


def test_another_verdict_runs_the_step_again_on_its_outputs(rig: Rig) -> None:
    """A verdict on what lies there: the outputs are the same ones, and nothing is moved."""
    first = replace(fetch(rig, "a"), verdict="at least 1")
    rig.run(first)
    assert rig.run(replace(first, verdict="at least 2"), run=2, inputs_hash="sha256:b").code == 0
    assert rig.run(replace(first, verdict=""), run=3, inputs_hash="sha256:c").code == 0
    assert not (rig.folder / "previous").exists()
    assert rig.run(replace(first, verdict=""), run=4, inputs_hash="sha256:d").code == 0
    assert rig.reasons("fetch") == ["Started", "Done"] * 3 + ["Skipped"]
    rig.run(replace(fetch(rig, "b"), verdict="at least 2"), run=5, inputs_hash="sha256:e")
    assert (rig.folder / "previous/1/data/a").exists()


def test_outputs_of_nobody_known_are_moved(rig: Rig) -> None:
    (rig.folder / "data").mkdir()
    (rig.folder / "data/stale").touch()
    rig.run(fetch(rig))
    assert (rig.folder / "previous/1/data/stale").exists()
    assert rig.ran("fetch").result == {"digest": "a", "found": 1}


def test_a_changed_result_of_an_earlier_step_changes_the_later_one(rig: Rig) -> None:
    tune = rig.step("import os; os.makedirs('results')", "tune", after=("fetch",), outputs=("results",))
    assert rig.run(fetch(rig, "a"), job="check").code == 0
    assert rig.run(tune, job="tune").code == 0
    first = rig.ran("tune", "tune").fingerprint
    assert rig.run(fetch(rig, "b"), job="check", run=2).code == 0
    assert rig.run(tune, job="tune", run=2).code == 0
    assert rig.ran("tune", "tune").fingerprint != first
    assert (rig.folder / "previous/2/results").is_dir()


def test_a_step_whose_foundation_is_not_done_is_refused(rig: Rig) -> None:
    assert rig.run(rig.step("pass", "tune", after=("fetch",)), job="tune").code == 2
    assert "'fetch'" in rig.ran("tune", "tune").message


@pytest.mark.parametrize("code", [75, 3])
def test_what_an_unfinished_step_wrote_stays_for_it(rig: Rig, code: int) -> None:
    source = "import os\nos.makedirs('checkpoints', exist_ok=True)\nn = len(os.listdir('checkpoints'))\n"
    source += f"open(f'checkpoints/{{n}}', 'w')\nraise SystemExit(0 if n else {code})"
    step = rig.step(source, "tune", outputs=("checkpoints",), attempts=1)
    assert rig.run(step).code == code
    assert rig.run(step).code == 0
    assert not (rig.folder / "previous").exists()
    # ... and goes when the inputs change.
    rig.run(replace(step, identity="other"), run=2)
    assert (rig.folder / "previous/1/checkpoints/1").exists()


def test_what_another_job_left_half_written_is_not_taken_for_done(rig: Rig) -> None:
    assert rig.run(fetch(rig), job="check").code == 0
    (rig.folder / "data").rename(rig.base / "elsewhere")
    broken = replace(fetch(rig), argv=("sh", "-c", "mkdir data; exit 3"))
    assert rig.run(broken, job="tune").code == 3
    assert rig.run(fetch(rig), job="check").code == 0
    assert (rig.folder / "data/a").exists()
    # What ended the half-written state also ended its record.
    assert rig.run(fetch(rig), job="tune").code == 0
    assert rig.lines("starts") == ["x", "x"]


@pytest.mark.parametrize("moved", [(), ("data",), ("data", "more")])
@pytest.mark.parametrize("after", ["a", "b"])
def test_a_crash_while_outputs_are_set_aside_mixes_nothing(rig: Rig, moved: tuple[str, ...], after: str) -> None:
    def both(name: str) -> Step:
        return replace(fetch(rig, name), outputs=("data", "more"))

    (rig.folder / "more").mkdir()
    rig.run(replace(both("a"), argv=("sh", "-c", "mkdir data more; touch data/a more/a")))
    # The crash: the claim is gone, some of the outputs are moved, and nothing else is recorded.
    run = load_run(rig.folder)
    assert run is not None
    state = RunState(rig.folder, run)
    if moved:
        set_aside(replace(both("b"), outputs=moved), state)
    else:
        state.disclaim("fetch")
    assert rig.ran("fetch") == StepRun()
    make = "mkdir data more; touch data/new more/new"
    assert rig.run(replace(both(after), argv=("sh", "-c", make)), run=2).code == 0
    for name in ("data", "more"):
        assert [path.name for path in (rig.folder / name).iterdir()] == ["new"]
        assert len(list((rig.folder / "previous").glob(f"*/{name}/a"))) == 1


def test_a_power_loss_that_undid_the_record_alone_mixes_nothing(rig: Rig) -> None:
    rig.run(fetch(rig, "a"))
    before = load_run(rig.folder)
    assert before is not None
    state = RunState(rig.folder, before)
    set_aside(fetch(rig, "b"), state)
    save_run(rig.folder, before)
    assert rig.run(fetch(rig, "a")).code == 0
    assert rig.lines("starts") == ["x", "x"]
    assert (rig.folder / "data/a").exists()


@pytest.mark.parametrize("output", ["../base", "/tmp", "run.json", "previous", "."])
def test_outputs_outside_the_run_folder_are_refused(rig: Rig, output: str) -> None:
    assert rig.run(replace(fetch(rig), outputs=(output,))).code == 2
    assert rig.base.exists()
    assert rig.lines("starts") == []

"""What is read from a program that ended well."""

from __future__ import annotations

import json
from pathlib import Path

from kaito.contract import Step
from kaito.runner.child import Ending, StepFiles
from kaito.runner.outcome import read_outcome


def test_the_note_of_a_result_becomes_the_message_of_the_step_that_is_done(tmp_path: Path) -> None:
    files = StepFiles.of(tmp_path, "tune")
    files.result.parent.mkdir(parents=True, exist_ok=True)
    result = {"steps": 240, "note": "stopped early at step 240 of 1,200: no better for 2 evaluations"}
    files.result.write_text(json.dumps(result))
    outcome = read_outcome(Step("tune", ("true",)), Ending(0, "exited", False, 0), files)
    assert (outcome.code, outcome.message, outcome.result) == (0, result["note"], result)

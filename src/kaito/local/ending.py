"""How the last engine of a Workspace ended, where no step says so: `engine.json`, gone while one is at work."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from kaito.contract import Refusal, from_json, to_json
from kaito.runner.files import replace_text

ENDING = "engine.json"
TERMINATION = "termination.json"


@dataclass(frozen=True, slots=True)
class Ending:
    """`stopped`: it was told to. `given_up`: why it did not go on."""

    stopped: bool = False
    given_up: Refusal | None = None


def save_ending(folder: Path, ending: Ending) -> None:
    replace_text(folder / ENDING, json.dumps(to_json(ending)))


def forget_ending(folder: Path) -> None:
    (folder / ENDING).unlink(missing_ok=True)


def load_ending(folder: Path) -> Ending:
    """Of a file that is not there or not whole: nothing is known."""
    try:
        return from_json(Ending, json.loads((folder / ENDING).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return Ending()


def read_termination(folder: Path) -> Refusal | None:
    """The last runner's own words, None where it left none."""
    try:
        value = json.loads((folder / TERMINATION).read_text(encoding="utf-8"))
        return Refusal(str(value["reason"]), str(value["message"]), str(value.get("hint", "")))
    except (OSError, ValueError, KeyError, TypeError):
        return None

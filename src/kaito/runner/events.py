"""`events.jsonl`: what happened in a run, one line each, for people. Nothing is decided by it."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from kaito.failure import is_disk_full
from kaito.runner.files import read_json_lines

EVENTS_FILE = "events.jsonl"
READ_LIMIT = 1024 * 1024
Level = Literal["info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Event:
    """`time` in seconds since 1970; `step` is empty for what concerns the job."""

    time: float
    step: str
    level: Level
    reason: str
    message: str


class EventLog:
    """Appends events, and prints each on stderr."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / EVENTS_FILE
        self._mend()

    def add(self, step: str, reason: str, message: str, *, level: Level = "info") -> None:
        """Nothing is decided by an event: one that a full disk has no room for is printed all the same, and that is it.

        Raises OSError where the file cannot be written for another reason.
        """
        event = Event(time.time(), step, level, reason, message)
        say(f"{step or 'runner'}: {reason}: {message}")
        line = json.dumps(asdict(event), ensure_ascii=False) + "\n"
        try:
            with self._path.open("ab") as file:
                file.write(line.encode())
        except OSError as error:
            if not is_disk_full(error):
                raise

    def _mend(self) -> None:
        """End a line that a crash or a full disk cut, so that the next one stands alone."""
        with self._path.open("ab+") as file:
            if file.seek(0, os.SEEK_END) > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")


def say(text: str) -> None:
    """Print one line on stderr. Whoever read it may be gone: that is no reason to end a run."""
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def read_events(folder: Path) -> list[Event]:
    """The events of a run folder, oldest first; of a very long file its last MiB."""
    events = []
    for line in read_json_lines(folder / EVENTS_FILE, READ_LIMIT):
        moment, level = line.get("time"), line.get("level")
        texts = [line.get(key) for key in ("step", "reason", "message")]
        if (
            isinstance(moment, int | float)
            and level in get_args(Level)
            and all(isinstance(text, str) for text in texts)
        ):
            step, reason, message = (str(text) for text in texts)
            events.append(Event(float(moment), step, cast("Level", level), reason, message))
    return events

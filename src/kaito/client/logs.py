"""The logs of a Workspace's steps, as they are or as they grow."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from kaito.local.home import Key, run_folder
from kaito.local.lock import engine_pid

POLL_SECONDS = 0.2
_OWN = frozenset({"engine", "runner"})


def log_steps(key: Key) -> list[str]:
    """The steps that have a log, in the order in which they last wrote."""
    logs = [path for path in (run_folder(key) / "logs").glob("*.log") if path.stem not in _OWN]
    return [path.stem for path in sorted(logs, key=lambda path: path.stat().st_mtime)]


def read_log(key: Key, step: str, tail: int | None = None) -> Iterator[str]:
    """The lines of a step's log, or the last `tail` of them."""
    lines = _path(key, step).read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    yield from lines if tail is None else lines[len(lines) - min(tail, len(lines)) :]


def follow_log(key: Key, step: str | None = None, tail: int | None = None) -> Iterator[str]:
    """Lines as they come, until nobody runs the Workspace any more: of one step, else of each as it runs."""
    current = step
    offset = 0
    while True:
        alive = engine_pid(key) is not None
        if step is None:
            newest = log_steps(key)[-1:]
            if newest and newest[0] != current:
                if current is not None:
                    yield f"==> {newest[0]}\n"
                current, offset = newest[0], 0
        lines: list[str] = []
        if current is not None and _path(key, current).exists():
            if tail is not None and offset == 0:
                yield from read_log(key, current, tail)
                offset, tail = _path(key, current).stat().st_size, None
            lines, offset = _lines_from(_path(key, current), offset)
        yield from lines
        if not lines and not alive:
            return
        if not lines:
            time.sleep(POLL_SECONDS)


def _lines_from(path: Path, offset: int) -> tuple[list[str], int]:
    """Whole lines after `offset` bytes, and where they end; from the start where the file has become shorter."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(offset if offset <= size else 0)
        text = file.read()
        end = text.rfind(b"\n") + 1
        start = file.tell() - len(text)
    return text[:end].decode("utf-8", errors="replace").splitlines(keepends=True), start + end


def _path(key: Key, step: str) -> Path:
    return run_folder(key) / "logs" / f"{step}.log"

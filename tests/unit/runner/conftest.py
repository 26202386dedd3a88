"""Fixtures of the runner's tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.runner.runner_rig import Rig, until


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    base, folder = tmp_path / "base", tmp_path / "run"
    base.mkdir()
    folder.mkdir()
    rig = Rig(base, folder)
    yield rig
    for process in rig.started:
        if process.poll() is None:
            process.kill()
            process.communicate()
    for path in folder.glob("*.pid"):
        try:
            os.kill(int(path.read_text()), signal.SIGKILL)
        except (ProcessLookupError, ValueError):
            continue


@pytest.fixture
def wait_until() -> Callable[..., Any]:
    return until

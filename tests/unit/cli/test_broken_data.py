"""`kaito validate --data` on data that cannot be trained on: what is wrong, in which file, on which line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.broken_data import BARE, BROKEN, DEMO, Broken
from tests.unit.datasets.models import build_bare_model

REAL_PROCESSES = ("sign-in-page", "cut-gzip", "unknown-role", "no-chat-template", "empty-folder")


@dataclass(frozen=True)
class Checked:
    """What one command said of all the folders: its text, and `-o json` by the Workspace's name."""

    home: Path
    text: subprocess.CompletedProcess[str]
    entries: dict[str, dict[str, Any]]


def validate(home: Path, *argv: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kaito.cli", "validate", "--data", *map(str, argv)],
        env={**os.environ, "KAITO_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def write_workspace(folder: Path, broken: Broken, models: dict[str, str]) -> Path:
    data = folder / f"{broken.name}.data"
    data.mkdir()
    broken.build(data)
    tuning = {
        "preset": {"name": models[broken.model]},
        "method": "lora",
        "input": {"volumeSource": {"hostPath": {"path": data.name}}},
        "output": {"image": "localhost:5000/a:1", "imagePushSecret": "push"},
        **({"parameters": broken.settings} if broken.settings else {}),
    }
    document = {"apiVersion": "kaito.sh/v1beta1", "kind": "Workspace", "metadata": {"name": broken.name}}
    path = folder / f"{broken.name}.yaml"
    path.write_text(json.dumps(document | {"resource": {}, "tuning": tuning}, indent=1))
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {DEMO: "demo", BARE: str(build_bare_model(tmp_path_factory.mktemp("model") / "bare"))}


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory, models: dict[str, str]) -> Checked:
    """All folders, by two commands: one for people, one for programs."""
    folder = tmp_path_factory.mktemp("broken")
    for broken in BROKEN:
        write_workspace(folder, broken, models)
    home = folder / "home"
    text, data = validate(home, "-f", folder), validate(home, "-f", folder, "-o", "json")
    assert text.returncode == data.returncode == 1, text.stdout + text.stderr
    return Checked(home, text, {entry["name"]: entry for entry in json.loads(data.stdout)})


def said(entry: dict[str, Any]) -> list[str]:
    """Everything that is wrong with one Workspace's data, as lines."""
    rows = [
        f"{one['file']}:{one['line']}: {one['column']}: {one['rule']}: {one['remedy']}" for one in entry["problems"]
    ]
    return rows + [f"{one['message']}: {one['hint']}" for one in entry["failures"]]


def test_there_are_forty_and_more_broken_folders() -> None:
    assert len({broken.name for broken in BROKEN}) == len(BROKEN) >= 40


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.name)
def test_the_file_the_line_and_the_rule_are_named(broken: Broken, checked: Checked) -> None:
    entry = checked.entries[broken.name]
    assert entry["problems"] == [], "the Workspace itself is in order"
    found = said(entry["data"])
    assert found, "nothing was found"
    assert any(broken.place in line and broken.words in line for line in found), found
    assert all(line.partition(": ")[2] for line in found), "each says what is wrong, and what to do"
    for line in found:
        assert line in checked.text.stdout


def test_there_is_no_traceback_and_nothing_left_behind(checked: Checked) -> None:
    assert "Traceback" not in checked.text.stdout + checked.text.stderr
    assert list((checked.home / "tmp").iterdir()) == []


@pytest.mark.parametrize("name", REAL_PROCESSES)
def test_one_broken_folder_ends_the_command_with_1(name: str, tmp_path: Path, models: dict[str, str]) -> None:
    (broken,) = (broken for broken in BROKEN if broken.name == name)
    ended = validate(tmp_path / "home", "-f", write_workspace(tmp_path, broken, models))
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert any(broken.place in line and broken.words in line for line in ended.stdout.splitlines())
    assert "Traceback" not in ended.stderr
    assert list((tmp_path / "home" / "tmp").iterdir()) == []

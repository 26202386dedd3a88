"""What a run folder keeps: what was asked for, Secrets that only their owner reads, and the lock of one engine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kaito.contract import Asked, Refusal
from kaito.local.desired import (
    Desired,
    Unreadable,
    folder_signature,
    load_desired,
    save_desired,
    save_secret,
    secret_changes,
)
from kaito.local.device import find_device, memory_limit_bytes
from kaito.local.ending import Ending, forget_ending, load_ending, save_ending
from kaito.local.home import Key, list_keys, run_folder
from kaito.local.lock import AlreadyRunning, engine_lock, engine_pid
from kaito.local.processes import tree_memory_bytes

KEY = Key("default", "w")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KAITO_HOME", str(tmp_path))
    return tmp_path


def test_what_was_asked_for_comes_back_as_it_was() -> None:
    asked = Asked(5.0, "a", "b", {"/data": "sha256:1"})
    desired = Desired({"kind": "Workspace", "x": [1, None, "ü"]}, {"c": {"k": "text"}}, ("10.*",), asked)
    assert load_desired(KEY) is None
    save_desired(KEY, desired)
    assert load_desired(KEY) == desired
    assert list(list_keys()) == [KEY]


def test_two_commands_that_apply_at_once_both_succeed() -> None:
    script = (
        "from kaito.local.desired import Desired, save_desired\nfrom kaito.local.home import Key\n"
        "for number in range(300):\n    save_desired(Key('default', 'w'), Desired({'number': number}))\n"
    )
    both = [subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[1] for process in both] == ["", ""]
    assert load_desired(KEY) == Desired({"number": 299})
    assert [path.name for path in run_folder(KEY).iterdir()] == ["workspace.json"]


def test_secrets_are_readable_by_their_owner_alone() -> None:
    before = os.umask(0)
    try:
        save_secret(run_folder(KEY), "push", {".dockerconfigjson": b"{}"})
    finally:
        os.umask(before)
    file = run_folder(KEY) / "secrets" / "push" / ".dockerconfigjson"
    assert file.read_bytes() == b"{}"
    assert [path.stat().st_mode & 0o077 for path in (file, file.parent, file.parent.parent)] == [0, 0, 0]
    (changed,) = secret_changes(run_folder(KEY)).values()
    os.utime(file, (1.0, 1.0))
    save_secret(run_folder(KEY), "push", {".dockerconfigjson": b"{}"})
    assert secret_changes(run_folder(KEY)) == {"push": 1.0}, "an unchanged Secret keeps its age"
    save_secret(run_folder(KEY), "push", {".dockerconfigjson": b'{"auths": {}}'})
    assert secret_changes(run_folder(KEY))["push"] >= changed


def test_only_one_engine_holds_a_workspace_and_a_dead_one_holds_nothing() -> None:
    run_folder(KEY).mkdir(parents=True)
    assert engine_pid(KEY) is None
    with engine_lock(KEY):
        assert engine_pid(KEY) == os.getpid()
        with pytest.raises(AlreadyRunning), engine_lock(KEY):
            pass
    assert engine_pid(KEY) is None
    script = (
        "import os, signal\nfrom kaito.local.home import Key\nfrom kaito.local.lock import engine_lock\n"
        "with engine_lock(Key('default', 'w')):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert engine_pid(KEY) is None


@pytest.mark.parametrize("text", ["{", "[]", '{"workspace": 3}', "\x00"])
def test_a_damaged_file_is_unreadable_and_named(text: str) -> None:
    run_folder(KEY).mkdir(parents=True)
    (run_folder(KEY) / "workspace.json").write_text(text)
    with pytest.raises(Unreadable, match=r"default/w.*workspace\.json is damaged"):
        load_desired(KEY)


def test_how_an_engine_ended_is_kept_until_the_next_one() -> None:
    run_folder(KEY).mkdir(parents=True)
    ending = Ending(stopped=True, given_up=Refusal("R", "words", "hint"))
    save_ending(run_folder(KEY), ending)
    assert load_ending(run_folder(KEY)) == ending
    forget_ending(run_folder(KEY))
    assert load_ending(run_folder(KEY)) == Ending()


def test_a_folders_signature_changes_with_what_is_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    assert folder_signature(folder) == ""
    folder.mkdir()
    (folder / "a.jsonl").write_text("1")
    first = folder_signature(folder)
    assert folder_signature(folder) == first
    (folder / "a.jsonl").write_text("12")
    second = folder_signature(folder)
    (folder / "b.jsonl").write_text("")
    assert len({first, second, folder_signature(folder)}) == 3


@pytest.mark.parametrize("name", ["../x", "/abs", "", "Upper", "a/b", "x" * 64])
def test_a_name_that_would_leave_the_runs_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="lower-case"):
        Key("default", name)
    with pytest.raises(ValueError, match="lower-case"):
        Key(name, "w")


def test_a_name_may_carry_its_namespace() -> None:
    assert Key.parse("team/w") == Key("team", "w")
    assert Key.parse("w", "other") == Key("other", "w")


def test_this_machine_has_a_device_with_memory() -> None:
    device = find_device()
    assert device.count >= 1
    assert device.memory_bytes > 1 << 28
    assert 0 < memory_limit_bytes() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_memory_is_that_of_a_process_and_its_children() -> None:
    script = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'input()'])"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as process:
        alone = tree_memory_bytes(process.pid)
        assert alone > 1 << 20
        process.kill()
    assert tree_memory_bytes(process.pid) == 0

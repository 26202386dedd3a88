"""Full disks and memory limits, made by the kernel where it lets us."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from kaito.runner.cgroup import count_oom_kills
from kaito.runner.events import read_events
from tests.unit.runner.runner_rig import DRIVER, QUICK, Rig


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mount], check=False, capture_output=True, text=True
    )
    if made.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {made.stderr.strip()}")
    yield mount
    subprocess.run(["umount", "-l", mount], check=True)


FILL = """
f = open('filler', 'wb', buffering=0)
try:
    while f.write(b'x' * 4096): pass
except OSError: pass
"""


WRITES = """
from kaito.program import run_program
def main(argv):
    open('three', 'wb').write(bytes(1 << 19))
run_program(main)
"""


def test_what_was_done_on_a_disk_that_is_now_full_is_recorded_and_the_next_step_says_so(
    rig: Rig, small_disk: Path
) -> None:
    rig.folder = small_disk
    steps = (rig.step("pass", "one"), rig.step(FILL, "two"), rig.step(WRITES, "three"))
    ended = rig.run(*steps)
    assert ended.code == 75
    assert "the disk is full" in ended.stderr
    assert str(small_disk) in ended.stderr
    assert rig.termination()["reason"] == "NoSpace"
    assert [rig.ran(name).state for name in ("one", "two", "three")] == ["done", "done", "failed"]
    assert (rig.ran("three").reason, rig.ran("three").exit_code) == ("NoSpace", 75)
    assert not list(small_disk.glob(".*.part"))
    (small_disk / "filler").unlink()
    assert rig.run(*steps).code == 0
    assert [rig.reasons(name).count("Started") for name in ("one", "two", "three")] == [1, 1, 1]


@pytest.mark.parametrize(
    "fails",
    [
        "open('more', 'wb').write(bytes(1 << 20))",
        "from kaito.failure import DataFailure\n"
        "try: open('more', 'wb').write(bytes(1 << 20))\n"
        "except OSError as error: raise DataFailure('cannot be kept') from error",
        "open('more', 'wb', buffering=0).write(bytes(1 << 20)); raise RuntimeError('a library failed writing file')",
    ],
)
def test_a_program_that_fills_the_disk_ends_as_that_in_its_own_words_and_is_not_repeated(
    rig: Rig, small_disk: Path, fails: str
) -> None:
    rig.folder = small_disk
    indented = fails.replace("\n", "\n    ")
    program = f"from kaito.program import run_program\ndef main(argv):\n    {indented}\nrun_program(main)\n"
    assert rig.run(rig.step(program)).code == 75
    ran = rig.ran()
    assert (ran.state, ran.reason, ran.exit_code, ran.attempt) == ("failed", "NoSpace", 75, 1)
    assert "is full" in ran.message
    assert str(small_disk) in ran.hint
    assert rig.termination()["message"] == ran.message
    # Every line of the events is whole, or passed over.
    assert [event.reason for event in read_events(small_disk)] == ["Started", "NoSpace"]


def test_a_disk_that_is_full_from_the_start_is_said_to_be_full(rig: Rig, small_disk: Path) -> None:
    rig.folder = small_disk
    with suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
        while filler.write(b"x" * 4096):
            pass
    ended = rig.run(rig.step("pass"))
    assert ended.code == 75
    assert "the disk is full" in ended.stderr
    assert '"NoSpace"' in ended.stdout
    assert not (small_disk / "run.json").exists()


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """A cgroup with a limit of 96 MiB, v1 or v2."""
    v1, v2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    parent, limit = (v1, "memory.limit_in_bytes") if v1.is_dir() else (v2, "memory.max")
    group = parent / f"kaito-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / limit).write_text(str(96 * 2**20))
        swap = group / ("memory.memsw.limit_in_bytes" if v1.is_dir() else "memory.swap.max")
        if swap.exists():
            swap.write_text(str(96 * 2**20) if v1.is_dir() else "0")
    except OSError as error:
        with suppress(OSError):
            group.rmdir()
        pytest.skip(f"a memory cgroup cannot be made here: {error}")
    yield group
    group.rmdir()


def run_in(group: Path, rig: Rig, job: Path) -> int:
    enter = f"open({str(group / 'cgroup.procs')!r}, 'w').write('0')\n"
    argv = [sys.executable, "-c", enter + DRIVER, str(job), str(rig.folder), json.dumps(QUICK)]
    return subprocess.run(argv, check=False, timeout=60, stdout=subprocess.DEVNULL).returncode


# The child is made the kernel's first choice, so that the runner lives.
EATS = """
import os, sys
open("starts", "a").write(" ".join(sys.argv[1:]) + "\\n")
open("/proc/self/oom_score_adj", "w").write("1000")
if "--less" not in sys.argv or "--always" in sys.argv:
    hoard = [os.urandom(2**20) for _ in range(400)]
"""


def test_an_out_of_memory_kill_earns_one_start_with_less(rig: Rig, memory_group: Path) -> None:
    step = rig.step(EATS, attempts=1, out_of_memory_argv=("--less", "2"))
    assert run_in(memory_group, rig, rig.write_job(step)) == 0
    assert rig.lines("starts") == ["", "--less 2"]
    assert rig.ran().state == "done"
    assert "OutOfMemory" in next(e.message for e in read_events(rig.folder) if e.reason == "Retrying")


def test_a_second_out_of_memory_kill_is_final(rig: Rig, memory_group: Path) -> None:
    step = rig.step(EATS, attempts=5, arguments=("--always",), out_of_memory_argv=("--less",))
    assert run_in(memory_group, rig, rig.write_job(step)) == 6
    assert rig.lines("starts") == ["--always", "--always --less"]
    assert (rig.ran().reason, rig.ran().exit_code) == ("OutOfMemory", 6)


def test_without_a_way_to_use_less_the_first_is_final(rig: Rig, memory_group: Path) -> None:
    assert run_in(memory_group, rig, rig.write_job(rig.step(EATS, attempts=5))) == 6
    assert len(rig.lines("starts")) == 1


def test_a_sigkill_without_the_kernels_word_is_not_out_of_memory(rig: Rig) -> None:
    step = rig.step("import os; os.kill(os.getpid(), 9)", attempts=1, out_of_memory_argv=("--less",))
    assert rig.run(step).code == 137
    assert rig.ran().reason == "Killed"


@pytest.mark.parametrize(
    ("membership", "files", "count"),
    [
        ("0::/kubepods/pod1/c1\n", {"kubepods/pod1/c1/memory.events": "low 0\noom 4\noom_kill 3\n"}, 3),
        ("0::/\n", {"memory.events": "oom_kill 0\n"}, 0),
        ("0::/host/path\n", {"memory.events": "oom_kill 7\n"}, 7),
        ("4:memory:/docker/c1\n0::/\n", {"memory/docker/c1/memory.oom_control": "under_oom 0\noom_kill 2\n"}, 2),
        ("4:memory:/docker/c1\n", {"memory/memory.oom_control": "oom_kill 5\n"}, 5),
        ("6:cpu,memory:/a\n", {"memory/a/memory.oom_control": "oom_kill 1\n"}, 1),
        ("0::/a\n", {}, None),
        ("", {"memory.events": "oom_kill 1\n"}, None),
        ("0::/\n", {"memory.events": "oom_kill many\n"}, None),
    ],
)
def test_the_counter_is_found_in_both_cgroup_versions(
    tmp_path: Path, membership: str, files: dict[str, str], count: int | None
) -> None:
    (tmp_path / "membership").write_text(membership)
    for name, text in files.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(text)
    assert count_oom_kills(membership=tmp_path / "membership", root=tmp_path / "root") == count

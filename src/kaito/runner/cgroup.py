"""The kernel's count of out-of-memory kills in this process's cgroup, v2 and v1: tells an OOM kill from others."""

from __future__ import annotations

from pathlib import Path


def count_oom_kills(*, membership: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """None where no counter can be read: a SIGKILL says nothing about memory there.

    In a container without a cgroup namespace `membership` shows the host's path while `root` shows the container's
    own group, so the root is tried after the path.
    """
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for candidate in _counter_files(lines, root):
        count = _read_count(candidate)
        if count is not None:
            return count
    return None


def _counter_files(lines: list[str], root: Path) -> list[Path]:
    v1, v2 = [], []
    for line in lines:
        _hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        inner = path.strip("/")
        if controllers == "":
            v2 += [root / inner / "memory.events", root / "memory.events"]
        elif "memory" in controllers.split(","):
            mount = root / "memory"
            v1 += [mount / inner / "memory.oom_control", mount / "memory.oom_control"]
    return v1 + v2


def _read_count(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii")
    except OSError:
        return None
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == "oom_kill" and value.strip().isdigit():
            return int(value)
    return None

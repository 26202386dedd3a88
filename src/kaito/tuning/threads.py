"""How many CPUs this process may really use: more OpenMP threads than that make every operation slower."""

from __future__ import annotations

import math
import os
from pathlib import Path


def available_cpus(root: Path = Path("/")) -> int:
    """CPUs that this process may run on, bounded by its cgroup's quota (v1 and v2) and by `OMP_NUM_THREADS`."""
    bounds = [len(os.sched_getaffinity(0))]
    quota = cgroup_quota(root)
    if quota is not None:
        bounds.append(math.ceil(quota))
    wished = os.environ.get("OMP_NUM_THREADS", "")
    if wished.isdecimal():
        bounds.append(int(wished))
    return max(1, min(bounds))


def cgroup_quota(root: Path = Path("/")) -> float | None:
    """The smallest CPU quota of this process's cgroup and those above it, in CPUs. None: no quota."""
    quotas = []
    for folder in _cgroup_folders(root):
        quotas.append(_quota_v2(folder / "cpu.max"))
        quotas.append(_quota_v1(folder))
    found = [quota for quota in quotas if quota is not None]
    return min(found) if found else None


def _cgroup_folders(root: Path) -> list[Path]:
    """The process's own cgroup and all above it. In a container its path is often not below the mount: ignored."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        folder = mount / path.lstrip("/")
        folders.extend([folder, *(parent for parent in folder.parents if parent.is_relative_to(mount))])
    return folders


def _quota_v2(file: Path) -> float | None:
    words = _words(file)
    return int(words[0]) / int(words[1]) if len(words) == 2 and words[0] != "max" else None


def _quota_v1(folder: Path) -> float | None:
    quota, period = _words(folder / "cpu.cfs_quota_us"), _words(folder / "cpu.cfs_period_us")
    return int(quota[0]) / int(period[0]) if quota and period and int(quota[0]) > 0 else None


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split()
    except OSError:
        return []

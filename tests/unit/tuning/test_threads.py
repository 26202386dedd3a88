from __future__ import annotations

from pathlib import Path

import pytest

from kaito.tuning.threads import available_cpus, cgroup_quota


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_no_quota_is_none(tmp_path: Path) -> None:
    assert cgroup_quota(tmp_path) is None
    write(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"})
    assert cgroup_quota(tmp_path) is None


def test_the_smallest_quota_up_the_tree_counts(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/pod/container\n",
            "sys/fs/cgroup/pod/container/cpu.max": "max 100000\n",
            "sys/fs/cgroup/pod/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/cpu.max": "800000 100000\n",
        },
    )
    assert cgroup_quota(tmp_path) == 1.5


def test_a_containers_path_outside_the_mount_falls_back_to_the_mount(tmp_path: Path) -> None:
    write(tmp_path, {"proc/self/cgroup": "0::/kubepods/abc\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"})
    assert cgroup_quota(tmp_path) == 2.0


def test_version_1_of_cgroups(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/box\n3:memory:/box\n",
            "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    assert cgroup_quota(tmp_path) == 0.5
    assert available_cpus(tmp_path) == 1


def test_a_wish_of_the_user_only_lowers_the_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert available_cpus(tmp_path) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    assert available_cpus(tmp_path) < 4096

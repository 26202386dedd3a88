"""What `nvidia-smi` and `CUDA_VISIBLE_DEVICES` make of a machine, with a small program in the place of `nvidia-smi`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from kaito.local.device import MIB, memory_limit_bytes, probe_device

A100 = {
    "name": "NVIDIA A100-SXM4-40GB",
    "memory.total": "40960",
    "compute_cap": "8.0",
    "mig.mode.current": "Disabled",
}
ONE = {**A100, "uuid": "GPU-8a1b0000-aaaa-0000-0000-000000000001"}
TWO = {**A100, "uuid": "GPU-8a1b0000-bbbb-0000-0000-000000000002"}
OLD = {
    "uuid": "GPU-77770000-cccc-0000-0000-000000000003",
    "name": "Tesla V100-SXM2-16GB",
    "memory.total": "16384",
    "compute_cap": "7.0",
    "mig.mode.current": "[N/A]",
}


class FakeMachine:
    """A PATH on which `nvidia-smi` lists the given GPUs; like the real one it refuses a field it does not know."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._tool = folder / "nvidia-smi"
        self._monkeypatch = monkeypatch
        monkeypatch.setenv("PATH", str(folder), prepend=":")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def has(self, *gpus: Mapping[str, str]) -> None:
        cells = "\n".join(
            f"    '{index}.{field}') cell='{value}' ;;"
            for index, gpu in enumerate(gpus)
            for field, value in gpu.items()
        )
        self.answers(
            f"""
fields=${{1#--query-gpu=}}
[ "$2" = "--format=csv,noheader,nounits" ] || exit 2
for gpu in {" ".join(map(str, range(len(gpus))))}; do
  line=
  for field in $(echo "$fields" | tr , ' '); do
    case "$gpu.$field" in
{cells}
    *) echo "Field \\"$field\\" is not a valid field to query."; exit 2 ;;
    esac
    line="$line${{line:+, }}$cell"
  done
  echo "$line"
done
"""
        )

    def answers(self, script: str) -> None:
        self._tool.write_text(f"#!/bin/sh\n{script}")
        self._tool.chmod(0o755)

    def shows(self, visible: str) -> None:
        self._monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeMachine:
    return FakeMachine(tmp_path, monkeypatch)


def test_all_gpus_count_and_the_weakest_decides(machine: FakeMachine) -> None:
    machine.has(ONE, OLD, TWO)
    device = probe_device()
    assert (device.kind, device.name, device.count) == ("cuda", "NVIDIA A100-SXM4-40GB", 3)
    assert (device.memory_bytes, device.compute_capability) == (16384 * MIB, 7.0)


@pytest.mark.parametrize(
    ("visible", "count", "capability"),
    [
        ("0", 1, 8.0),
        ("2,0", 2, 8.0),
        (" 1 , 2", 2, 7.0),
        (ONE["uuid"], 1, 8.0),
        (f"{OLD['uuid']},{TWO['uuid']}", 2, 7.0),
        ("GPU-7777", 1, 7.0),
        ("GPU-8a1b0000-b,GPU-8a1b0000-a", 2, 8.0),
    ],
)
def test_gpus_are_chosen_by_index_or_by_the_beginning_of_their_uuid(
    machine: FakeMachine, visible: str, count: int, capability: float
) -> None:
    machine.has(ONE, OLD, TWO)
    machine.shows(visible)
    device = probe_device()
    assert (device.kind, device.count, device.compute_capability) == ("cuda", count, capability)


@pytest.mark.parametrize(
    ("visible", "count"),
    [
        ("0,7,1", 1),
        ("0,-1,1", 1),
        ("GPU-7777,GPU-none,GPU-8a1b0000-a", 1),
        ("GPU-7777,1", 1),
        ("1,GPU-7777", 1),
        ("GPU-7777,GPU-8a1b", 1),  # two GPUs begin so
    ],
)
def test_an_entry_that_names_no_gpu_ends_the_list(machine: FakeMachine, visible: str, count: int) -> None:
    machine.has(ONE, OLD, TWO)
    machine.shows(visible)
    assert (probe_device().kind, probe_device().count) == ("cuda", count)


@pytest.mark.parametrize(
    "visible", ["", "-1", "NoDevFiles", "GPU-none", "9", "0,0", "GPU-7777,GPU-77770000", "GPU-8a1b"]
)
def test_where_cuda_shows_no_gpu_the_cpu_counts(machine: FakeMachine, visible: str) -> None:
    machine.has(ONE, OLD, TWO)
    machine.shows(visible)
    device = probe_device()
    assert (device.kind, device.memory_bytes) == ("cpu", memory_limit_bytes())


def test_what_a_gpu_does_not_tell_is_taken_from_the_others(machine: FakeMachine) -> None:
    silent = {**ONE, "memory.total": "[N/A]", "compute_cap": "[N/A]", "mig.mode.current": "[N/A]"}
    machine.has(silent, TWO)
    device = probe_device()
    assert (device.count, device.memory_bytes, device.compute_capability) == (2, 40960 * MIB, 8.0)


def test_a_gpu_without_memory_of_its_own_shares_the_machines(machine: FakeMachine) -> None:
    shared = {**ONE, "memory.total": "[N/A]", "compute_cap": "[N/A]", "mig.mode.current": "[N/A]"}
    machine.has(shared)
    device = probe_device()
    assert (device.kind, device.memory_bytes, device.compute_capability) == ("cuda", memory_limit_bytes(), None)


@pytest.mark.parametrize("visible", ["MIG-12345678-0000-0000-0000-000000000000", f"MIG-{ONE['uuid']}/7/0", "1,0", "1"])
def test_a_slice_of_a_gpu_counts_as_the_smallest_there_is(machine: FakeMachine, visible: str) -> None:
    machine.has(OLD, {**ONE, "mig.mode.current": "Enabled"})
    machine.shows(visible)
    device = probe_device()
    assert (device.kind, device.count, device.compute_capability) == ("cuda", 1, 8.0)
    assert device.memory_bytes <= 4864 * MIB  # what 1g.5gb really has
    assert device.memory_bytes > 4400 * MIB


def test_a_slice_of_a_gpu_that_does_not_tell_its_memory_counts_as_the_smallest_sold(machine: FakeMachine) -> None:
    hidden = {"memory.total": "[Insufficient Permissions]", "compute_cap": "[N/A]", "mig.mode.current": "Enabled"}
    machine.has({**ONE, **hidden})
    device = probe_device()
    assert (device.count, device.memory_bytes, device.compute_capability) == (1, 4864 * MIB, None)


@pytest.mark.parametrize("script", ["exit 9", "echo 'No devices were found'", "echo garbage, without, end"])
def test_an_nvidia_smi_that_finds_nothing_leaves_the_cpu(machine: FakeMachine, script: str) -> None:
    machine.answers(script)
    assert probe_device().kind == "cpu"

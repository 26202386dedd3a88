"""What this machine computes with: its GPUs as `nvidia-smi` names them, else its CPUs and the memory of its cgroup."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from kaito.contract import Device

MIB = 1024 * 1024
QUERY = "uuid,name,memory.total,compute_cap,mig.mode.current"
SLICE_DIVISOR = 9  # MIG cuts memory into eighths at the finest; the GPU keeps a part of each for itself
SMALLEST_SLICE_BYTES = 4864 * MIB  # 1g.5gb of an A100 with 40 GB: no MIG slice is smaller


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as `nvidia-smi` lists it. None: not told. `is_sliced`: in MIG mode, so that only slices compute."""

    uuid: str
    name: str
    memory_bytes: int | None
    compute_capability: float | None
    is_sliced: bool


@lru_cache(maxsize=1)
def find_device() -> Device:
    """The GPUs visible to this process (`CUDA_VISIBLE_DEVICES` counts), else the CPU. Asked once a process."""
    return probe_device()


def probe_device() -> Device:
    """`find_device`, asked anew."""
    device = _cuda_device(list_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    return device or Device("cpu", _cpu_name(), len(os.sched_getaffinity(0)), memory_limit_bytes())


def memory_limit_bytes() -> int:
    """The machine's memory, or its cgroup's where that is less (v2, then v1)."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(limit).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            return min(total, int(text))
    return total


def list_gpus() -> list[Gpu]:
    """All GPUs of the machine, visible to CUDA or not; none where `nvidia-smi` is missing or fails."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in answer.splitlines()]
    return [_parse_gpu(*row) for row in rows if len(row) == QUERY.count(",") + 1]


def _parse_gpu(uuid: str, name: str, memory: str, capability: str, mig_mode: str) -> Gpu:
    mib = _number(memory)
    return Gpu(uuid, name, None if mib is None else int(mib) * MIB, _number(capability), mig_mode == "Enabled")


def _number(cell: str) -> float | None:
    """None for `[N/A]`, `[Insufficient Permissions]` and their like, which stand where a GPU does not tell."""
    try:
        return float(cell)
    except ValueError:
        return None


def visible_gpus(gpus: Sequence[Gpu], setting: str | None) -> list[Gpu]:
    """Those that `CUDA_VISIBLE_DEVICES` names, by CUDA's rules: all of them indices, or all prefixes of UUIDs.

    The first entry that names no GPU, or a prefix that names several, ends the list; a repeated GPU empties it.
    """
    if setting is None:
        return list(gpus)
    find = _find_by_uuid if setting.startswith("GPU-") else _find_by_index
    chosen: list[Gpu] = []
    for entry in setting.split(","):
        gpu = find(gpus, entry)
        if gpu is None:
            break
        if gpu in chosen:
            return []
        chosen.append(gpu)
    return chosen


def _find_by_index(gpus: Sequence[Gpu], entry: str) -> Gpu | None:
    index = entry.strip()
    return gpus[int(index)] if index.isdecimal() and int(index) < len(gpus) else None


def _find_by_uuid(gpus: Sequence[Gpu], entry: str) -> Gpu | None:
    matching = [gpu for gpu in gpus if entry.startswith("GPU-") and gpu.uuid.startswith(entry)]
    return matching[0] if len(matching) == 1 else None


def _cuda_device(gpus: Sequence[Gpu], setting: str | None) -> Device | None:
    if setting is not None and setting.startswith("MIG-"):
        # The query does not list slices, so this one is taken to exist, on any of the GPUs that are sliced.
        return _slice_of([gpu for gpu in gpus if gpu.is_sliced] or gpus) if gpus else None
    visible = visible_gpus(gpus, setting)
    if not visible:
        return None
    sliced = [gpu for gpu in visible if gpu.is_sliced]
    if sliced:
        return _slice_of(sliced)
    # A GPU without memory of its own (GB10, Jetson) tells none: it shares the machine's.
    memory = min((gpu.memory_bytes for gpu in visible if gpu.memory_bytes), default=memory_limit_bytes())
    return Device("cuda", visible[0].name, len(visible), memory, _least_capability(visible))


def _slice_of(gpus: Sequence[Gpu]) -> Device:
    """One MIG slice of one of the GPUs. CUDA gives a process one, however many it is shown.

    How large it is cannot be seen here: it counts as the smallest that can be cut from these GPUs. Work that fits is
    certain to fit; a larger slice is filled less than it could be.
    """
    least = min((gpu.memory_bytes // SLICE_DIVISOR for gpu in gpus if gpu.memory_bytes), default=SMALLEST_SLICE_BYTES)
    return Device("cuda", f"{gpus[0].name}, a MIG slice", 1, least, _least_capability(gpus))


def _least_capability(gpus: Sequence[Gpu]) -> float | None:
    return min((gpu.compute_capability for gpu in gpus if gpu.compute_capability), default=None)


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

"""GPU machine types: how many GPUs of which kind a cloud's instance type has. Prices and quotas are not known here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from kaito.catalog.entries import GIB, parse_amount, read_entries

BFLOAT16_CAPABILITY = 8.0  # CUDA compute capability from which tensor cores compute in bf16 (Ampere)

# The slices that KAITO accepts as `nvidia.com/mig-PROFILE`: compute share -> memory.
_MIG_SIZES = {
    "1g": (5, 6, 10, 12, 18, 20, 23, 24, 35, 45),
    "2g": (10, 12, 20, 24, 35, 45),
    "3g": (20, 40, 47, 48, 71, 90),
    "4g": (20, 24, 40, 47, 48, 71, 90),
    "7g": (40, 80, 94, 96, 141, 180),
}
MIG_PROFILES = frozenset(f"{share}.{size}gb" for share, sizes in _MIG_SIZES.items() for size in sizes)


@dataclass(frozen=True, slots=True)
class Sku:
    """An instance type. `gpu_memory_bytes` is of one GPU, as sold; cpus and memory are None where not known.

    compute_capability: CUDA's; None for an accelerator that is not NVIDIA's, which cannot train here
    nvme: the machine has local NVMe disks
    """

    name: str
    cloud: str
    gpus: int
    gpu_memory_bytes: int
    gpu_model: str
    compute_capability: float | None
    nvme: bool
    cpus: int | None
    memory_bytes: int | None

    @property
    def total_gpu_memory_bytes(self) -> int:
        return self.gpus * self.gpu_memory_bytes


def skus() -> tuple[Sku, ...]:
    """Every instance type of the catalog, cloud by cloud."""
    return _load()


def find_sku(name: str) -> Sku | None:
    """The instance type of that name, in any case; None if the catalog has no such."""
    return _index().get(name.strip().lower())


def nearest_skus(name: str, count: int = 3) -> list[str]:
    """Instance types of the catalog that look like `name`, best first, for the message that it is not known."""
    from difflib import get_close_matches

    close = get_close_matches(name.strip().lower(), list(_index()), n=count, cutoff=0.8)
    return [_index()[key].name for key in close]


def supports_bfloat16(compute_capability: float | None) -> bool:
    """Whether to train in bf16. None stands for a CPU, which can."""
    return compute_capability is None or compute_capability >= BFLOAT16_CAPABILITY


def mig_slice_bytes(profile: str) -> int | None:
    """Memory of one MIG slice: `3g.40gb` is taken as 40 GiB, as KAITO does. None for a profile that does not exist."""
    if profile not in MIG_PROFILES:
        return None
    return int(profile.partition(".")[2].removesuffix("gb")) * GIB


@cache
def _load() -> tuple[Sku, ...]:
    return tuple(_build_sku(entry) for entry in read_entries("skus.yaml"))


@cache
def _index() -> dict[str, Sku]:
    return {sku.name.lower(): sku for sku in _load()}


def _build_sku(entry: Mapping[str, Any]) -> Sku:
    return Sku(
        name=entry["name"],
        cloud=entry["cloud"],
        gpus=entry["gpus"],
        gpu_memory_bytes=parse_amount(entry["gpu_memory"]),
        gpu_model=entry["gpu_model"],
        compute_capability=entry.get("compute_capability"),
        nvme=entry.get("nvme", False),
        cpus=entry.get("cpus"),
        memory_bytes=parse_amount(entry.get("memory")) or None,
    )

"""The few words that ranks say to each other. With one process each of them costs nothing and imports nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

LAUNCH_VARIABLE = "KAITO_LAUNCH"  # a name that the ranks started together share, and no others


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def ranks() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def sum_over_ranks(values: Sequence[float]) -> list[float]:
    """Each value summed over all ranks, in float64: the same on every rank."""
    if ranks() == 1:
        return list(values)
    import torch
    import torch.distributed as dist

    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    sums = torch.tensor(list(values), dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    return [float(value) for value in sums.tolist()]


def from_first_rank(value: T) -> T:
    """What the first rank has, on every rank. Its own value is what any other passes in vain."""
    if ranks() == 1:
        return value
    import torch.distributed as dist

    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def barrier() -> None:
    """Wait until every rank has come here."""
    if ranks() > 1:
        import torch.distributed as dist

        dist.barrier()

"""What happens when memory runs out: once, the same step in smaller pieces; then an end that says what to do."""

from __future__ import annotations

import gc
from typing import Any

import torch

from kaito.failure import OutOfMemoryFailure


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: on a GPU, on a CPU (a plain RuntimeError), or in Python itself."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    signs = ("DefaultCPUAllocator", "CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


def out_of_memory(micro: int) -> OutOfMemoryFailure:
    return OutOfMemoryFailure(
        f"out of memory with a micro-batch of {micro}",
        "lower max_length, set gradient_checkpointing: true, use method qlora, or take a GPU with more memory",
    )


def release_memory(model: Any) -> None:
    """Let go of what a failed step held: gradients, and cached blocks of the GPU."""
    model.zero_grad(set_to_none=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

"""What happens when memory runs out: the same work in smaller pieces; then an end that says what to do."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from kaito.failure import OutOfMemoryFailure

Result = TypeVar("Result")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: on a GPU, on a CPU (a plain RuntimeError), or in Python itself."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    signs = ("DefaultCPUAllocator", "CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


def out_of_memory(when: str) -> OutOfMemoryFailure:
    """`when`: what was done, as it follows "out of memory"."""
    return OutOfMemoryFailure(
        f"out of memory {when}",
        "lower max_length, set gradient_checkpointing: true, use method qlora, or take a GPU with more memory",
    )


def release_memory(model: Any) -> None:
    """Let go of what a failed step held: gradients, and cached blocks of the GPU."""
    model.zero_grad(set_to_none=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def ending_as_out_of_memory() -> Iterator[None]:
    """Whatever raises for want of memory in here ends as OutOfMemoryFailure."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        first = str(error).partition("\n")[0] or type(error).__name__
        raise out_of_memory(f"({first})") from error


def in_smaller_batches(
    measure: Callable[[int], Result], batch: int, release: Callable[[], None], *, may_halve: bool
) -> Result:
    """`measure(batch)`, and with half the batch for as long as memory runs out. Raises what it raised with one row."""
    while True:
        try:
            return measure(batch)
        except Exception as error:
            if not may_halve or batch == 1 or not is_out_of_memory(error):
                raise
            error.__traceback__ = None  # it holds the failed batch's tensors
        release()
        batch //= 2

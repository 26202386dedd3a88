"""How many nodes serving a model takes: KAITO v0.12's estimate, number for number. Tuning is `kaito.catalog.memory`."""

from __future__ import annotations

from math import ceil

from kaito.catalog.entries import GIB

DEFAULT_CONTEXT = 2048
_UTILISATION = 0.84  # of a GPU's memory that the server takes
_WEIGHTS = 1.02  # loaded weights over file size
_OVERHEAD_BYTES = 2.3 * GIB  # CUDA context, activations and NCCL, on each GPU
_PROPORTIONAL = 1.05  # what grows with the share of the weights on a GPU


class NodesTooSmallError(ValueError):
    """No number of such nodes serves the model. The message says what one GPU would need."""


def estimate_inference_nodes(
    *,
    weight_bytes: int,
    kv_bytes_per_token: int,
    gpus_per_node: int,
    gpu_memory_bytes: int,
    context: int = DEFAULT_CONTEXT,
    mig: bool = False,
) -> int:
    """Nodes of `gpus_per_node` GPUs with `gpu_memory_bytes` each that hold the weights and one sequence of `context`.

    With `mig`, `gpu_memory_bytes` is of a slice, and one slice has to hold everything. As KAITO's, the estimate takes
    every layer for full attention in two-byte caches, and leaves out adapters and concurrency.
    Raises NodesTooSmallError where the fixed part fills a GPU, or the model is larger than the slice.
    """
    reserve = _OVERHEAD_BYTES + context * kv_bytes_per_token / gpus_per_node
    available = _UTILISATION * gpu_memory_bytes - reserve
    if available <= 0:
        needed = reserve / _UTILISATION / GIB
        raise NodesTooSmallError(
            f"a GPU with {gpu_memory_bytes / GIB:.0f} GiB is too small: {needed:.1f} GiB are needed beside the weights "
            f"for a context of {context} tokens"
        )
    model = _WEIGHTS * weight_bytes
    gpus = int(model / (available / _PROPORTIONAL)) + 1
    if mig and gpus > 1:
        needed = (model * _PROPORTIONAL + reserve) / _UTILISATION / GIB
        raise NodesTooSmallError(
            f"a MIG slice with {gpu_memory_bytes / GIB:.0f} GiB is too small: "
            f"the model needs {needed:.1f} GiB in one slice"
        )
    return ceil(gpus / gpus_per_node)

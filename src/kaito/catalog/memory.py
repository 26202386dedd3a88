"""How much memory LoRA and QLoRA training takes, part by part, and the micro-batch that it allows.

The constants that are not arithmetic were measured: peaks of live tensors over a real forward and backward pass of
small Llama, Phi-3, Qwen2, Phi and Falcon models with PEFT adapters. docs/decisions/memory-estimate.md has the method
and the numbers; tests/unit/catalog/test_catalog_memory_measured.py repeats it. Serving is `kaito.catalog.nodes`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, prod
from typing import Literal

from kaito.catalog.entries import GIB
from kaito.catalog.models import Model
from kaito.catalog.shapes import Shapes, shapes_of
from kaito.catalog.skus import BFLOAT16_CAPABILITY, Sku, skus
from kaito.contract import Estimate

ALL_LINEAR = "all-linear"  # PEFT's word for every linear layer but the head
MAX_MICRO_BATCH = 64

# CUDA context, cuBLAS workspaces and the allocator's fragments; on a CPU what importing torch, transformers and peft
# leaves resident, and its allocator's slack.
_RESERVE_BYTES = {"cuda": int(1.5 * GIB), "cpu": GIB}

_DTYPE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}

# Bytes of a quantised parameter: four bits and a scale for each block of 64. Double quantisation keeps that scale in
# eight bits, with a 32-bit one for each 256 of them (QLoRA, arXiv 2305.14314, section 3). LLM.int8: a byte.
_NF4_BYTES = 0.5 + 4 / 64
_NF4_DOUBLE_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
_INT8_BYTES = 1.0

# Of a trained parameter: weight and gradient in fp32, and what the optimizer keeps.
_WEIGHT_AND_GRADIENT_BYTES = 8
_OPTIMIZER_BYTES = {"sgd": 0, "adafactor": 1, "8bit": 2, "lion": 4}
_ADAM_BYTES = 8

# Of each logit at the peak, in the loss's backward pass: logits, their log-softmax and its gradient, all fp32.
_LOGIT_BYTES = 12


@dataclass(frozen=True, slots=True)
class _PerToken:
    """Bytes for each token of a decoder layer, for each element of a width. Measured with 16-bit autocast."""

    hidden: int
    key_value: int
    intermediate: int
    dropout: int  # of each input of an adapter, where it has dropout
    float32: float  # factor of fp32 over 16-bit autocast, in which norms and softmax are fp32 too


_SAVED = _PerToken(hidden=24, key_value=4, intermediate=8, dropout=4, float32=1.6)  # until the layer's backward pass
_WORKING = _PerToken(hidden=38, key_value=4, intermediate=14, dropout=6, float32=1.3)  # in it, with what is recomputed


def adapter_parameters(shapes: Shapes, rank: int, target_modules: str | Sequence[str] = ALL_LINEAR) -> int:
    """Parameters of a LoRA adapter: rank x (input + output) for each adapted linear layer.

    A list adapts the layers whose module it names; a name that the architecture does not have counts as the largest
    layer. Any text but a list (`all-linear`, a regular expression) counts as all of them.
    """
    return rank * shapes.layers * sum(sum(widths) for widths in _adapted(shapes, target_modules))


def estimate_tuning_memory(
    model: Model,
    *,
    rank: int,
    sequence_length: int,
    available_bytes: int,
    quantization_bits: int | None = None,
    double_quantization: bool = True,
    target_modules: str | Sequence[str] = ALL_LINEAR,
    lora_dropout: float = 0.0,
    dtype: str = "bfloat16",
    gradient_checkpointing: bool = True,
    optimizer: str = "adamw_torch",
    logits_tokens: int | None = None,
    max_micro_batch: int = MAX_MICRO_BATCH,
    device: Literal["cuda", "cpu"] = "cuda",
) -> Estimate:
    """Peak memory of training one adapter on one device, and the largest micro-batch (a power of two) that fits.

    `micro_batch` 0: not even one sequence fits; the parts are then those of one. Several GPUs each hold all of it.
    Parts, in bytes:

    weights       the base: linear layers in 4 or 8 bits where `quantization_bits` says so, all else in `dtype`
    dequantised   the largest quantised layer, unpacked for its matrix product
    adapter       fp32 weights, gradients and the state of `optimizer` (Trainer's names): 16 bytes a parameter with Adam
    activations   what the backward pass needs; with `gradient_checkpointing` each layer's input and one layer's inside
    logits        of `logits_tokens` positions at a time (a chunked loss, or a head on the answer alone; None: of all);
                  with `gradient_checkpointing` what they take beyond that one layer, whose memory they use before it
    reserve       1.5 GiB on a GPU, 1 GiB on a CPU

    sequence_length: tokens of the longest row. dtype: torch's name; any but float32 and float16 counts as bfloat16.
    `rough` where the shapes are. Of a model of which nothing is known: no parts, a micro-batch of 1, rough.
    """
    shapes = shapes_of(model)
    if shapes is None:
        return Estimate({}, total_bytes=0, available_bytes=available_bytes, micro_batch=1, rough=True)
    dtype_bytes = _DTYPE_BYTES.get(dtype, 2)
    fixed = {
        "weights": _weight_bytes(shapes, dtype_bytes, quantization_bits, double_quantization),
        "dequantised": max(map(prod, shapes.linears.values())) * dtype_bytes if quantization_bits else 0,
        "adapter": adapter_parameters(shapes, rank, target_modules) * _trained_bytes(optimizer),
        "reserve": _RESERVE_BYTES[device],
    }
    adapted = _adapted(shapes, target_modules) if lora_dropout else []
    kept, inside = _activation_bytes(shapes, adapted, dtype_bytes, gradient_checkpointing)

    def at(micro_batch: int) -> dict[str, int]:
        tokens = micro_batch * sequence_length
        logits = (tokens if logits_tokens is None else min(tokens, logits_tokens)) * shapes.vocab * _LOGIT_BYTES
        # The logits are gone when the first layer is recomputed: what counts is the larger of the two.
        return {**fixed, "activations": tokens * (kept + inside), "logits": max(0, logits - tokens * inside)}

    sizes = [2**power for power in range(max(1, max_micro_batch).bit_length())]
    micro_batch = max((size for size in sizes if sum(at(size).values()) <= available_bytes), default=0)
    parts = {name: size for name, size in at(micro_batch or 1).items() if size}
    return Estimate(
        parts=parts,
        total_bytes=sum(parts.values()),
        available_bytes=available_bytes,
        micro_batch=micro_batch,
        rough=shapes.rough,
    )


def smallest_sku(
    estimate: Callable[[int], Estimate], cloud: str, *, min_compute_capability: float = BFLOAT16_CAPABILITY
) -> Sku | None:
    """The smallest instance type of a cloud on one of whose GPUs a sequence fits; None if there is none.

    `estimate` takes the memory of one GPU in bytes. Fewest GPUs first, then the least memory. GPUs older than bf16
    are passed over: clouds are withdrawing them.
    """
    able = [
        sku
        for sku in skus()
        if sku.cloud == cloud and sku.compute_capability and sku.compute_capability >= min_compute_capability
    ]
    able.sort(key=lambda sku: (sku.gpus, sku.gpu_memory_bytes, sku.cpus or inf))
    return next((sku for sku in able if estimate(sku.gpu_memory_bytes).micro_batch >= 1), None)


def _weight_bytes(shapes: Shapes, dtype_bytes: int, quantization_bits: int | None, double_quantization: bool) -> int:
    linear: float = dtype_bytes
    if quantization_bits == 4:
        linear = _NF4_DOUBLE_BYTES if double_quantization else _NF4_BYTES
    elif quantization_bits == 8:
        linear = _INT8_BYTES
    return round(shapes.linear_parameters * linear) + shapes.other_parameters * dtype_bytes


def _trained_bytes(optimizer: str) -> int:
    name = optimizer.lower()
    state = next((size for word, size in _OPTIMIZER_BYTES.items() if word in name), _ADAM_BYTES)
    return _WEIGHT_AND_GRADIENT_BYTES + state


def _activation_bytes(
    shapes: Shapes, adapted: list[tuple[int, int]], dtype_bytes: int, gradient_checkpointing: bool
) -> tuple[int, int]:
    """Bytes for each token: kept from the forward pass, and inside the one layer that is being recomputed.

    `adapted`: the adapted layers, where the adapter has dropout.
    """
    rates = _WORKING if gradient_checkpointing else _SAVED
    layer = (
        rates.hidden * shapes.hidden
        + rates.key_value * shapes.key_value
        + rates.intermediate * shapes.intermediate
        + rates.dropout * sum(width for width, _ in adapted)
    )
    if dtype_bytes == 4:
        layer = round(layer * rates.float32)
    if gradient_checkpointing:
        return shapes.layers * shapes.hidden * dtype_bytes, layer
    return shapes.layers * layer, 0


def _adapted(shapes: Shapes, target_modules: str | Sequence[str]) -> list[tuple[int, int]]:
    if isinstance(target_modules, str) or ALL_LINEAR in target_modules:
        return list(shapes.linears.values())
    largest = max(shapes.linears.values(), key=sum)
    return [shapes.linears.get(name.rpartition(".")[2], largest) for name in dict.fromkeys(target_modules)]

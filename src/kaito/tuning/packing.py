"""Whether a base model's rows may be packed: proved on rows of the very data, before anything else is computed.

A model may leak from one packed document into the next, silently: positions that run on, a mask of its own, a state
that is carried along. No list of architectures can be complete, so each run compares the same rows packed and apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from kaito.api.training import TrainingConfig
from kaito.tuning.attention import BY_DOCUMENT, FLASH_ATTENTION, VARLEN
from kaito.tuning.batches import collate, flatten
from kaito.tuning.collectives import ranks, sum_over_ranks
from kaito.tuning.data import Example
from kaito.tuning.evaluation import measuring, to_device, token_losses
from kaito.tuning.memory import is_out_of_memory
from kaito.tuning.precision import Autocast

TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""How far the losses of a row's tokens may lie apart on average: rounding stays below, a leak is tenths and more."""
TOLERANCE_TF32 = 1e-2
LEAST_SAVED = 0.1  # attending document by document costs some of what is spared
COUNTED = "kaito_counted"
PADDING = 0  # never seen: the rows are compared one by one


@dataclass(frozen=True, slots=True)
class Layout:
    """How batches lie in memory. `said`: one line for the log. `warning`: the user asked for something else."""

    packed: bool
    said: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Proof:
    """What a comparison found. `difference`: in nats a token. `objection`: why the model cannot be packed, or ""."""

    difference: float
    objection: str


def choose_layout(
    model: Any,
    config: TrainingConfig,
    examples: Sequence[Example],
    *,
    saved: float,
    device: torch.device,
    autocast: Autocast,
) -> Layout:
    """Packed where it is worth it and proved for this model, which is then left set up for it.

    `saved`: the share of the work that packing spares, see `schedule.saved_by_packing`. All ranks come to the same
    answer. Draws no random numbers.
    """
    asked = (config.training.packing, config.training.padding_free)
    if True not in asked and False in asked:
        return Layout(False, "batches: padded, as the configuration says")
    if True not in asked and saved < LEAST_SAVED:
        return Layout(False, f"batches: padded: packed they would be {max(saved, 0):.0%} less work")
    implementation = config.model.attn_implementation
    if implementation is None:
        kernels = [VARLEN, BY_DOCUMENT] if device.type == "cuda" else [BY_DOCUMENT]
    elif implementation == FLASH_ATTENTION:
        kernels = [FLASH_ATTENTION]
    else:
        return Layout(False, f"batches: padded: attn_implementation is {implementation}", warning=True in asked)
    checked = rows_to_check(examples)
    objection = ""
    for kernel in kernels:
        proof = prove(model, kernel, checked, device=device, autocast=autocast)
        if sum_over_ranks([float(not proof.objection)])[0] == ranks():
            model.config._attn_implementation = kernel
            said = f"batches: packed; {len(checked)} documents checked, difference {proof.difference:.0e}"
            return Layout(True, said)
        objection = proof.objection or "was not packed alike by all processes"
    return Layout(False, f"batches: padded: {type(model).__name__} {objection}", warning=True in asked)


def rows_to_check(examples: Sequence[Example]) -> list[Example]:
    """The longest row, a middle one and the shortest: a leak goes from the first into the others."""
    by_length = np.argsort([len(example.input_ids) for example in examples], kind="stable")
    return [examples[by_length[place]] for place in (-1, len(by_length) // 2, 0)]


def prove(model: Any, kernel: str, examples: Sequence[Example], *, device: torch.device, autocast: Autocast) -> Proof:
    """Compare the losses of all tokens: each row alone, as the model came, with all rows packed under `kernel`.

    Besides, every layer must have attended through the kernel and none may convolve over tokens, as layers that carry
    a state do: rounding in half precision could hide a small leak. The model is left as it was.
    """
    if any(isinstance(module, nn.Conv1d) for module in model.modules()):
        return Proof(float("nan"), "cannot be packed: it mixes tokens outside its attention")
    everything = [Example(row.input_ids, np.ones_like(row.trained)) for row in examples]
    calls = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return ALL_ATTENTION_FUNCTIONS[kernel](*args, **kwargs)

    AttentionInterface.register(COUNTED, counted)
    before = model.config._attn_implementation
    try:
        with measuring(model, device, autocast):
            apart = [_losses(model, collate([row], PADDING), device) for row in everything]
            model.config._attn_implementation = FLASH_ATTENTION if kernel == FLASH_ATTENTION else COUNTED
            packed = _losses(model, flatten(everything), device)
    except Exception as error:  # a model that is not made for it fails in its own way, anywhere in its code
        if is_out_of_memory(error):
            raise
        return Proof(float("nan"), f"cannot be packed: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
    finally:
        model.config._attn_implementation = before
    pieces = torch.split(packed, [len(losses) for losses in apart])
    difference = max(float((one - other).abs().mean()) for one, other in zip(apart, pieces, strict=True))
    layers = model.config.get_text_config().num_hidden_layers
    if not difference <= tolerance(model, device, autocast):
        return Proof(difference, f"leaks between packed documents ({difference:.2g})")
    if kernel != FLASH_ATTENTION and calls != layers:
        return Proof(difference, f"cannot be packed: {calls} attentions seen in {layers} layers")
    return Proof(difference, "")


def _losses(model: Any, batch: dict[str, Any], device: torch.device) -> torch.Tensor:
    return token_losses(model, to_device(batch, device), reduction="none")


def tolerance(model: Any, device: torch.device, autocast: Autocast) -> float:
    """By the coarsest type that the model computes in."""
    computed = {"no": model.dtype, "bf16": torch.bfloat16, "fp16": torch.float16}[autocast]
    of_4bit = getattr(getattr(model.config, "quantization_config", None), "bnb_4bit_compute_dtype", computed)
    found = max(TOLERANCES.get(dtype, TOLERANCES[torch.float32]) for dtype in (computed, of_4bit))
    tf32 = device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32
    return max(found, TOLERANCE_TF32) if tf32 else found

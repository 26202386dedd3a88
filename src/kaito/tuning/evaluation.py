"""The loss on held-out rows. Touches no random state: there is no dropout and no sampler."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from kaito.tuning.attention import document_inputs
from kaito.tuning.batches import IGNORED, build_batch, cut_by_tokens, trained_tokens
from kaito.tuning.collectives import rank, ranks, sum_over_ranks
from kaito.tuning.data import Example
from kaito.tuning.precision import Autocast

PACKED_TOKENS = 8192  # of a packed batch at most, or one row: more is no faster, and a stop would wait for it

_AUTOCAST_DTYPE = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class HeldOutLoss:
    """Mean loss per trained token, over `tokens` of them in `rows` rows."""

    loss: float
    rows: int
    tokens: int


def token_losses(
    model: Any, batch: Mapping[str, Any], label_smoothing: float = 0.0, reduction: str = "sum"
) -> torch.Tensor:
    """The summed loss of a batch's trained tokens, a float32 scalar that gradients flow through.

    Logits are computed only where a next token is trained: they are the largest tensor of a step. With `reduction`
    none: the loss of each of those places, (rows x places), 0 where it is not trained in that row.
    """
    kept = batch["kept"]
    logits = model(**_model_inputs(batch), logits_to_keep=kept, use_cache=False).logits
    targets = batch["labels"][:, kept + 1] if batch["labels"].shape[1] > 1 else batch["labels"]
    return F.cross_entropy(
        logits.flatten(0, 1).float(),
        targets.flatten(),
        ignore_index=IGNORED,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )


def _model_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    if "bounds" not in batch:
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    # No attention mask: transformers takes one as a word that nothing is packed.
    documents = document_inputs(batch["bounds"], batch["cu_seqlens"])
    return {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"], **documents}


def to_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


@contextlib.contextmanager
def measuring(model: Any, device: torch.device, autocast: Autocast) -> Iterator[None]:
    """No gradients, no dropout, the number types of the training."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), contextlib.ExitStack() as stack:
            if autocast != "no":
                stack.enter_context(torch.autocast(device_type=device.type, dtype=_AUTOCAST_DTYPE[autocast]))
            yield
    finally:
        model.train(was_training)


def held_out_loss(
    model: Any,
    examples: Sequence[Example],
    *,
    batch_size: int,
    pad_token_id: int,
    device: torch.device,
    autocast: Autocast,
    packed: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
) -> HeldOutLoss | None:
    """The loss on `examples`, shared out over the ranks; None when `should_stop` said so on any of them.

    The mean is over tokens, so that batches do not matter. `batch_size`: rows of a padded batch.
    """
    mine = sorted(examples, key=lambda example: len(example.input_ids))[rank() :: ranks()]
    loss = tokens = stopped = 0.0
    with measuring(model, device, autocast):
        for rows in _batches(mine, batch_size, packed=packed):
            if should_stop():
                stopped = 1.0
                break
            batch = build_batch(rows, packed=packed, pad_token_id=pad_token_id)
            tokens += trained_tokens(batch)
            loss += token_losses(model, to_device(batch, device)).item()
    loss, tokens, stopped = sum_over_ranks([loss, tokens, stopped])
    return None if stopped else HeldOutLoss(loss / max(tokens, 1), len(examples), int(tokens))


def _batches(examples: Sequence[Example], batch_size: int, *, packed: bool) -> list[list[Example]]:
    """Batches that need no more memory than `batch_size` of the longest rows. `examples`: shortest first."""
    if not packed or not examples:
        return [list(examples[start : start + batch_size]) for start in range(0, len(examples), batch_size)]
    lengths = [len(example.input_ids) for example in examples]
    budget = min(batch_size * lengths[-1], max(PACKED_TOKENS, lengths[-1]))
    return [[examples[index] for index in piece] for piece in cut_by_tokens(lengths, budget)]

"""The loss on held-out rows, and when it is measured. Touches no random state: there is no dropout and no sampler."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from kaito.tuning.batches import IGNORED, collate, trained_tokens
from kaito.tuning.collectives import rank, ranks, sum_over_ranks
from kaito.tuning.data import Example
from kaito.tuning.precision import Autocast

MOST_EVALUATIONS = 10  # of a run that evaluates by epochs

_AUTOCAST_DTYPE = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class HeldOutLoss:
    """Mean loss per trained token, over `tokens` of them in `rows` rows."""

    loss: float
    rows: int
    tokens: int


def token_losses(model: Any, batch: dict[str, torch.Tensor], label_smoothing: float = 0.0) -> torch.Tensor:
    """The summed loss of a batch's trained tokens, a float32 scalar that gradients flow through.

    Logits are computed only where a next token is trained: they are the largest tensor of a step.
    """
    kept = batch["kept"]
    logits = model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], logits_to_keep=kept, use_cache=False
    ).logits
    targets = batch["labels"][:, kept + 1] if batch["labels"].shape[1] > 1 else batch["labels"]
    return F.cross_entropy(
        logits.flatten(0, 1).float(),
        targets.flatten(),
        ignore_index=IGNORED,
        reduction="sum",
        label_smoothing=label_smoothing,
    )


def held_out_loss(
    model: Any,
    examples: Sequence[Example],
    *,
    batch_size: int,
    pad_token_id: int,
    device: torch.device,
    autocast: Autocast,
    should_stop: Callable[[], bool] = lambda: False,
) -> HeldOutLoss | None:
    """The loss on `examples`, shared out over the ranks; None when `should_stop` said so on any of them.

    Rows go shortest first, so that little is padded; the mean is over tokens, so that batches do not matter.
    """
    mine = sorted(examples, key=lambda example: len(example.input_ids))[rank() :: ranks()]
    context = (
        contextlib.nullcontext()
        if autocast == "no"
        else torch.autocast(device_type=device.type, dtype=_AUTOCAST_DTYPE[autocast])
    )
    was_training = model.training
    model.eval()
    loss = tokens = stopped = 0.0
    with torch.no_grad(), context:
        for start in range(0, len(mine), batch_size):
            if should_stop():
                stopped = 1.0
                break
            batch = collate(mine[start : start + batch_size], pad_token_id)
            tokens += trained_tokens(batch)
            loss += token_losses(model, {name: tensor.to(device) for name, tensor in batch.items()}).item()
    model.train(was_training)
    loss, tokens, stopped = sum_over_ranks([loss, tokens, stopped])
    return None if stopped else HeldOutLoss(loss / max(tokens, 1), len(examples), int(tokens))


def evaluation_steps(
    *, total: int, steps_per_epoch: int, strategy: str, every: float | None, most: int = MOST_EVALUATIONS
) -> frozenset[int]:
    """The steps after which held-out rows are evaluated. The last step always is one.

    `strategy`: epoch (at most `most` times, at ends of epochs), steps (`every` so many; below 1, that share of all;
    None: ten times), no (at the end alone).
    """
    if strategy == "steps":
        period = every if every else 1 / most
        stride = max(1, math.ceil(period * total) if period < 1 else int(period))
    elif strategy == "epoch":
        stride = steps_per_epoch * math.ceil(total / steps_per_epoch / most)
    else:
        stride = total
    return frozenset([*range(stride, total, stride), total])

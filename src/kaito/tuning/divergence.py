"""Whether what was learned is numbers at all, and what is said where it is not."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from kaito.failure import DivergedFailure

AGAINST_DIVERGENCE = (
    "lower learning_rate, raise warmup_steps, or set max_grad_norm: 1; kaito logs shows the losses before"
)


def require_finite(weights: Mapping[str, torch.Tensor], step: int) -> None:
    """Raises DivergedFailure if a weight is not a number. A step's own update is seen by no loss before the next."""
    broken = [name for name, weight in weights.items() if not torch.isfinite(weight).all()]
    if broken:
        raise DivergedFailure(
            f"{len(broken)} of {len(weights)} trained weights are not numbers after step {step}, first {broken[0]}",
            AGAINST_DIVERGENCE,
        )


def require_finite_loss(loss: float | None, step: int) -> None:
    """Raises DivergedFailure if a held-out loss was measured and is not a number."""
    if loss is not None and not math.isfinite(loss):
        raise DivergedFailure(f"the held-out loss is not a number at step {step}", AGAINST_DIVERGENCE)


def require_improvement(least: float | None, improvement: float) -> None:
    """Raises DivergedFailure where the held-out loss has not fallen by `least`. The checkpoint stays."""
    if least is not None and not improvement >= least:  # nor where it is not a number
        raise DivergedFailure(
            f"the held-out loss fell by {improvement:.4f}, less than the {least} that are asked for",
            "look at the data and the learning rate, or lower tuning.evaluation.minImprovement",
            reason="ImprovementTooSmall",
        )

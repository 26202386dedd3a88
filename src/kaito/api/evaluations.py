"""When held-out rows are evaluated: one rule for the trainer, which does it, and the plan, which says what follows."""

from __future__ import annotations

import math

MOST_EVALUATIONS = 10  # of a run that evaluates by epochs


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

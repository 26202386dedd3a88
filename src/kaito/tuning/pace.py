"""When a run evaluates, saves and ends: what it was told, what it found so far, and the decision after each step."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from kaito.tuning.collectives import from_first_rank, sum_over_ranks

if TYPE_CHECKING:
    from kaito.tuning.trainer import LoraTrainer


@dataclass(slots=True)
class Stop:
    """Set by SIGTERM; read at the end of each step and between evaluation batches."""

    requested: bool = False


@contextmanager
def stopping_between_steps(stop: Stop) -> Iterator[None]:
    """SIGTERM asks for a checkpoint at the end of the running step instead of ending the process there and then."""

    def request_stop(_signal: int, _frame: FrameType | None) -> None:
        stop.requested = True

    before = signal.signal(signal.SIGTERM, request_stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass(frozen=True, slots=True)
class Pace:
    """When a run evaluates, saves, and trains no further.

    `save_seconds`: between recovery checkpoints; `save_steps`: more at these. `patience`: evaluations in a row without
    a lower held-out loss after which it ends; None: never before its last step.
    """

    evaluate_at: frozenset[int]
    save_seconds: float = 60.0
    save_steps: int | None = None
    patience: int | None = None


@dataclass(slots=True)
class Found:
    """What a run knows of its held-out losses: kept in each checkpoint, so that nothing is measured twice."""

    evaluations: dict[int, float] = field(default_factory=dict)
    best_step: int | None = None
    best_weights: dict[str, torch.Tensor] | None = None

    @property
    def best_loss(self) -> float | None:
        return None if self.best_step is None else self.evaluations[self.best_step]

    @property
    def without_improvement(self) -> int:
        """Evaluations since the best one."""
        return sum(step > (self.best_step or 0) for step in self.evaluations)


class Pacemaker(TrainerCallback):  # type: ignore[misc]  # transformers ships no types
    """Decides at the end of each step what follows it: a line of metrics, an evaluation, a checkpoint, the end."""

    def __init__(self, trainer: LoraTrainer) -> None:
        self.trainer = trainer
        self.saved = time.monotonic()

    def on_train_begin(self, _args: Any, state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        self.trainer.go_on_logging()
        self.trainer.metrics.start(state.num_input_tokens_seen)
        # The checkpoint that the run goes on from may not know an evaluation that was made since: save soon.
        evaluated = state.global_step in self.trainer.pace.evaluate_at
        self.saved = -math.inf if evaluated else time.monotonic()

    def on_epoch_begin(self, _args: Any, state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        self.trainer.batches.epoch = state.global_step // self.trainer.batches.steps_per_epoch

    def on_step_end(self, _args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        trainer, pace, step = self.trainer, self.trainer.pace, state.global_step
        last = step >= state.max_steps
        since_saved = from_first_rank(time.monotonic() - self.saved)
        trainer.stop.requested = bool(sum_over_ranks([float(trainer.stop.requested)])[0])
        control.should_log |= last or step == 1
        control.should_evaluate = trainer.is_evaluation_due() and not trainer.stop.requested
        landmark = step % trainer.batches.steps_per_epoch == 0
        control.should_save = (
            last
            or trainer.stop.requested
            or control.should_evaluate  # saved after it: an evaluation is long, and not made twice
            or since_saved >= (pace.save_seconds / 4 if landmark else pace.save_seconds)
            or (pace.save_steps is not None and step % pace.save_steps == 0)
        )
        if trainer.stop.requested:
            control.should_training_stop = True

    def on_save(self, _args: Any, _state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        self.saved = time.monotonic()

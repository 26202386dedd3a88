"""From a configuration and a number of rows to the steps of a run, and to the identity that says which run it is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kaito.api.effects import deciding
from kaito.api.training import TrainingConfig
from kaito.contract import digest_of
from kaito.tuning.batches import EpochBatches
from kaito.tuning.collectives import rank, ranks
from kaito.tuning.data import Example
from kaito.tuning.precision import Precision


def split_seed(config: TrainingConfig) -> int:
    chosen = config.dataset.shuffle_seed
    return chosen if chosen is not None else config.training.seed or 0


def build_batches(config: TrainingConfig, examples: Sequence[Example], micro: int, *, packed: bool) -> EpochBatches:
    """The order of the run's rows, for this rank, in micro-batches of the memory that `micro` padded rows take."""
    strategy = config.training.train_sampling_strategy
    seed = config.training.data_seed
    return EpochBatches(
        [len(example.input_ids) for example in examples],
        batch=rows_of_a_step(config),
        micro=micro,
        seed=seed if seed is not None else split_seed(config),
        shuffle=config.dataset.shuffle_dataset is not False and strategy != "sequential",
        by_length=strategy != "random",
        packed=packed,
        rank=rank(),
        ranks=ranks(),
    )


def saved_by_packing(config: TrainingConfig, examples: Sequence[Example], micro: int) -> float:
    """The share of positions or of forward passes, whichever is larger, that packed batches spare."""
    padded = build_batches(config, examples, micro, packed=False).work()
    packed = build_batches(config, examples, micro, packed=True).work()
    return 1 - min(ours / theirs for ours, theirs in zip(packed, padded, strict=True))


def rows_of_a_step(config: TrainingConfig) -> int:
    """Rows of one optimizer step over all processes."""
    micro, accumulation = config.training.per_device_train_batch_size, config.training.gradient_accumulation_steps
    if micro is None or accumulation is None:
        raise ValueError("settings without a batch size: pass them through effective() first")
    return micro * accumulation * ranks()


def total_steps(config: TrainingConfig, steps_per_epoch: int) -> int:
    if config.training.max_steps and config.training.max_steps > 0:
        return config.training.max_steps
    return math.ceil((config.training.num_train_epochs or 1) * steps_per_epoch)


def warmup_steps(config: TrainingConfig, total: int) -> int:
    """Steps of rising learning rate, below 1 their share of all. At least one step is left to train at the full one."""
    asked = config.training.warmup_steps or 0.0
    return min(int(asked) if asked >= 1 else math.ceil(asked * total), max(total - 1, 0))


def save_stride(config: TrainingConfig, total: int, steps_per_epoch: int) -> int | None:
    """Steps between the checkpoints that the user asked for, on top of those that are always made."""
    if config.training.save_strategy == "epoch":
        return steps_per_epoch
    if config.training.save_strategy != "steps":
        return None
    every = config.training.save_steps or 500
    return max(1, math.ceil(every * total) if every < 1 else int(every))


def identity_of(
    config: TrainingConfig, *, precision: Precision, order: str, held_out: str, repo: str, revision: str
) -> str:
    """Hash of everything that decides the adapter: settings, rows and their order, the base's revision."""
    settings = config.model_dump(mode="json", by_alias=True, exclude_none=True)
    return digest_of(
        {
            "settings": deciding(settings),
            "precision": [precision.weights, precision.autocast, precision.compute_4bit],
            "batch": rows_of_a_step(config),
            "rows": [order, held_out],
            "base": [repo, revision],
        }
    )

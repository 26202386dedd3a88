"""What single settings may say and several must not say together: one list for validation, plan and trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kaito.api.option_rules import PATTERN_KEYS, broken_pattern, optimizer_options, schedule_options
from kaito.api.training import TrainingConfig
from kaito.api.workspace import Evaluation
from kaito.contract import ROWS_FOR_A_SPLIT

HELD_OUT_SHARE = 0.05  # where nobody said another
HELD_OUT_ROWS = 500  # of a share of 5 % or less: more rows tell little and cost time at each evaluation

CHECKPOINTING_OPTIONS = frozenset({"use_reentrant", "preserve_rng_state"})


@dataclass(frozen=True, slots=True)
class Contradiction:
    """`section` and `key` name the setting to change; `message` says why, and to what."""

    section: str
    key: str
    message: str

    @property
    def field(self) -> str:
        return f"{self.section}.{self.key}"


def contradictions(config: TrainingConfig) -> list[Contradiction]:
    """Every pair of settings that cannot be true together, of what is said and of what was chosen for it."""
    found = []
    for section, key, rule in _RULES:
        message = rule(config)
        if message:
            found.append(Contradiction(section, key, message))
    return found


def without_secrets(config: TrainingConfig) -> TrainingConfig:
    """Without the keys that have no effect and may hold a token or a password: they go into no log, plan or image."""
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"proxies": None}),
            "training": config.training.model_copy(update={"hub_token": None}),
        }
    )


def held_out_rows(rows: int, train_share: float | None) -> int:
    """How many of `rows` are held out: at most 500 where the share is 5 % or less, none of fewer than 20 rows."""
    share = HELD_OUT_SHARE if train_share is None else 1.0 - train_share
    if share <= 0 or rows < ROWS_FOR_A_SPLIT:
        return 0
    count = max(1, round(rows * share))
    return min(count, HELD_OUT_ROWS) if share <= HELD_OUT_SHARE + 1e-9 else min(count, rows - 1)


def unmet_evaluation(evaluation: Evaluation | None, config: TrainingConfig) -> list[tuple[str, str, str]]:
    """(key of `tuning.evaluation`, what it lacks, what to do) of each that would never be looked at."""
    said = evaluation.model_dump(by_alias=True, exclude_none=True) if evaluation is not None else {}
    if config.dataset.train_test_split == 1:
        lacks = "needs held-out rows, and train_test_split: 1 holds none out"
        return [(key, lacks, "Set DatasetConfig.train_test_split to 0.95.") for key in said]
    if config.training.eval_strategy == "no" and "earlyStoppingPatience" in said:
        lacks = "counts evaluations on the way, and with eval_strategy: no there are none"
        return [("earlyStoppingPatience", lacks, "Set TrainingArguments.eval_strategy to epoch or steps.")]
    return []


def _quantized_twice(config: TrainingConfig) -> str:
    both = config.quantization.load_in_4bit and config.quantization.load_in_8bit
    return "load_in_4bit and load_in_8bit cannot both be true" if both else ""


def _half_twice(config: TrainingConfig) -> str:
    return "fp16 and bf16 cannot both be true" if config.training.fp16 and config.training.bf16 else ""


def _fractional_logging(config: TrainingConfig) -> str:
    steps = config.training.logging_steps
    fraction = steps is not None and steps > 1 and steps != int(steps)
    return "expected a whole number, or a share below 1" if fraction else ""


def _checkpointing_options(config: TrainingConfig) -> str:
    unknown = sorted(set(config.training.gradient_checkpointing_kwargs or {}) - CHECKPOINTING_OPTIONS)
    return f"{unknown[0]} is no option; there are {', '.join(sorted(CHECKPOINTING_OPTIONS))}" if unknown else ""


def _pattern_without_layers(config: TrainingConfig) -> str:
    alone = config.lora.layers_pattern and config.lora.layers_to_transform is None
    return "layers_pattern needs layers_to_transform; add it, or leave both out" if alone else ""


def _parameters_with_dropout(config: TrainingConfig) -> str:
    both = config.lora.target_parameters and config.lora.lora_dropout
    return "with target_parameters there is no dropout; set lora_dropout: 0" if both else ""


def _parameters_with_dora(config: TrainingConfig) -> str:
    both = config.lora.target_parameters and config.lora.use_dora
    return "with target_parameters there is no DoRA; set use_dora: false" if both else ""


def _all_turns_and_the_last(config: TrainingConfig) -> str:
    both = config.dataset.train_on_last_turn_only and config.training.assistant_only_loss is False
    return "assistant_only_loss: false learns all turns; leave one of the two out" if both else ""


_RULES: tuple[tuple[str, str, Callable[[TrainingConfig], str]], ...] = (
    ("QuantizationConfig", "load_in_8bit", _quantized_twice),
    ("TrainingArguments", "fp16", _half_twice),
    ("TrainingArguments", "lr_scheduler_kwargs", schedule_options),
    ("TrainingArguments", "optim_args", optimizer_options),
    ("TrainingArguments", "logging_steps", _fractional_logging),
    ("TrainingArguments", "gradient_checkpointing_kwargs", _checkpointing_options),
    *(("LoraConfig", key, broken_pattern(key)) for key in PATTERN_KEYS),
    ("LoraConfig", "layers_pattern", _pattern_without_layers),
    ("LoraConfig", "lora_dropout", _parameters_with_dropout),
    ("LoraConfig", "use_dora", _parameters_with_dora),
    ("DatasetConfig", "train_on_last_turn_only", _all_turns_and_the_last),
)

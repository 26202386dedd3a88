"""What the trainer does where the configuration says nothing, and which keys it does not act on.

A run that was planned says everything; these values count when the program is run by hand with a sparse file.
"""

from __future__ import annotations

from kaito.api.effects import is_without_effect
from kaito.api.training import TrainingConfig, merge
from kaito.failure import ConfigFailure

FALLBACKS = TrainingConfig.model_validate(
    {
        "QuantizationConfig": {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
        "LoraConfig": {
            "r": 16,
            "lora_alpha": 32,
            "lora_dropout": 0.0,
            "target_modules": "all-linear",
            "bias": "none",
        },
        "TrainingArguments": {
            "num_train_epochs": 3,
            "max_steps": -1,
            "learning_rate": 2e-4,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0.03,
            "max_grad_norm": 1.0,
            "weight_decay": 0.0,
            "optim": "adamw_torch",
            "label_smoothing_factor": 0.0,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 8,
            "gradient_checkpointing": False,
            "max_length": 1024,
            "eval_strategy": "epoch",
            "load_best_model_at_end": True,
            "logging_steps": 1,
            "seed": 42,
        },
    }
)
"""`train_test_split` stays unsaid: 5 % are held out, see `kaito.tuning.data`. So does the type of the weights: it
depends on the device, see `kaito.tuning.precision`."""

SCHEDULES_WITH_FEEDBACK = ("reduce_lr_on_plateau", "greedy")


def effective(config: TrainingConfig) -> TrainingConfig:
    """The configuration with every gap filled. Raises ConfigFailure for what the trainer cannot do."""
    filled = merge(FALLBACKS, config)
    if filled.model.chat_template is None and filled.training.chat_template_path is not None:
        model = filled.model.model_copy(update={"chat_template": filled.training.chat_template_path})
        filled = filled.model_copy(update={"model": model})
    if filled.quantization.load_in_4bit and filled.quantization.load_in_8bit:
        raise ConfigFailure("load_in_4bit and load_in_8bit are both true", "set one of them")
    if filled.training.lr_scheduler_type in SCHEDULES_WITH_FEEDBACK:
        raise ConfigFailure(
            f"TrainingArguments.lr_scheduler_type: {filled.training.lr_scheduler_type} follows the held-out loss,"
            " and a run that was interrupted could not repeat it",
            "use cosine, linear or another schedule of the step alone",
        )
    if isinstance(filled.lora.init_lora_weights, str) and filled.lora.init_lora_weights not in (
        "gaussian",
        "orthogonal",
    ):
        raise ConfigFailure(
            f"LoraConfig.init_lora_weights: {filled.lora.init_lora_weights} changes the base model's weights,"
            " so that the adapter would fit no other copy of it",
            "use true, gaussian or orthogonal",
        )
    return filled


def ignored_keys(config: TrainingConfig) -> list[str]:
    """`SECTION.key: value` of every setting that has no effect in this trainer."""
    sections = config.model_dump(by_alias=True, exclude_none=True)
    return [
        f"{section}.{key}: {value}"
        for section, keys in sections.items()
        for key, value in keys.items()
        if is_without_effect(section, key, value)
    ]

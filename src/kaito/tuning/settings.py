"""What the trainer does where the configuration says nothing, and which keys it does not act on.

A run that was planned says everything; these values count when the program is run by hand with a sparse file.
"""

from __future__ import annotations

from kaito.api.effects import is_without_effect
from kaito.api.training import TrainingConfig, merge
from kaito.api.training_rules import contradictions, without_secrets
from kaito.failure import ConfigFailure
from kaito.tuning.collectives import ranks
from kaito.tuning.precision import AMPERE

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


def effective(config: TrainingConfig) -> TrainingConfig:
    """The configuration with every gap filled and no secret in it.

    Raises ConfigFailure for settings that contradict each other.
    """
    filled = merge(FALLBACKS, without_secrets(config))
    if filled.model.chat_template is None and filled.training.chat_template_path is not None:
        model = filled.model.model_copy(update={"chat_template": filled.training.chat_template_path})
        filled = filled.model_copy(update={"model": model})
    for found in contradictions(filled):
        raise ConfigFailure(f"{found.field}: {found.message}", "correct it in the training configuration")
    return filled


KERNELS_OF_GPUS = ("flash_attention_2", "flash_attention_3", "flex_attention")


def for_device(config: TrainingConfig, capability: tuple[int, int] | None) -> TrainingConfig:
    """Without what this device or a single process has not; none of it changes what is learned.

    `capability`: compute capability of the GPU, None on a CPU. Raises ConfigFailure for an attention kernel that a CPU
    does not have: to take another would change the result.
    """
    kernel = config.model.attn_implementation
    if capability is None and kernel in KERNELS_OF_GPUS:
        raise ConfigFailure(
            f"ModelConfig.attn_implementation: {kernel} trains on a GPU alone", "leave it out, or use sdpa or eager"
        )
    without: dict[str, None] = {}
    if capability is None or capability < AMPERE:
        without["tf32"] = None
    if ranks() == 1 or (capability is None and config.training.ddp_backend == "nccl"):
        without["ddp_backend"] = None
    return config.model_copy(update={"training": config.training.model_copy(update=without)})


def ignored_keys(config: TrainingConfig) -> list[str]:
    """`SECTION.key` of every setting that has no effect in this trainer. No value: it may be a secret."""
    sections = config.model_dump(by_alias=True, exclude_none=True)
    return [
        f"{section}.{key}"
        for section, keys in sections.items()
        for key, value in keys.items()
        if is_without_effect(section, key, value)
    ]

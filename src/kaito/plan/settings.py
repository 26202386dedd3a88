"""Every effective setting of a tuning, and where it comes from: what the user said, else what the facts call for.

The user's ConfigMap says what it says; `tuning.parameters` wins over it key by key; the rest is chosen here, once, so
that the trainer decides nothing on its own and `kaito plan` can show it all before anything runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kaito.api.training import TrainingConfig
from kaito.api.training_rules import held_out_rows, without_secrets
from kaito.contract import Setting

Sections = Mapping[str, Mapping[str, Any]]

SHIPPED_TEMPLATES = "/workspace/chat_templates/"  # KAITO's path of them
PROVISIONAL = "provisional: until the rows are counted"
OPTIMIZER_STEPS = 300  # aimed at: fewer leave LoRA underfitted, whatever the tokens per second
LARGEST_BATCH = 32
LEARNING_RATE = 2e-4
LEARNING_RATE_LARGE = 1e-4
LARGE_PARAMETERS = 30_000_000_000
TOY_PARAMETERS = 50_000_000  # below it a CPU is faster and as good in float32
CHECKPOINTING_PARAMETERS = 3_000_000_000
SMALL_DATA_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Basis:
    """What the defaults depend on. None or 0: not known yet; `kaito plan` then shows what holds so far."""

    method: str
    parameters: int = 0
    context: int = 0
    rows: int = 0
    tokens_p99: int = 0
    tokens_max: int = 0
    device: str = "cuda"
    gpus: int = 1
    compute_capability: float | None = None


@dataclass(slots=True)
class Chosen:
    """Settings under construction: `said` never changes, each default is added with its reason."""

    said: dict[str, dict[str, Setting]]
    added: dict[str, dict[str, Setting]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    asked_length: int | None = None
    """The user's `max_length`, before the model's context bounds it."""

    def get(self, section: str, key: str) -> Any:
        for source in (self.said, self.added):
            if key in source.get(section, {}):
                return source[section][key].value
        return None

    def default(self, section: str, key: str, value: Any, why: str = "default") -> None:
        if key not in self.said.get(section, {}):
            self.added.setdefault(section, {})[key] = Setting(value, why)

    def override(self, section: str, key: str, value: Any, warning: str) -> None:
        self.said.setdefault(section, {})[key] = Setting(value, "changed: " + warning)
        self.warnings.append(warning)

    def sections(self) -> dict[str, dict[str, Setting]]:
        """Section -> key -> setting."""
        names = dict.fromkeys([*self.said, *self.added])
        return {name: {**self.added.get(name, {}), **self.said.get(name, {})} for name in names}

    def flat(self) -> dict[str, Setting]:
        return {f"{name}.{key}": setting for name, keys in self.sections().items() for key, setting in keys.items()}

    def config(self) -> TrainingConfig:
        values = {name: {key: s.value for key, s in keys.items()} for name, keys in self.sections().items()}
        return TrainingConfig.model_validate(values)


def said(*sources: tuple[str, TrainingConfig | None]) -> dict[str, dict[str, Setting]]:
    """What the user wrote, key by key; later sources win. Keys that may hold a secret are left out."""
    merged: dict[str, dict[str, Setting]] = {}
    for name, config in sources:
        sections: Sections = {}
        if config is not None:
            sections = without_secrets(config).model_dump(by_alias=True, exclude_none=True)
        for section, keys in sections.items():
            for key, value in keys.items():
                merged.setdefault(section, {})[key] = Setting(value, name)
    return merged


def choose(basis: Basis, said_settings: dict[str, dict[str, Setting]]) -> Chosen:
    """All settings but what needs the memory estimate: `choose_batch`, and `max_length` in `lengths`."""
    chosen = Chosen(said_settings)
    _choose_dtype(chosen, basis)
    _choose_quantization(chosen, basis)
    _choose_lora(chosen, basis)
    _choose_schedule(chosen, basis)
    _choose_data(chosen)
    return chosen


def dtype_for(basis: Basis) -> tuple[str, str]:
    """The type that weights and activations are held in, and why."""
    if basis.device == "cpu":
        if 0 < basis.parameters < TOY_PARAMETERS:
            return "float32", "a small model on a CPU"
        return "bfloat16", "default"
    if basis.compute_capability is not None and basis.compute_capability < 8.0:
        return "float16", f"compute capability {basis.compute_capability} has no bfloat16"
    return "bfloat16", "default"


def _choose_dtype(chosen: Chosen, basis: Basis) -> None:
    dtype, why = dtype_for(basis)
    asked = [
        f"{section}.{key}"
        for section, key in (
            ("ModelConfig", "torch_dtype"),
            ("QuantizationConfig", "bnb_4bit_compute_dtype"),
            ("TrainingArguments", "bf16"),
        )
        if chosen.get(section, key) in {"bfloat16", True}
    ]
    if asked and dtype == "float16":
        warning = f"{', '.join(asked)} ask for bfloat16, which the GPU lacks ({why}): float16 is used"
        for name in asked:
            section, key = name.split(".")
            chosen.override(section, key, False if key == "bf16" else "float16", warning)
        chosen.warnings[:] = list(dict.fromkeys(chosen.warnings))
    for key, asked_dtype in (("bf16", "bfloat16"), ("fp16", "float16")):
        if chosen.get("TrainingArguments", key):
            dtype, why = asked_dtype, f"TrainingArguments.{key}"
    chosen.default("ModelConfig", "torch_dtype", dtype, why)
    held = chosen.get("ModelConfig", "torch_dtype")
    chosen.default("TrainingArguments", "bf16", held == "bfloat16", "follows torch_dtype")
    chosen.default("TrainingArguments", "fp16", held == "float16" and basis.device != "cpu", "follows torch_dtype")


def _choose_quantization(chosen: Chosen, basis: Basis) -> None:
    if basis.method != "qlora":
        return
    if not chosen.get("QuantizationConfig", "load_in_8bit"):
        chosen.default("QuantizationConfig", "load_in_4bit", True, "method qlora")
    if chosen.get("QuantizationConfig", "load_in_4bit"):
        chosen.default("QuantizationConfig", "bnb_4bit_quant_type", "nf4")
        chosen.default("QuantizationConfig", "bnb_4bit_use_double_quant", True)
        compute = chosen.get("ModelConfig", "torch_dtype")
        chosen.default("QuantizationConfig", "bnb_4bit_compute_dtype", compute, "follows torch_dtype")


def _choose_lora(chosen: Chosen, basis: Basis) -> None:
    chosen.default("LoraConfig", "r", 16)
    chosen.default("LoraConfig", "lora_alpha", 2 * chosen.get("LoraConfig", "r"), "twice the rank")
    dropout, why = (0.05, "few rows") if basis.rows < SMALL_DATA_ROWS else (0.0, "many rows")
    why = why if basis.rows else PROVISIONAL
    if chosen.get("LoraConfig", "target_parameters"):
        dropout, why = 0.0, "target_parameters have none"
    chosen.default("LoraConfig", "lora_dropout", dropout, why)
    chosen.default("LoraConfig", "target_modules", "all-linear")
    chosen.default("LoraConfig", "bias", "none")


def _choose_schedule(chosen: Chosen, basis: Basis) -> None:
    large = basis.parameters > LARGE_PARAMETERS
    rate, why = (LEARNING_RATE_LARGE, "over 30 billion parameters") if large else (LEARNING_RATE, "default")
    arguments = "TrainingArguments"
    chosen.default(arguments, "learning_rate", rate, why)
    chosen.default(arguments, "lr_scheduler_type", "cosine")
    chosen.default(arguments, "warmup_steps", 0.03, "3 % of the steps")
    chosen.default(arguments, "weight_decay", 0.0)
    quantized = basis.method == "qlora"
    chosen.default(arguments, "max_grad_norm", 0.3 if quantized else 1.0, "method qlora" if quantized else "default")
    chosen.default(arguments, "num_train_epochs", 3.0)
    chosen.default(arguments, "seed", 42)
    large_enough = basis.parameters >= CHECKPOINTING_PARAMETERS
    chosen.default(arguments, "gradient_checkpointing", large_enough, "by the model's size")
    chosen.default(arguments, "optim", "adamw_torch")
    chosen.default(arguments, "logging_steps", 1)
    chosen.default(arguments, "save_total_limit", 2)


def _choose_data(chosen: Chosen) -> None:
    chosen.default("DatasetConfig", "shuffle_dataset", True)
    chosen.default("DatasetConfig", "shuffle_seed", 42)
    chosen.default("DatasetConfig", "train_test_split", 0.95, "5 % held out, 500 rows at most")
    if chosen.get("DatasetConfig", "train_test_split") != 1:
        chosen.default("TrainingArguments", "eval_strategy", "epoch")
        chosen.default("TrainingArguments", "load_best_model_at_end", True, "the best by held-out loss is kept")
    else:
        chosen.warnings.append("train_test_split is 1: nothing is held out, so there will be no evaluation")


def inline_chat_template(chosen: Chosen, config: Mapping[str, str]) -> str:
    """Put a chat template that lies in the ConfigMap, under a key of its own, into the settings as text.

    `config`: the ConfigMap that the Workspace names. Text and names of shipped templates stay as they are.
    Returns the key that the ConfigMap lacks, or "".
    """
    template = chosen.get("ModelConfig", "chat_template")
    if template is None or any(sign in template for sign in "{}\n") or template.startswith(SHIPPED_TEMPLATES):
        return ""
    key = str(template).rpartition("/")[2]
    if key not in config:
        return key
    chosen.said["ModelConfig"]["chat_template"] = Setting(config[key], f"{template} of the ConfigMap")
    return ""


def choose_batch(chosen: Chosen, basis: Basis, micro_batch_allowed: int) -> None:
    """The global batch for some 300 optimizer steps, or `max_steps` of them, in micro-batches that the memory allows.

    A batch size that the user gave stands as given, and its accumulation is 1 where they did not say (as in KAITO).
    """
    arguments = "TrainingArguments"
    if chosen.get(arguments, "per_device_train_batch_size") is not None:
        chosen.default(arguments, "gradient_accumulation_steps", 1, "the batch size was given")
        return
    if chosen.get(arguments, "gradient_accumulation_steps") is not None:
        chosen.default(arguments, "per_device_train_batch_size", 1, "only the accumulation was given")
        return
    batch, why = global_batch(basis, chosen)
    gpus = max(1, basis.gpus)
    per_gpu = _power_of_two(batch // gpus)  # whatever the memory: it may split a step's rows, not change them
    micro = min(_power_of_two(micro_batch_allowed), per_gpu)
    chosen.default(arguments, "per_device_train_batch_size", micro, why)
    accumulation = per_gpu // micro
    why = f"for a batch of {micro * gpus * accumulation}" if basis.rows else PROVISIONAL
    chosen.default(arguments, "gradient_accumulation_steps", accumulation, why)


def _power_of_two(most: int) -> int:
    """The largest one of at most `most`; 1 below that."""
    return 1 << (max(1, most).bit_length() - 1)


def global_batch(basis: Basis, chosen: Chosen) -> tuple[int, str]:
    """Rows an optimizer step, a power of two up to 32, and why.

    With `max_steps` as many rows as the epochs have, and no fewer than one pass over them, as far as 32 allows it.
    """
    if not basis.rows:
        return LARGEST_BATCH, PROVISIONAL
    rows = trained_rows(chosen, basis)
    epochs = chosen.get("TrainingArguments", "num_train_epochs")
    limit = step_limit(chosen)
    batch = max(1, int(rows * epochs / (limit or OPTIMIZER_STEPS)))
    batch = 1 << (batch.bit_length() - 1)
    if not limit:
        batch = min(LARGEST_BATCH, batch)
        return batch, f"about {max(1, math.ceil(math.ceil(rows / batch) * epochs))} optimizer steps"
    one_pass = 1 << (math.ceil(rows / limit) - 1).bit_length()
    batch = min(LARGEST_BATCH, max(batch, one_pass))
    return batch, f"max_steps {limit}: about {limit * batch / rows:.1f} times the rows"


def step_limit(chosen: Chosen) -> int:
    """`max_steps`, 0 where there is none."""
    return max(0, chosen.get("TrainingArguments", "max_steps") or 0)


def trained_rows(chosen: Chosen, basis: Basis) -> int:
    """The rows that are not held out; at least 1."""
    return max(1, basis.rows - held_out_rows(basis.rows, chosen.get("DatasetConfig", "train_test_split")))


def unseen_rows(chosen: Chosen, basis: Basis) -> tuple[str, ...]:
    """The warning that `max_steps` ends the training before every row was seen once, if it does."""
    limit, batch = step_limit(chosen), rows_per_step(chosen, basis)
    rows = trained_rows(chosen, basis)
    if not basis.rows or not limit or limit * batch >= rows:
        return ()
    needed = math.ceil(rows / batch)
    return (
        f"{rows - limit * batch:,} of {rows:,} rows are never seen: max_steps {limit} of {batch} rows each; "
        f"raise max_steps to {needed:,}, or the batch",
    )


def rows_per_step(chosen: Chosen, basis: Basis) -> int:
    """Rows an optimizer step over all GPUs: what the split into micro-batches must not change."""
    arguments = "TrainingArguments"
    micro = chosen.get(arguments, "per_device_train_batch_size")
    return int(micro * chosen.get(arguments, "gradient_accumulation_steps") * max(1, basis.gpus))

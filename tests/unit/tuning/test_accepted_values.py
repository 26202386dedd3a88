"""What the API accepts, the trainer trains: every listed value takes a step on a tiny model, and no key is silent."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any, get_args

import pytest
from safetensors.torch import load_file

import kaito
from kaito.api.effects import REFUSED, WITHOUT_EFFECT
from kaito.api.option_rules import SCHEDULE_OPTIONS
from kaito.api.sections import COLUMNS, ComputeDtype, Dtype, Initialisation
from kaito.api.training import TrainingConfig, parse_training_config
from kaito.api.training_arguments import Optimizer, Schedule
from kaito.failure import ConfigFailure
from kaito.tuning.model import _PEFT_KEYS
from kaito.tuning.trainer import PASSED_ON
from tests.unit.tuning.tiny_models import QLORA, settings

Tune = Callable[..., dict[str, Any]]

SCHEDULE_NEEDS = {
    "cosine_with_min_lr": {"min_lr_rate": 0.1},
    "cosine_warmup_with_min_lr": {"min_lr": 1e-5},
    "warmup_stable_decay": {"num_decay_steps": 1},
}
ADAPTERS: list[dict[str, Any]] = [
    {"bias": "all"},
    {"bias": "lora_only"},
    {"use_rslora": True},
    {"use_dora": True},
    {"fan_in_fan_out": True},
    {"layers_to_transform": [1], "layers_pattern": "layers"},
    {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"q_proj": 4}},
    {"trainable_token_indices": [1, 2]},
    {"target_parameters": ["mlp.gate_proj.weight"], "target_modules": ["q_proj"], "lora_dropout": 0},
    {"lora_bias": True},
    {"exclude_modules": ["q_proj"], "target_modules": ".*proj"},
]
INITIALISATIONS = [True, False, *get_args(get_args(Initialisation)[1])]


def listed(annotation: Any) -> tuple[str, ...]:
    """The values of an annotated Literal."""
    return get_args(get_args(annotation)[0])


def combinations() -> Iterator[Any]:
    """A run for each optimizer; every value of the other lists is in one of these runs at least."""
    others = zip(
        cycle(get_args(Schedule)),
        cycle(INITIALISATIONS),
        cycle(ADAPTERS),
        cycle(listed(Dtype)),
        cycle(("eager", "sdpa")),
        strict=False,
    )
    for optimizer, (schedule, initial, adapter, dtype, kernel) in zip(get_args(Optimizer), others, strict=False):
        yield pytest.param(optimizer, schedule, initial, adapter, dtype, kernel, id=f"{optimizer}-{schedule}-{dtype}")


@pytest.mark.parametrize(("optimizer", "schedule", "initial", "adapter", "dtype", "kernel"), combinations())
def test_every_accepted_value_trains(
    tune: Tune, tmp_path: Path, optimizer: str, schedule: str, initial: Any, adapter: Any, dtype: str, kernel: str
) -> None:
    sections = settings(
        max_steps=2,
        learning_rate=1e-2,
        optim=optimizer,
        lr_scheduler_type=schedule,
        lr_scheduler_kwargs=SCHEDULE_NEEDS.get(schedule),
        warmup_steps=0,
    )
    sections["LoraConfig"] |= {"init_lora_weights": initial, **adapter}
    sections["ModelConfig"] = {"torch_dtype": dtype, "attn_implementation": kernel}
    sections["DatasetConfig"] = {"train_test_split": 1}
    assert parse_training_config(json.dumps({"training_config": sections})).errors == ()
    tune(sections=sections)
    trained = load_file(tmp_path / "run/results/adapter_model.safetensors")
    assert any(weights.any() for name, weights in trained.items() if "lora_B" in name), "no update was learned"


@pytest.mark.parametrize("compute", listed(ComputeDtype))
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_every_accepted_quantisation_trains(tune: Tune, kind: str, compute: str) -> None:
    sections = {**settings(max_steps=2), "DatasetConfig": {"train_test_split": 1}}
    quantization = {**QLORA, "bnb_4bit_quant_type": kind, "bnb_4bit_compute_dtype": compute}
    sections["QuantizationConfig"] = quantization | {"bnb_4bit_quant_storage": "bfloat16" if kind == "fp4" else "uint8"}
    assert tune(sections=sections)["loss"] > 0


def test_eight_bits_train_and_learn_on_a_cpu_too(tune: Tune, capsys: pytest.CaptureFixture[str]) -> None:
    sections = {**settings(num_train_epochs=4, learning_rate=1e-2), "QuantizationConfig": {"load_in_8bit": True}}
    result = tune(sections=sections)
    assert "QLoRA Enabled: 14 layers quantised" in capsys.readouterr().out
    assert result["eval_loss"] < result["base_eval_loss"] - 0.5


@pytest.mark.parametrize("kernel", ["flash_attention_2", "flash_attention_3", "flex_attention"])
def test_a_kernel_of_gpus_is_refused_in_words_on_a_cpu(tune: Tune, kernel: str) -> None:
    sections = {**settings(max_steps=1), "ModelConfig": {"attn_implementation": kernel}}
    with pytest.raises(ConfigFailure, match="trains on a GPU alone"):
        tune(sections=sections)


@pytest.mark.parametrize(
    "arguments",
    [
        {"tf32": True},
        {"ddp_backend": "nccl"},
        {"neftune_noise_alpha": 5.0},
        {"label_smoothing_factor": 0.1},
        {"max_grad_norm": 0},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
        {"torch_empty_cache_steps": 1},
    ],
)
def test_a_setting_that_this_device_may_not_have_trains_all_the_same(
    tune: Tune, tmp_path: Path, arguments: dict[str, Any]
) -> None:
    tune(sections=settings(max_steps=2, **arguments))
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all(line["grad_norm"] > 0 for line in lines if "grad_norm" in line), "nothing flowed back"


def test_the_options_of_schedules_are_those_that_transformers_takes() -> None:
    import inspect

    from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION
    from transformers.trainer_utils import SchedulerType

    for name in get_args(Schedule):
        parameters = set(inspect.signature(TYPE_TO_SCHEDULER_FUNCTION[SchedulerType(name)]).parameters)
        assert parameters - {"optimizer", "num_warmup_steps", "num_training_steps", "last_epoch"} == set(
            SCHEDULE_OPTIONS[name]
        )


def test_the_optimizers_are_those_of_transformers_that_need_no_further_package() -> None:
    from transformers.training_args import OptimizerNames

    elsewhere = ("xla", "npu", "anyprecision", "torch_4bit", "torch_8bit", "galore", "lomo", "grok", "schedule_free")
    known = {name.value for name in OptimizerNames}
    needing = {name for name in known if any(word in name for word in (*elsewhere, "apollo", "stable"))}
    assert set(get_args(Optimizer)) == known - needing


def test_no_key_is_accepted_and_then_forgotten() -> None:
    """Each is read by some program, passed on by its name, or listed as without effect (and then warned of)."""
    source = "".join(
        file.read_text(encoding="utf-8")
        for folder in ("tuning", "datasets", "plan")
        for file in (Path(kaito.__path__[0]) / folder).rglob("*.py")
    )
    forgotten = []
    for info in TrainingConfig.model_fields.values():
        section = info.alias or ""
        acted_on = {"LoraConfig": _PEFT_KEYS, "TrainingArguments": PASSED_ON}.get(section, ())
        checked_alone = {  # may say nothing but what is done anyway; or are read by a name that is put together
            "LoraConfig": ("task_type", "peft_type", "inference_mode", "layer_replication"),
            "TrainingArguments": ("metric_for_best_model", "greater_is_better"),
            "DatasetConfig": tuple(f"{name}_column" for name in COLUMNS),
        }
        whole = section in ("QuantizationConfig", "DataCollator")  # passed to bitsandbytes as it is; nothing
        for key in info.default_factory.model_fields:  # type: ignore[union-attr]  # each section's class
            known = key in acted_on or key in checked_alone.get(section, ()) or whole
            if not known and key not in WITHOUT_EFFECT.get(section, {}) and not re.search(rf"\.{key}\b", source):
                forgotten.append(f"{section}.{key}")
    assert forgotten == []


@pytest.mark.parametrize(("where", "value"), [(where, value) for where, values in REFUSED.items() for value in values])
def test_what_is_not_trained_is_refused_with_line_and_reason_before_anything_runs(
    where: tuple[str, str], value: str
) -> None:
    section, key = where
    parsed = parse_training_config(f"training_config:\n  {section}:\n    {key}: {value}\n")
    (error,) = parsed.errors
    assert (error.field, error.line) == (f"training_config.{section}.{key}", 3)
    assert error.message == f"{value} {REFUSED[where][value]}"

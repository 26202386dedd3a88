from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kaito.api.evaluations import evaluation_steps
from kaito.api.training import TrainingConfig
from kaito.failure import ConfigFailure
from kaito.tuning.precision import Precision
from kaito.tuning.schedule import identity_of, rows_of_a_step, save_stride, total_steps, warmup_steps
from kaito.tuning.settings import effective, ignored_keys


def config(**sections: Any) -> TrainingConfig:
    return effective(TrainingConfig.model_validate(sections))


def test_a_sparse_configuration_has_an_effective_value_for_everything_that_is_needed() -> None:
    filled = config()
    assert (filled.lora.r, filled.lora.target_modules) == (16, "all-linear")
    assert filled.training.learning_rate == 2e-4
    assert rows_of_a_step(filled) == 8
    assert total_steps(filled, 10) == 30
    assert config(TrainingArguments={"max_steps": 7}).training.max_steps == 7
    assert total_steps(config(TrainingArguments={"max_steps": 7}), 10) == 7


@pytest.mark.parametrize(
    "sections",
    [
        {"QuantizationConfig": {"load_in_4bit": True, "load_in_8bit": True}},
        {"TrainingArguments": {"lr_scheduler_type": "warmup_stable_decay"}},
        {"TrainingArguments": {"bf16": True, "fp16": True}},
        {"LoraConfig": {"layers_pattern": "h"}},
    ],
)
def test_what_the_trainer_cannot_do_is_refused_before_anything_is_loaded(sections: dict[str, Any]) -> None:
    with pytest.raises(ConfigFailure) as refused:
        config(**sections)
    assert refused.value.hint


def test_keys_without_effect_are_named_and_kaitos_own_are_silent() -> None:
    said = {"torch_compile": True, "save_strategy": "no", "per_device_train_batch_size": 1, "dataloader_num_workers": 0}
    assert ignored_keys(config(TrainingArguments=said)) == ["TrainingArguments.torch_compile"]


def test_a_token_and_a_proxys_password_go_no_further_than_the_file_they_stand_in() -> None:
    filled = config(
        TrainingArguments={"hub_token": "hf_secret", "run_name": "http://u:secret@p"},
        ModelConfig={"proxies": {"https": "http://u:secret@p:1"}},
    )
    assert (filled.training.hub_token, filled.model.proxies) == (None, None)
    assert ignored_keys(filled) == ["TrainingArguments.run_name"], "a name, and no value"


@pytest.mark.parametrize(
    ("total", "per_epoch", "strategy", "every", "expected"),
    [
        (30, 10, "epoch", None, [10, 20, 30]),
        (25, 10, "epoch", None, [10, 20, 25]),
        (300, 10, "epoch", None, [30, 60, 90, 120, 150, 180, 210, 240, 270, 300]),
        (30, 10, "no", None, [30]),
        (30, 10, "steps", 12, [12, 24, 30]),
        (30, 10, "steps", 0.5, [15, 30]),
        (1, 10, "epoch", None, [1]),
        (30, 10, "steps", None, list(range(3, 31, 3))),
    ],
)
def test_when_held_out_rows_are_evaluated(
    total: int, per_epoch: int, strategy: str, every: float | None, expected: list[int]
) -> None:
    steps = evaluation_steps(total=total, steps_per_epoch=per_epoch, strategy=strategy, every=every)
    assert sorted(steps) == expected


@pytest.mark.parametrize(
    ("asked", "total", "expected"),
    [(0.03, 1000, 30), (0.03, 100, 3), (0.03, 1, 0), (10, 100, 10), (10, 4, 3), (0, 9, 0)],
)
def test_the_warm_up_leaves_a_step_to_train_at_the_full_rate(asked: float, total: int, expected: int) -> None:
    assert warmup_steps(config(TrainingArguments={"warmup_steps": asked}), total) == expected


def test_save_strategy_adds_checkpoints() -> None:
    assert save_stride(config(TrainingArguments={"save_strategy": "no"}), 100, 10) is None
    assert save_stride(config(TrainingArguments={"save_strategy": "epoch"}), 100, 10) == 10
    assert save_stride(config(TrainingArguments={"save_strategy": "steps", "save_steps": 0.25}), 100, 10) == 25


def test_another_cut_of_the_same_step_is_the_same_run_and_another_setting_is_not() -> None:
    def identity(revision: str = "c", **arguments: Any) -> str:
        filled = config(TrainingArguments=arguments)
        precision = Precision("float32", "no", "float32")
        return identity_of(filled, precision=precision, order="o", held_out="h", repo="r", revision=revision)

    same = identity(per_device_train_batch_size=4, gradient_accumulation_steps=2)
    assert identity(per_device_train_batch_size=2, gradient_accumulation_steps=4, logging_steps=5) == same
    assert identity(per_device_train_batch_size=4, gradient_accumulation_steps=4) != same
    assert identity(per_device_train_batch_size=4, gradient_accumulation_steps=2, learning_rate=1e-3) != same
    assert identity("d", per_device_train_batch_size=4, gradient_accumulation_steps=2) != same


@pytest.mark.parametrize("module", ["kaito.tuning", "kaito.tuning.output"])
def test_help_is_shown_without_importing_torch(module: str) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['x', '--help']\n"
        "try:\n"
        f"    runpy.run_module({module!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "example:" in done.stdout


def test_threads_wait_passively_and_no_library_asks_the_network(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("training_config:\n  QuantizationConfig:\n    load_in_4bit: false\n")
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from kaito.tuning.__main__ import prepare_environment\n"
        "prepare_environment(Path(sys.argv[1]))\n"
        "print(os.environ['OMP_WAIT_POLICY'], os.environ['OMP_NUM_THREADS'], os.environ['HF_HUB_OFFLINE'])\n"
        "import peft.tuners.lora\n"
        "print(sys.modules['bitsandbytes'])\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(config)],
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == ["PASSIVE", "1", "1", "None"], done.stderr

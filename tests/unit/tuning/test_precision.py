from __future__ import annotations

from typing import Any

import pytest

from kaito.api.training import TrainingConfig
from kaito.tuning.precision import choose_precision

TOY, REAL = 5_000_000, 3_800_000_000
KAITO: dict[str, Any] = {"ModelConfig": {"torch_dtype": "bfloat16", "device_map": "auto"}}


@pytest.mark.parametrize(
    ("sections", "capability", "parameters", "weights", "autocast"),
    [
        ({}, None, TOY, "float32", "no"),
        ({}, None, REAL, "bfloat16", "bf16"),
        ({}, (8, 0), TOY, "bfloat16", "bf16"),
        ({}, (7, 0), REAL, "float16", "fp16"),
        (KAITO, None, TOY, "bfloat16", "bf16"),
        (KAITO, (9, 0), REAL, "bfloat16", "bf16"),
        (KAITO, (7, 0), REAL, "float16", "fp16"),
        ({"ModelConfig": {"torch_dtype": "float32"}}, (7, 5), REAL, "float32", "no"),
        ({**KAITO, "TrainingArguments": {"bf16": False}}, (8, 0), REAL, "bfloat16", "no"),
        ({"TrainingArguments": {"bf16": True}}, None, TOY, "float32", "bf16"),
        ({"TrainingArguments": {"fp16": True}}, None, TOY, "float32", "bf16"),
        ({"ModelConfig": {"torch_dtype": "half"}}, None, TOY, "bfloat16", "bf16"),
        ({"ModelConfig": {"torch_dtype": "auto"}}, (8, 0), REAL, "auto", "no"),
    ],
)
def test_what_is_loaded_and_computed_in(
    sections: dict[str, Any], capability: tuple[int, int] | None, parameters: int, weights: str, autocast: str
) -> None:
    chosen = choose_precision(TrainingConfig.model_validate(sections), capability=capability, parameters=parameters)
    assert (chosen.weights, chosen.autocast) == (weights, autocast)


def test_a_gpu_without_bfloat16_falls_back_with_one_warning() -> None:
    config = TrainingConfig.model_validate(
        {**KAITO, "QuantizationConfig": {"load_in_4bit": True, "bnb_4bit_compute_dtype": "bfloat16"}}
    )
    chosen = choose_precision(config, capability=(7, 0), parameters=REAL)
    assert len(chosen.warnings) == 1
    assert "7.0" in chosen.warnings[0]
    assert chosen.compute_4bit == "float16"
    assert not choose_precision(config, capability=(8, 0), parameters=REAL).warnings

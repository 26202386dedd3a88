"""Settings that hold further settings: what validation says of them, and where."""

from __future__ import annotations

from typing import Any

import pytest

from kaito.api.training import TrainingConfig
from kaito.api.training_rules import contradictions


def found(section: str, **keys: Any) -> list[tuple[str, str]]:
    config = TrainingConfig.model_validate({section: keys})
    return [(problem.field, problem.message) for problem in contradictions(config)]


def schedule(name: str, **options: Any) -> dict[str, Any]:
    return {"lr_scheduler_type": name, "lr_scheduler_kwargs": options}


@pytest.mark.parametrize(
    ("arguments", "key", "said"),
    [
        ({"logging_steps": 2.5}, "logging_steps", "a whole number"),
        ({"optim_args": "garbage"}, "optim_args", "key=value"),
        ({"optim_args": "zzz=1"}, "optim_args", "zzz is no option of adamw_torch; it has none"),
        ({"optim": "sgd", "optim_args": "momentum=much"}, "optim_args", "momentum of sgd: expected a number"),
        ({"optim": "sgd", "optim_args": "momentum=0.9,"}, "optim_args", "key=value"),
        ({"optim": "ademamix", "optim_args": "t_alpha=1.5"}, "optim_args", "expected a whole number"),
        ({"optim": "rmsprop_bnb", "optim_args": "alpha=0.9"}, "optim_args", "alpha is no option of rmsprop_bnb"),
        (schedule("cosine_with_restarts", num_cycles="many"), "lr_scheduler_kwargs", "whole number of at least 1"),
        (schedule("cosine", num_cycles=True), "lr_scheduler_kwargs", "expected a number of at least 0"),
        (schedule("polynomial", lr_end=1.0) | {"learning_rate": 0.1}, "lr_scheduler_kwargs", "1 is not below 0.1"),
        (schedule("warmup_stable_decay", num_decay_steps=1, decay_type="foo"), "lr_scheduler_kwargs", "1-sqrt"),
        (schedule("cosine_with_min_lr", min_lr=0.1, min_lr_rate=0.1), "lr_scheduler_kwargs", "not both"),
    ],
)
def test_an_option_that_would_fail_in_the_training_is_refused(arguments: dict[str, Any], key: str, said: str) -> None:
    ((field, message),) = found("TrainingArguments", **arguments)
    assert field == f"TrainingArguments.{key}"
    assert said in message


@pytest.mark.parametrize(
    "arguments",
    [
        {"logging_steps": 5.0},
        {"logging_steps": 0.25},
        {"optim": "sgd", "optim_args": "momentum=0.9, nesterov=True"},
        {"optim": "ademamix_8bit", "optim_args": "beta3=0.999,t_alpha=100"},
        schedule("polynomial", power=2, lr_end=1e-8) | {"learning_rate": 2e-4},
        schedule("cosine_with_min_lr", min_lr_rate=0.1, num_cycles=1.5),
        schedule("warmup_stable_decay", num_decay_steps=10, decay_type="1-sqrt", min_lr_ratio=0.1),
    ],
)
def test_an_option_that_the_library_takes_is_taken(arguments: dict[str, Any]) -> None:
    assert found("TrainingArguments", **arguments) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("target_modules", "(q_proj"),
        ("exclude_modules", "(q_proj"),
        ("rank_pattern", {"(": 4}),
        ("alpha_pattern", {"(": 4}),
        ("modules_to_save", ["("]),
    ],
)
def test_a_broken_pattern_of_module_names_is_refused(key: str, value: Any) -> None:
    ((field, message),) = found("LoraConfig", **{key: value})
    assert field == f"LoraConfig.{key}"
    assert "is no regular expression: " in message


def test_names_of_modules_in_a_list_and_good_patterns_are_taken() -> None:
    assert found("LoraConfig", target_modules=["q_proj"], rank_pattern={r"layers\.\d+\.q_proj": 4}) == []
    assert found("LoraConfig", target_modules="all-linear", exclude_modules=r".*\.(k|v)_proj") == []

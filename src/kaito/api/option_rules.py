"""Settings that hold further settings: options of schedules and optimizers, and patterns of module names."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from kaito.api.training import LoraConfig, TrainingConfig

ALL_LINEAR = "all-linear"


def _number(least: float = -math.inf, most: float = math.inf) -> Callable[[Any], str]:
    def problem(value: Any) -> str:
        fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if fits and least <= value <= most:
            return ""
        bounds = [f"of at least {least:g}"] * (least > -math.inf) + [f"of at most {most:g}"] * (most < math.inf)
        return " ".join(["expected a number", " and ".join(bounds)]).rstrip()

    return problem


def _whole(least: int) -> Callable[[Any], str]:
    def problem(value: Any) -> str:
        fits = isinstance(value, int) and not isinstance(value, bool) and value >= least
        return "" if fits else f"expected a whole number of at least {least}"

    return problem


def _one_of(*words: str) -> Callable[[Any], str]:
    return lambda value: "" if value in words else f"expected one of {', '.join(words)}"


_COSINE = {"num_cycles": _number(0)}
_MIN_LR = {**_COSINE, "min_lr": _number(0), "min_lr_rate": _number(0, 1)}
_SHAPE = _one_of("linear", "cosine", "1-sqrt")

SCHEDULE_OPTIONS: Mapping[str, Mapping[str, Callable[[Any], str]]] = {
    "linear": {},
    "constant": {},
    "constant_with_warmup": {},
    "cosine": _COSINE,
    "cosine_with_restarts": {"num_cycles": _whole(1)},
    "polynomial": {"lr_end": _number(0), "power": _number(0)},
    "inverse_sqrt": {"timescale": _number(1)},
    "cosine_with_min_lr": _MIN_LR,
    "cosine_warmup_with_min_lr": {**_MIN_LR, "warmup_lr_rate": _number(0, 1)},
    "warmup_stable_decay": {
        "num_decay_steps": _whole(1),
        "num_stable_steps": _whole(0),
        "warmup_type": _SHAPE,
        "decay_type": _SHAPE,
        "min_lr_ratio": _number(0, 1),
        "num_cycles": _number(0),
    },
}
"""Schedule -> option that `lr_scheduler_kwargs` may hold for it -> what is wrong with a value of it, or ""."""

POLYNOMIAL_END = 1e-7  # where lr_end is not said


def _read(kind: Callable[[str], Any], name: str) -> Callable[[str], str]:
    def problem(text: str) -> str:
        try:
            return "" if math.isfinite(kind(text)) else f"expected {name}"
        except ValueError:
            return f"expected {name}"

    return problem


_FLOAT, _INTEGER = _read(float, "a number"), _read(int, "a whole number")
_BOOL = _one_of("true", "false", "True", "False", "1", "0", "yes", "no")
_ADEMAMIX = {
    **dict.fromkeys(("beta1", "beta2", "beta3", "alpha", "eps"), _FLOAT),
    **dict.fromkeys(("t_alpha", "t_beta3"), _INTEGER),
}
OPTIMIZER_OPTIONS: Mapping[str, Mapping[str, Callable[[str], str]]] = {
    "sgd": {**dict.fromkeys(("momentum", "dampening", "weight_decay"), _FLOAT), "nesterov": _BOOL},
    "adagrad": dict.fromkeys(("lr_decay", "weight_decay", "eps"), _FLOAT),
    "rmsprop": {**dict.fromkeys(("momentum", "alpha", "eps", "weight_decay"), _FLOAT), "centered": _BOOL},
    "ademamix": _ADEMAMIX,
    "ademamix_8bit": _ADEMAMIX,
    "paged_ademamix_8bit": _ADEMAMIX,
    "paged_ademamix_32bit": _ADEMAMIX,
}
"""Optimizer -> option that `optim_args` may hold for it -> what is wrong with its text, or ""; others have none."""


def schedule_options(config: TrainingConfig) -> str:
    """What is wrong with `lr_scheduler_kwargs`, or ""."""
    name, given = config.training.lr_scheduler_type or "cosine", config.training.lr_scheduler_kwargs or {}
    known = SCHEDULE_OPTIONS[name]
    for key in sorted(given):
        if key not in known:
            return f"{key} is no option of {name}; it has " + (", ".join(sorted(known)) or "none")
        if given[key] is not None and (problem := known[key](given[key])):
            return f"{key} of {name}: {problem}, got {given[key]!r}"
    said = {key for key, value in given.items() if value is not None}
    if "min_lr" in known and len({"min_lr", "min_lr_rate"} & said) != 1:
        return f"{name} needs min_lr or min_lr_rate, and not both; add `lr_scheduler_kwargs: {{min_lr_rate: 0.1}}`"
    if "num_decay_steps" in known and "num_decay_steps" not in said:
        return f"{name} needs num_decay_steps; add `lr_scheduler_kwargs: {{num_decay_steps: …}}`"
    rate, end = config.training.learning_rate, given.get("lr_end", POLYNOMIAL_END)
    if name == "polynomial" and rate is not None and end is not None and not end < rate:
        return f"lr_end of polynomial must be below learning_rate, and {end:g} is not below {rate:g}"
    return ""


def optimizer_options(config: TrainingConfig) -> str:
    """What is wrong with `optim_args`, or ""."""
    name, text = config.training.optim or "adamw_torch", config.training.optim_args
    if not text:
        return ""
    known = OPTIMIZER_OPTIONS.get(name, {})
    for pair in text.replace(" ", "").split(","):
        key, equals, value = pair.partition("=")
        if not equals or not key or "=" in value:
            return f"expected key=value,key=value, got {pair!r}"
        if key not in known:
            return f"{key} is no option of {name}; it has " + (", ".join(sorted(known)) or "none")
        if problem := known[key](value):
            return f"{key} of {name}: {problem}, got {value!r}"
    return ""


def broken_pattern(key: str) -> Callable[[TrainingConfig], str]:
    """A rule: what is wrong with the regular expressions in `LoraConfig.KEY`, or ""."""

    def rule(config: TrainingConfig) -> str:
        for pattern in _patterns(config.lora, key):
            try:
                re.compile(pattern)
            except re.error as error:
                return f"{pattern!r} is no regular expression: {error}"
        return ""

    return rule


PATTERN_KEYS = (
    "target_modules",
    "exclude_modules",
    "modules_to_save",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
)


def _patterns(lora: LoraConfig, key: str) -> list[str]:
    """A list of `target_modules` or `exclude_modules` holds names, not patterns."""
    value = getattr(lora, key)
    if isinstance(value, str):
        return [] if value == ALL_LINEAR else [value]
    return list(value or ()) if key not in ("target_modules", "exclude_modules") else []

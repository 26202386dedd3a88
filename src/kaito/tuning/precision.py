"""In which number types a run loads its weights and computes. Pure: device facts come in, a choice goes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kaito.api.training import TrainingConfig

Autocast = Literal["no", "bf16", "fp16"]

TOY_PARAMETERS = 50_000_000  # below this, float32 is faster on a CPU than bfloat16 (measured), and no less exact
AMPERE = (8, 0)  # the first compute capability with bfloat16

_LONG = {"no": "", "bf16": "bfloat16", "fp16": "float16"}
_NAMES = {"half": "float16", "float": "float32", "double": "float64"}


@dataclass(frozen=True, slots=True)
class Precision:
    """`weights`: the base's type by torch's name, or "auto" (the checkpoint's own). `warnings`: what was changed."""

    weights: str
    autocast: Autocast
    compute_4bit: str
    warnings: tuple[str, ...] = ()


def choose_precision(config: TrainingConfig, *, capability: tuple[int, int] | None, parameters: int) -> Precision:
    """What the configuration asks for where the device can, else the nearest type that it can.

    `capability`: compute capability of the GPU, None on a CPU. `parameters`: of the base model.
    """
    said = config.model.torch_dtype
    weights = _NAMES.get(said, said) if said else _default_weights(capability, parameters)
    autocast = _autocast(config, weights)
    asked = config.quantization.bnb_4bit_compute_dtype
    compute_4bit = _NAMES.get(asked, asked) if asked else weights
    warnings = []
    if capability is not None and capability < AMPERE and "bfloat16" in (weights, compute_4bit, _LONG[autocast]):
        weights, compute_4bit, autocast = _replaced(weights, compute_4bit, autocast, "bfloat16", "float16")
        warnings.append(
            f"bfloat16 needs a GPU of compute capability 8.0; this one has {capability[0]}.{capability[1]}:"
            " float16 is used instead"
        )
    if capability is None and "float16" in (weights, compute_4bit, _LONG[autocast]):
        weights, compute_4bit, autocast = _replaced(weights, compute_4bit, autocast, "float16", "bfloat16")
        warnings.append("float16 is not trained on a CPU: bfloat16 is used instead")
    return Precision(weights, autocast, compute_4bit, tuple(warnings))


def _default_weights(capability: tuple[int, int] | None, parameters: int) -> str:
    if capability is None:
        return "float32" if parameters < TOY_PARAMETERS else "bfloat16"
    return "bfloat16" if capability >= AMPERE else "float16"


def _autocast(config: TrainingConfig, weights: str) -> Autocast:
    """Mixed precision as asked for; where nothing is said, that of the weights, as KAITO's trainer does."""
    if config.training.fp16:
        return "fp16"
    if config.training.bf16:
        return "bf16"
    choice = _of_weights(weights)
    refused = {"bf16": config.training.bf16, "fp16": config.training.fp16}.get(choice) is False
    return "no" if refused else choice


def _replaced(
    weights: str, compute_4bit: str, autocast: Autocast, lacking: str, instead: str
) -> tuple[str, str, Autocast]:
    """The three types with `instead` wherever they are `lacking`; float16 is never trained without a scaled loss."""
    weights = instead if weights == lacking else weights
    compute_4bit = instead if compute_4bit == lacking else compute_4bit
    if _LONG[autocast] == lacking or weights == "float16":
        autocast = _of_weights(instead)
    return weights, compute_4bit, autocast


def _of_weights(weights: str) -> Autocast:
    if weights == "bfloat16":
        return "bf16"
    return "fp16" if weights == "float16" else "no"

"""A results folder as a finished training leaves it, with what must not leave the machine beside it."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path

WEIGHTS = random.Random(3).randbytes(2_500_000)
PUBLISHED = (
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "chat_template.jinja",
    "evaluation.json",
    "metrics.jsonl",
    "tokenizer_config.json",
)


def write_results(folder: Path, weights: bytes = WEIGHTS) -> Path:
    """A finished results folder, with what must not leave the machine beside it."""
    (folder / "checkpoint-10").mkdir(parents=True)
    files: Mapping[str, bytes] = {
        "adapter_config.json": json.dumps(
            {"base_model_name_or_path": "org/base", "revision": "c0ffee", "r": 8, "lora_alpha": 16, "peft_type": "LORA"}
        ).encode(),
        "adapter_model.safetensors": weights,
        "README.md": b"# An adapter\n",
        "metrics.jsonl": b'{"step": 1}\n',
        "evaluation.json": b"{}",
        "chat_template.jinja": b"{{ messages }}",
        "tokenizer_config.json": b"{}",
        "fine_tuning_completed.txt": b"done\n",
        "checkpoint-10/optimizer.pt": b"not for others",
        "train.jsonl": b"not for others",
        ".hidden.json": b"not for others",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder

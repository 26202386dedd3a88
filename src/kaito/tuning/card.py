"""The files of the results folder: the adapter, where it comes from, how it was made, and what it is worth."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from kaito.api.training import TrainingConfig, dump_training_config
from kaito.tuning.evaluation import HeldOutLoss

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
CLOCK_VALUES = frozenset({"time", "tokens_per_second"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is told of a finished run. `best_step`: of the weights that were kept; losses are per trained token."""

    repo: str
    revision: str
    method: str
    config: TrainingConfig
    data_digest: str
    rows: int
    order: str
    steps: int
    best_step: int
    loss: float | None
    eval_loss: float | None
    base: HeldOutLoss | None
    note: str = ""


def write_files(
    folder: Path,
    outcome: Outcome,
    *,
    adapter_config: Any,
    weights: dict[str, torch.Tensor],
    chat_template: str | None,
    metrics: Path,
) -> None:
    """All files of the results but the completion marker. Equal runs give an equal adapter, byte for byte."""
    save_file(weights, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    (folder / ADAPTER_WEIGHTS).chmod(0o644)  # safetensors makes it 0600: a server with another user could not read it
    (folder / ADAPTER_CONFIG).write_text(adapter_config_text(adapter_config), encoding="utf-8")
    (folder / "training_config.resolved.yaml").write_text(dump_training_config(outcome.config), encoding="utf-8")
    (folder / "README.md").write_text(model_card(outcome), encoding="utf-8")
    if chat_template is not None:
        (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
    if outcome.base is not None:
        evaluation = {
            "base_loss": outcome.base.loss,
            "loss": outcome.eval_loss,
            "best_step": outcome.best_step,
            "rows": outcome.base.rows,
            "tokens": outcome.base.tokens,
        }
        (folder / "evaluation.json").write_text(json.dumps(evaluation, indent=2) + "\n", encoding="utf-8")
    (folder / "metrics.jsonl").write_text(loss_curve(metrics), encoding="utf-8")


def loss_curve(metrics: Path) -> str:
    """The run's metrics without what a clock said: the same training shall give the same files."""
    lines = []
    for line in metrics.read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        lines.append(json.dumps({key: value for key, value in values.items() if key not in CLOCK_VALUES}) + "\n")
    return "".join(lines)


def adapter_config_text(config: Any) -> str:
    """peft's `adapter_config.json`. Sets are written in order: peft's own order changes from process to process."""
    values = {**config.to_dict(), "inference_mode": True}
    ordered = {key: sorted(value) if isinstance(value, set) else value for key, value in values.items()}
    return json.dumps(ordered, indent=2, sort_keys=True) + "\n"


def model_card(outcome: Outcome) -> str:
    """README.md: what this adapter is, for a person and for the hub."""
    lora = outcome.config.lora
    rows = [
        ("base model", outcome.repo),
        ("base revision", outcome.revision or "not known"),
        ("method", outcome.method),
        ("rank, alpha, dropout", f"{lora.r}, {lora.lora_alpha}, {lora.lora_dropout}"),
        (
            "target modules",
            lora.target_modules if isinstance(lora.target_modules, str) else ", ".join(lora.target_modules or []),
        ),
        ("training rows", f"{outcome.rows:,}"),
        ("data digest", outcome.data_digest or "not given"),
        ("row order", outcome.order),
        ("optimizer steps", f"{outcome.steps:,} (kept: step {outcome.best_step:,})"),
        ("learning rate", f"{outcome.config.training.learning_rate}, {outcome.config.training.lr_scheduler_type}"),
        ("training loss", _shown(outcome.loss)),
    ]
    if outcome.note:
        rows.append(("end", outcome.note))
    if outcome.base is not None:
        rows.append(("held-out rows", f"{outcome.base.rows:,}"))
        rows.append(("held-out loss, base", _shown(outcome.base.loss)))
        rows.append(("held-out loss, with this adapter", _shown(outcome.eval_loss)))
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"""---
base_model: {json.dumps(outcome.repo)}
library_name: peft
tags: [lora, kaito]
---

# Adapter for {outcome.repo}

A LoRA adapter. It works with the base model named here and no other. Losses are per trained token.

| | |
|---|---|
{table}

Load it:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained({_base_argument(outcome)})
model = PeftModel.from_pretrained(base, "FOLDER_OF_THIS_FILE")
```

`chat_template.jinja` is the template it was trained with; `training_config.resolved.yaml` has every setting.
"""


def _base_argument(outcome: Outcome) -> str:
    """What names the base model in code: a hub's id with its commit; any other lies in a folder of the reader's."""
    if re.fullmatch(r"[\w.-]+/[\w.-]+", outcome.repo):
        return f"{outcome.repo!r}, revision={outcome.revision or 'main'!r}"
    return '"FOLDER_OF_THE_BASE_MODEL"'


def _shown(loss: float | None) -> str:
    return "not measured" if loss is None else f"{loss:.4f}"

"""What is learnt when nothing is said, against KAITO's settings: `python benchmarks/defaults.py [--rounds N]`.

Both sides are the same program on the same rows of `examples/demo/data/questions.jsonl`, with the demo base model, the
same batch and so the same steps; the loss is on the answers alone on both. Only settings differ:

- kaito: what `kaito plan` chooses for a configuration that says nothing.
- configmap: the values that KAITO's shipped ConfigMaps and its trainer's defaults come to (v0.12): learning rate 2e-5
  falling linearly, r 8, alpha 8, and the modules of peft's table for this architecture.
- batch 1: the same at KAITO's own batch of one row, so with many more steps.

A round starts each side once, in turns, with a seed of its own. How to read it: the held-out loss per token of an
answer, after each epoch, on rows that no side trained on; less is better.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

from kaito.api.training import TrainingConfig, dump_training_config
from kaito.datasets.settings import read_context
from kaito.local.device import find_device
from kaito.plan.settings import Basis, choose, choose_batch, said

DATA = Path(__file__).resolve().parent.parent / "examples" / "demo" / "data"
MODEL = Path(str(resources.files("kaito.hub") / "builtin" / "demo"))
LARGEST_MICRO_BATCH = 32  # the demo model is small: memory bounds nothing
CONFIGMAP: dict[str, dict[str, Any]] = {
    "LoraConfig": {"r": 8, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": ["q_proj", "v_proj"]},
    "TrainingArguments": {
        "learning_rate": 2e-5,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0,
        "max_grad_norm": 1.0,
    },
}
BATCH_1 = {
    **CONFIGMAP,
    "TrainingArguments": {
        **CONFIGMAP["TrainingArguments"],
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 1,
    },
}
SIDES: dict[str, dict[str, dict[str, Any]]] = {"kaito": {}, "configmap": CONFIGMAP, "batch 1": BATCH_1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="how often each side trains (3)")
    parser.add_argument("--epochs", type=int, default=3, metavar="N", help="times each row is trained on (3)")
    parser.add_argument("--methods", nargs="+", choices=["lora", "qlora"], default=["lora", "qlora"])
    options = parser.parse_args()
    if min(options.rounds, options.epochs) < 1:
        parser.error("rounds and epochs begin at 1")
    os.environ["HF_HUB_OFFLINE"] = "1"
    rows = sum(1 for _ in (DATA / "questions.jsonl").open(encoding="utf-8"))
    print(
        f"{rows} rows, {options.epochs} epochs; {find_device().name}; held-out loss per token, median of the rounds\n"
    )
    for method in options.methods:
        curves: dict[str, list[list[float]]] = {side: [] for side in SIDES}
        for seed in range(options.rounds):
            for side in SIDES if seed % 2 == 0 else reversed(SIDES):
                config = build_config(method, rows, SIDES[side], epochs=options.epochs, seed=seed)
                curves[side].append(train(config))
        report(method, curves)


def build_config(
    method: str, rows: int, sections: dict[str, dict[str, Any]], *, epochs: int, seed: int
) -> TrainingConfig:
    """What the plan makes of the sections."""
    from kaito.tuning.model import count_parameters

    basis = Basis(
        method,
        parameters=count_parameters(MODEL),
        context=read_context(MODEL) or 0,
        rows=rows,
        device=find_device().kind,
    )
    arguments = {**sections.get("TrainingArguments", {}), "num_train_epochs": epochs, "seed": seed}
    asked = TrainingConfig.model_validate({**sections, "TrainingArguments": arguments})
    chosen = choose(basis, said(("the benchmark", asked)))
    choose_batch(chosen, basis, LARGEST_MICRO_BATCH)
    return chosen.config()


def train(config: TrainingConfig) -> list[float]:
    """The held-out loss of the base, and after each epoch."""
    from kaito.tuning.train import Request
    from kaito.tuning.train import train as train_adapter

    with tempfile.TemporaryDirectory(prefix="kaito-benchmark-") as name, contextlib.redirect_stdout(io.StringIO()):
        folder = Path(name)
        (folder / "config.yaml").write_text(dump_training_config(config), encoding="utf-8")
        train_adapter(
            Request(
                config=folder / "config.yaml",
                data=DATA,
                model=MODEL,
                checkpoints=folder / "checkpoints",
                results=folder / "results",
                metrics=folder / "metrics.jsonl",
                repo="builtin:demo",
                revision="",
            )
        )
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line["eval_loss"] for line in lines if "eval_loss" in line]


def report(method: str, curves: dict[str, list[list[float]]]) -> None:
    epochs = len(next(iter(curves.values()))[0])
    print(f"{method:10}" + "".join(f"{'base' if epoch == 0 else f'epoch {epoch}':>9}" for epoch in range(epochs)))
    for side, runs in curves.items():
        medians = [statistics.median(losses) for losses in zip(*runs, strict=True)]
        last = [losses[-1] for losses in runs]
        print(f"{side:10}" + "".join(f"{loss:9.3f}" for loss in medians) + f"   ({min(last):.3f} to {max(last):.3f})")
    print(flush=True)


if __name__ == "__main__":
    main()

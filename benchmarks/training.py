"""Kaito's trainer against the way KAITO trains: `python benchmarks/training.py [--rounds 3] [--rows N] [--epochs N]`.

Both sides fine-tune the demo base model on the same rows of `examples/demo/data/questions.jsonl`: equal LoRA,
epochs, schedule, number type. A round starts each side once, one after the other, as a process of its own; rounds take
turns in which side goes first, and each has its own seed.

- kaito: `python -m kaito.tuning`, with the batch that `kaito plan` chooses. The loss is on the answers alone.
- plain: the shape of KAITO's training (v0.12): transformers' `Trainer`, one row a step, and
  `DataCollatorForLanguageModeling(mlm=False)`, so that the loss is on all tokens. KAITO itself adds TRL and gradient
  checkpointing on top, and is slower for it; neither is here.

A step of one row and one of several call for different learning rates: each side has the one of 0.001, 0.002 and 0.003
with which its held-out loss was least. `--kaito-rate` and `--plain-rate` set others.

How to read it. `training s` runs from the first step's begin to the last step's end; reading rows, imports and loading
the model come before it (`start s`), saving the adapter after it. `CPU s` is of the whole process.
The times of one side differ between rounds where neighbours share the machine: look at the ratios' spread before
believing their median. Tokens are those of the rows, without padding, so both sides have as many. The held-out loss is
measured by one program for both, on the answers' tokens of rows that neither side saw; less is better, and two medians
within each other's spread are equal. A ratio is that of one round: the median, and the least and the most.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from kaito.api.training import TrainingConfig, dump_training_config, load_training_config
from kaito.datasets.settings import read_context
from kaito.local.device import find_device
from kaito.plan.settings import Basis, choose, choose_batch, said
from kaito.tuning.data import load_examples
from kaito.tuning.threads import available_cpus

ROOT = Path(__file__).resolve().parent.parent
QUESTIONS = ROOT / "examples" / "demo" / "data" / "questions.jsonl"
MODEL = Path(str(resources.files("kaito.hub") / "builtin" / "demo"))
TRAIN, HELD_OUT, CONFIG = "train", "held-out", "training_config.yaml"
HELD_OUT_EVERY = 10  # rows
LARGEST_MICRO_BATCH = 32  # the demo model is small: memory bounds nothing
SETTINGS: dict[str, dict[str, Any]] = {
    "LoraConfig": {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"},
    "ModelConfig": {"torch_dtype": "float32"},
    "TrainingArguments": {"lr_scheduler_type": "cosine", "warmup_steps": 0.03},
    "DatasetConfig": {"train_test_split": 1.0},  # what is held out lies elsewhere, for both sides
}


@dataclass(frozen=True, slots=True)
class Run:
    """One process. Seconds: `start` until the first step begins, `training` all steps, `whole` until its exit."""

    start: float
    training: float
    whole: float
    cpu: float
    steps: int
    adapter: Path


# --- the parent: prepares, runs both sides, compares ----------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="how often each side trains (3)")
    parser.add_argument("--rows", type=int, metavar="N", help="rows to train on (all but each tenth)")
    parser.add_argument("--epochs", type=float, default=5.0, metavar="N", help="times each row is trained on (5)")
    parser.add_argument("--kaito-rate", type=float, default=3e-3, metavar="X", help="learning rate of kaito (0.003)")
    parser.add_argument("--plain-rate", type=float, default=2e-3, metavar="X", help="learning rate of plain (0.002)")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        what, *paths = options.child
        CHILDREN[what](*map(Path, paths))
        return
    if min(options.rounds, 1 if options.rows is None else options.rows, options.epochs) < 1:
        parser.error("rounds, rows and epochs begin at 1")
    with tempfile.TemporaryDirectory(prefix="kaito-benchmark-") as folder:
        rates = {"kaito": options.kaito_rate, "plain": options.plain_rate}
        compare(Path(folder), rates, rounds=options.rounds, rows=options.rows, epochs=options.epochs)


def compare(root: Path, rates: dict[str, float], *, rounds: int, rows: int | None, epochs: float) -> None:
    began = time.monotonic()
    count = write_rows(root, rows)
    configs = {side: build_config(count, epochs, rate) for side, rate in rates.items()}
    tokens, answer_tokens = describe(root, configs)
    runs: dict[str, list[Run]] = {side: [] for side in SIDES}
    print("round  side   start s  training s  whole s   CPU s  steps  tokens/s  answer tokens/s")
    for seed in range(rounds):
        for side in SIDES if seed % 2 == 0 else reversed(SIDES):
            folder = root / f"{side}-{seed}"
            folder.mkdir()
            settings = configs[side].training.model_copy(update={"seed": seed})
            seeded = configs[side].model_copy(update={"training": settings})
            (folder / CONFIG).write_text(dump_training_config(seeded), encoding="utf-8")
            run = SIDES[side](folder, root / TRAIN)
            runs[side].append(run)
            print(
                f"{seed + 1:5}  {side}  {run.start:7.2f}  {run.training:10.2f}  {run.whole:7.2f}  {run.cpu:6.2f}"
                f"  {run.steps:5}  {tokens / run.training:8.0f}  {answer_tokens / run.training:15.0f}",
                flush=True,
            )
    report_losses(root, runs)
    pairs = list(zip(runs["plain"], runs["kaito"], strict=True))
    print("\nhow many times as long plain took as kaito")
    print(f"  training       {spread([plain.training / kaito.training for plain, kaito in pairs], 2)}")
    print(f"  whole process  {spread([plain.whole / kaito.whole for plain, kaito in pairs], 2)}")
    print(f"  its CPU time   {spread([plain.cpu / kaito.cpu for plain, kaito in pairs], 2)}")
    print(f"\ndone in {time.monotonic() - began:.0f} s, load average at the end {load_average()}")


def write_rows(root: Path, rows: int | None) -> int:
    """Put the rows into the folders `TRAIN` and `HELD_OUT`. Returns how many there are to train on."""
    lines = QUESTIONS.read_text(encoding="utf-8").splitlines()
    train = [line for index, line in enumerate(lines) if index % HELD_OUT_EVERY][:rows]
    for name, chosen in ((TRAIN, train), (HELD_OUT, lines[::HELD_OUT_EVERY])):
        (root / name).mkdir()
        (root / name / "rows.jsonl").write_text("\n".join(chosen) + "\n", encoding="utf-8")
    return len(train)


def build_config(rows: int, epochs: float, rate: float) -> TrainingConfig:
    """Every setting of one side. The batch, which is kaito's alone, is the one that `kaito plan` chooses."""
    basis = Basis("lora", context=read_context(MODEL) or 0, rows=rows, device=find_device().kind)
    arguments = {**SETTINGS["TrainingArguments"], "num_train_epochs": epochs, "learning_rate": rate}
    asked = TrainingConfig.model_validate({**SETTINGS, "TrainingArguments": arguments})
    chosen = choose(basis, said(("the benchmark", asked)))
    choose_batch(chosen, basis, LARGEST_MICRO_BATCH)
    return chosen.config()


def describe(root: Path, configs: dict[str, TrainingConfig]) -> tuple[float, float]:
    """Print what is compared, and on what. Returns the tokens that a run sees, and those of answers among them."""
    kaito, plain = configs["kaito"].training, configs["plain"].training
    examples = load_examples(root / TRAIN, MODEL, configs["kaito"]).examples
    tokens = sum(len(example.input_ids) for example in examples)
    answers = sum(int(example.trained[1:].sum()) for example in examples)
    batch = f"{kaito.per_device_train_batch_size} x {kaito.gradient_accumulation_steps}"
    lora, epochs = configs["kaito"].lora, kaito.num_train_epochs or 0.0
    versions = ", ".join(
        f"{name} {metadata.version(name)}" for name in ("kaito", "torch", "transformers", "peft", "accelerate")
    )
    print(
        f"kaito: python -m kaito.tuning. {batch} rows a step, learning rate {kaito.learning_rate:g},"
        f" loss on the {answers:,} tokens of answers\n"
        f"plain: transformers' Trainer, used as KAITO uses it. 1 row a step, learning rate {plain.learning_rate:g},"
        f" loss on all {tokens - len(examples):,} tokens\n"
        f"both:  {len(examples)} rows of {tokens:,} tokens, {epochs:g} epochs,"
        f" LoRA r {lora.r}, alpha {lora.lora_alpha}, {lora.target_modules},"
        f" {kaito.lr_scheduler_type} schedule, {configs['kaito'].model.torch_dtype}\n"
        f"here:  {find_device().name}, {available_cpus()} threads, load average {load_average()} at the start;"
        f" Python {sys.version.split()[0]}, {versions}\n"
        "start s: imports, reading the rows, loading the model\n"
    )
    return tokens * epochs, answers * epochs


def run_kaito(folder: Path, data: Path) -> Run:
    """The program as a user's run starts it; its times are those in its metrics.jsonl."""
    argv: list[str | Path] = ["-m", "kaito.tuning", "--config", folder / CONFIG, "--data", data, "--model", MODEL]
    argv += ["--checkpoints", folder / "checkpoints", "--results", folder / "adapter", "--repo", "builtin:demo"]
    started, ended, cpu = run_python([*argv, "--metrics", folder / "metrics.jsonl"], folder / "log")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if "loss" in line]
    first, last = steps[0], steps[-1]
    begin = first["time"] - first["tokens"] / first["tokens_per_second"]
    return Run(begin - started, last["time"] - begin, ended - started, cpu, last["step"], folder / "adapter")


def run_plain(folder: Path, data: Path) -> Run:
    started, ended, cpu = run_python([Path(__file__), "--child", "plain", folder, data], folder / "log")
    times = json.loads((folder / "times.json").read_text(encoding="utf-8"))
    training = times["end"] - times["begin"]
    return Run(times["begin"] - started, training, ended - started, cpu, times["steps"], folder / "adapter")


SIDES: dict[str, Callable[[Path, Path], Run]] = {"kaito": run_kaito, "plain": run_plain}


def report_losses(root: Path, runs: dict[str, list[Run]]) -> None:
    """The held-out losses of the base and of all adapters, measured by one process."""
    adapters = [run.adapter for side in SIDES for run in runs[side]]
    run_python([Path(__file__), "--child", "measure", root, *adapters], root / "log")
    losses: dict[str, float] = json.loads((root / "losses.json").read_text(encoding="utf-8"))
    print(f"\nheld-out loss of an answer's token\n  base model     {losses['base']:.4f}")
    for side in SIDES:
        print(f"  {side}          {spread([losses[str(run.adapter)] for run in runs[side]], 4)}")


def run_python(argv: Sequence[str | Path], log: Path) -> tuple[float, float, float]:
    """Start and end of the process in seconds since 1970, and the CPU seconds it took. Exits where it fails."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(available_cpus()),
        "OMP_WAIT_POLICY": "PASSIVE",  # kaito sets it for itself; plain shall not wait in a busy loop either
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    with log.open("wb") as output:
        started = time.time()
        process = subprocess.Popen([sys.executable, *argv], env=environment, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        ended = time.time()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(map(str, argv))} failed:\n{log.read_text(encoding='utf-8', errors='replace')}")
    return started, ended, usage.ru_utime + usage.ru_stime


def spread(values: Sequence[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def load_average() -> str:
    return f"{os.getloadavg()[0]:.1f}"


# --- the children: each in a process of its own ---------------------------------------------------------------------


def train_plain(folder: Path, data: Path) -> None:
    """KAITO's shape of training: plain Trainer, a row a step, every token a label."""
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DataCollatorForLanguageModeling,
        Trainer,
        TrainerCallback,
        TrainingArguments,
        set_seed,
    )

    settings = load_training_config(folder / CONFIG)
    lora, training = settings.lora, settings.training
    examples = load_examples(data, MODEL, settings).examples
    rows = [{"input_ids": example.input_ids.tolist()} for example in examples]
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    base = AutoModelForCausalLM.from_pretrained(MODEL, dtype=settings.model.torch_dtype)
    base.config.use_cache = False
    set_seed(training.seed or 0)
    adapted = get_peft_model(
        base,
        LoraConfig(
            task_type="CAUSAL_LM",
            r=lora.r,
            lora_alpha=lora.lora_alpha,
            lora_dropout=lora.lora_dropout,
            target_modules=lora.target_modules,
        ),
    )
    times: dict[str, float] = {}

    class Clock(TrainerCallback):  # type: ignore[misc]  # transformers ships no types
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            times["begin"] = time.time()

        def on_train_end(self, _arguments: Any, state: Any, *_: Any, **__: Any) -> None:
            times.update(end=time.time(), steps=state.global_step)

    trainer = Trainer(
        adapted,
        TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=1,
            num_train_epochs=training.num_train_epochs,
            learning_rate=training.learning_rate,
            lr_scheduler_type=training.lr_scheduler_type,
            warmup_steps=training.warmup_steps,
            seed=training.seed,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=rows,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        callbacks=[Clock()],
    )
    trainer.train()
    adapted.save_pretrained(folder / "adapter")
    (folder / "times.json").write_text(json.dumps(times), encoding="utf-8")


def measure_losses(root: Path, *adapters: Path) -> None:
    """The loss of the base and of each adapter on the answers of the held-out rows, all by the same code."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from kaito.tuning.evaluation import held_out_loss

    examples = load_examples(root / HELD_OUT, MODEL, TrainingConfig()).examples

    def loss_of(adapter: Path | None) -> float:
        model = AutoModelForCausalLM.from_pretrained(MODEL, dtype="float32")
        if adapter is not None:
            model = PeftModel.from_pretrained(model, adapter)
        loss = held_out_loss(model, examples, batch_size=8, pad_token_id=0, device=torch.device("cpu"), autocast="no")
        assert loss is not None  # nothing asks it to stop
        return loss.loss

    losses = {"base": loss_of(None), **{str(adapter): loss_of(adapter) for adapter in adapters}}
    (root / "losses.json").write_text(json.dumps(losses), encoding="utf-8")


CHILDREN: dict[str, Callable[..., None]] = {"plain": train_plain, "measure": measure_losses}

if __name__ == "__main__":
    main()

"""Kaito's trainer, packed and padded, against the way KAITO trains:
`python benchmarks/training.py [--rounds N] [--rows N] [--epochs N] [--batch N] [--micro N]`.

All sides fine-tune the demo base model on the same rows: conversations made of `examples/demo/data/questions.jsonl`,
most of them short and some ten times as long (log-normal; half of them below 100 tokens, the longest of 900): equal
LoRA, epochs, schedule, number type. A round starts each side once, one after the other, as a process of its own;
rounds take turns in which side goes first, and each has its own seed.

- planned: `python -m kaito.tuning` with the rows a step that `kaito plan` chooses: one, where rows are few. The loss is
  on the answers alone.
- plain: the shape of KAITO's training (v0.12): transformers' `Trainer`, one row a step, and
  `DataCollatorForLanguageModeling(mlm=False)`, so that the loss is on all tokens. KAITO itself adds TRL and gradient
  checkpointing on top, and is slower for it; neither is here.
- packed: as planned, with the larger step of larger data: `--batch` rows, packed.
- padded: the same with `padding_free: false`: the same rows in each step, so the same loss but for rounding.

A step of one row and one of several call for different learning rates: `--kaito-rate`, `--plain-rate`.

How to read it. `training s` runs from the first step's begin to the last step's end; reading rows, imports and loading
the model come before it (`start s`), saving the adapter after it. `CPU s` is of the whole process.
The times of one side differ between rounds where neighbours share the machine: look at the ratios' spread before
believing their median. Tokens are those of the rows, without padding, so all sides have as many. The held-out loss is
measured by one program for all, on the answers' tokens of questions that no side saw; less is better. Plain is compared
with planned, and padded with packed. Not with each other: fewer and larger steps on as many rows are quicker and learn
less, which tokens a second don't show. A ratio is that of one round: the median, the least and the most.
"""

from __future__ import annotations

import argparse
import json
import math
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

import numpy as np
from tokenizers import Tokenizer

from kaito.api.training import TrainingConfig, dump_training_config, load_training_config
from kaito.datasets.settings import read_context
from kaito.local.device import find_device
from kaito.plan.settings import Basis, choose, choose_batch, said
from kaito.tuning.threads import available_cpus
from kaito.tuning.tokenised import load_examples

ROOT = Path(__file__).resolve().parent.parent
QUESTIONS = ROOT / "examples" / "demo" / "data" / "questions.jsonl"
MODEL = Path(str(resources.files("kaito.hub") / "builtin" / "demo"))
TRAIN, HELD_OUT, CONFIG = "train", "held-out", "training_config.yaml"
HELD_OUT_EVERY = 10  # questions
LARGEST_MICRO_BATCH = 32  # the demo model is small: memory bounds nothing
MEDIAN_TOKENS, SPREAD, LONGEST = 105, 1.0, 1015  # of a conversation: log-normal, `SPREAD` of its logarithm
TURN_TOKENS = 4  # that the template puts around a turn
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
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="how often each side trains (2)")
    parser.add_argument("--rows", type=int, default=192, metavar="N", help="rows to train on (192)")
    parser.add_argument("--epochs", type=float, default=1.0, metavar="N", help="times each row is trained on (1)")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="rows of a step of kaito (8)")
    parser.add_argument("--micro", type=int, default=4, metavar="N", help="of them in a padded forward (4)")
    parser.add_argument("--kaito-rate", type=float, default=3e-3, metavar="X", help="learning rate of kaito (0.003)")
    parser.add_argument("--plain-rate", type=float, default=2e-3, metavar="X", help="learning rate of plain (0.002)")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        what, *paths = options.child
        CHILDREN[what](*map(Path, paths))
        return
    if min(options.rounds, options.rows, options.epochs, options.batch, options.micro) < 1:
        parser.error("rounds, rows, epochs, batch and micro begin at 1")
    if options.batch % options.micro:
        parser.error("batch is a multiple of micro")
    arguments = {
        "num_train_epochs": options.epochs,
        "learning_rate": options.kaito_rate,
    }
    batch = {
        "per_device_train_batch_size": options.micro,
        "gradient_accumulation_steps": options.batch // options.micro,
    }
    configs = {
        "planned": build_config(options.rows, arguments),
        "plain": build_config(options.rows, {**arguments, "learning_rate": options.plain_rate}),
        "packed": build_config(options.rows, {**arguments, **batch}),
        "padded": build_config(options.rows, {**arguments, **batch, "padding_free": False}),
    }
    with tempfile.TemporaryDirectory(prefix="kaito-benchmark-") as folder:
        compare(Path(folder), configs, rounds=options.rounds, rows=options.rows)


def compare(root: Path, configs: dict[str, TrainingConfig], *, rounds: int, rows: int) -> None:
    began = time.monotonic()
    write_rows(root, rows)
    tokens, answer_tokens = describe(root, configs)
    runs: dict[str, list[Run]] = {side: [] for side in SIDES}
    print("round  side     start s  training s  whole s   CPU s  steps  tokens/s  answer tokens/s")
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
                f"{seed + 1:5}  {side:7}  {run.start:7.2f}  {run.training:10.2f}  {run.whole:7.2f}  {run.cpu:6.2f}"
                f"  {run.steps:5}  {tokens / run.training:8.0f}  {answer_tokens / run.training:15.0f}",
                flush=True,
            )
    report_losses(root, runs)
    for other, ours in (("plain", "planned"), ("padded", "packed")):
        pairs = list(zip(runs[other], runs[ours], strict=True))
        print(f"\nhow many times as long {other} took as {ours}")
        print(f"  training       {spread([slow.training / fast.training for slow, fast in pairs], 2)}")
        print(f"  whole process  {spread([slow.whole / fast.whole for slow, fast in pairs], 2)}")
        print(f"  its CPU time   {spread([slow.cpu / fast.cpu for slow, fast in pairs], 2)}")
    print(f"\ndone in {time.monotonic() - began:.0f} s, load average at the end {load_average()}")


def write_rows(root: Path, rows: int) -> None:
    """Put conversations to train on into the folder `TRAIN`, and questions that are in none of them into `HELD_OUT`."""
    lines = QUESTIONS.read_text(encoding="utf-8").splitlines()
    asked = [json.loads(line)["messages"] for index, line in enumerate(lines) if index % HELD_OUT_EVERY]
    for name, chosen in ((TRAIN, build_conversations(asked, rows)), (HELD_OUT, lines[::HELD_OUT_EVERY])):
        (root / name).mkdir()
        (root / name / "rows.jsonl").write_text("\n".join(chosen) + "\n", encoding="utf-8")


def build_conversations(asked: Sequence[list[dict[str, str]]], rows: int) -> list[str]:
    """Lines of `rows` conversations, each of as many questions as come nearest to its length, and of one at least."""
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    sizes = [
        sum(len(tokenizer.encode(turn["content"], add_special_tokens=False).ids) + TURN_TOKENS for turn in turns)
        for turns in asked
    ]
    random = np.random.default_rng(7)
    lines = []
    for row in range(rows):
        deviation = statistics.NormalDist().inv_cdf((row + 0.5) / rows)
        wanted = min(LONGEST, MEDIAN_TOKENS * math.exp(SPREAD * deviation))
        messages: list[dict[str, str]] = []
        size = 0
        for index in random.permutation(len(asked)):
            if messages and size + sizes[index] / 2 > wanted:
                break
            messages += asked[index]
            size += sizes[index]
        lines.append(json.dumps({"messages": messages}))
    return lines


def build_config(rows: int, arguments: dict[str, Any]) -> TrainingConfig:
    """Every setting of one side. `arguments`: of TrainingArguments, besides those that all sides share."""
    basis = Basis("lora", context=read_context(MODEL) or 0, rows=rows, device=find_device().kind)
    asked = {**SETTINGS, "TrainingArguments": {**SETTINGS["TrainingArguments"], **arguments}}
    chosen = choose(basis, said(("the benchmark", TrainingConfig.model_validate(asked))))
    choose_batch(chosen, basis, LARGEST_MICRO_BATCH)
    return chosen.config()


def describe(root: Path, configs: dict[str, TrainingConfig]) -> tuple[float, float]:
    """Print what is compared, and on what. Returns the tokens that a run sees, and those of answers among them."""
    packed = configs["packed"]
    examples = load_examples(root / TRAIN, MODEL, packed).examples
    lengths = [len(example.input_ids) for example in examples]
    tokens = sum(lengths)
    answers = sum(int(example.trained[1:].sum()) for example in examples)
    lora, epochs = packed.lora, packed.training.num_train_epochs or 0.0
    versions = ", ".join(
        f"{name} {metadata.version(name)}" for name in ("kaito", "torch", "transformers", "peft", "accelerate")
    )
    print(
        f"planned: python -m kaito.tuning. {step_of(configs['planned'])}, loss on the {answers:,} tokens of answers\n"
        "plain:   transformers' Trainer, used as KAITO uses it. 1 row a step,"
        f" learning rate {configs['plain'].training.learning_rate:g}, loss on all {tokens - len(examples):,} tokens\n"
        f"packed:  as planned, {step_of(packed)}\n"
        "padded:  as packed, with padding_free: false\n"
        f"all:     {len(examples)} rows of {tokens:,} tokens (median {statistics.median(lengths):.0f},"
        f" most {max(lengths)}), {epochs:g} epochs,"
        f" LoRA r {lora.r}, alpha {lora.lora_alpha}, {lora.target_modules},"
        f" {packed.training.lr_scheduler_type} schedule, {packed.model.torch_dtype}\n"
        f"here:    {find_device().name}, {available_cpus()} threads, load average {load_average()} at the start;"
        f" Python {sys.version.split()[0]}, {versions}\n"
        "start s: imports, reading the rows, loading the model\n"
    )
    return tokens * epochs, answers * epochs


def step_of(config: TrainingConfig) -> str:
    training = config.training
    rows = f"{training.per_device_train_batch_size} x {training.gradient_accumulation_steps} rows a step"
    return f"{rows}, learning rate {training.learning_rate:g}"


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


SIDES: dict[str, Callable[[Path, Path], Run]] = {
    "planned": run_kaito,
    "plain": run_plain,
    "packed": run_kaito,
    "padded": run_kaito,
}


def report_losses(root: Path, runs: dict[str, list[Run]]) -> None:
    """The held-out losses of the base and of all adapters, measured by one process."""
    adapters = [run.adapter for side in SIDES for run in runs[side]]
    run_python([Path(__file__), "--child", "measure", root, *adapters], root / "log")
    losses: dict[str, float] = json.loads((root / "losses.json").read_text(encoding="utf-8"))
    print(f"\nheld-out loss of an answer's token\n  base model     {losses['base']:.4f}")
    for side in SIDES:
        print(f"  {side:13}  {spread([losses[str(run.adapter)] for run in runs[side]], 4)}")


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

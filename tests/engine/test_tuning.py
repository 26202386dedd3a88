"""The trainer as a process: killed, stopped, out of memory, in several processes.

The processes are forked from one that has imported torch already (`forkserver`): what is killed is a real process, and
a start costs no four seconds of imports.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.unit.tuning.tiny_models import QLORA, settings, write_config, write_data, write_model, write_uneven_data

DEADLINE_SECONDS = 120.0


@pytest.fixture(scope="module")
def forks() -> Iterator[Any]:
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers", "peft", "bitsandbytes", "kaito.tuning.train"])
    yield context
    if before is None:
        del os.environ["OMP_NUM_THREADS"]
    else:
        os.environ["OMP_NUM_THREADS"] = before


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_model(folder / "model")
    write_data(folder / "data")
    return folder


def run_main(argv: list[str], environment: dict[str, str], log: str, memory_bytes: int | None) -> None:
    """In the forked process: `python -m kaito.tuning`, its output in a file, at most so much more memory than now."""
    import resource

    from kaito.program import run_program
    from kaito.tuning.__main__ import main

    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(environment)
    if memory_bytes is not None:
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + memory_bytes, now + memory_bytes))
    sys.argv = ["kaito.tuning", *argv]
    run_program(main)


@dataclass
class Run:
    """One run folder, and processes that train in it one after the other."""

    folder: Path
    inputs: Path
    forks: Any
    sections: dict[str, dict[str, Any]]
    flags: tuple[str, ...] = ()

    def argv(self) -> list[str]:
        self.folder.mkdir(exist_ok=True)
        paths = {
            "config": write_config(self.folder / "config.yaml", self.sections),
            "data": self.inputs / "data",
            "model": self.inputs / "model",
            "checkpoints": self.folder / "checkpoints",
            "results": self.folder / "results",
            "metrics": self.folder / "metrics.jsonl",
            "repo": "acme/tiny",
            "revision": "abc",
        }
        return [*(word for name, value in paths.items() for word in (f"--{name}", str(value))), *self.flags]

    def start(self, memory_bytes: int | None = None) -> Any:
        environment = {"KAITO_RESULT": str(self.folder / "result.json")}
        arguments = (self.argv(), environment, str(self.folder / "log"), memory_bytes)
        process = self.forks.Process(target=run_main, args=arguments)
        process.start()
        return process

    def finish(self, memory_bytes: int | None = None) -> int:
        process = self.start(memory_bytes)
        process.join(DEADLINE_SECONDS)
        assert process.exitcode is not None, self.log()
        return int(process.exitcode)

    def signal_at(self, step: int, number: int) -> int:
        """Start, send the signal once `step` is in the metrics, and wait. The exit code."""
        process = self.start()
        deadline = time.monotonic() + DEADLINE_SECONDS
        while process.is_alive() and self.last_step() < step:
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.001)
        os.kill(process.pid, number)
        process.join(DEADLINE_SECONDS)
        return int(process.exitcode)

    def metrics(self) -> list[dict[str, Any]]:
        file = self.folder / "metrics.jsonl"
        if not file.exists():
            return []
        return [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def last_step(self) -> int:
        return max((line["step"] for line in self.metrics()), default=0)

    def curve(self) -> list[tuple[int, float]]:
        return [(line["step"], line["loss"]) for line in self.metrics() if "loss" in line]

    def evaluations(self) -> list[tuple[int, float]]:
        return [(line["step"], line["eval_loss"]) for line in self.metrics() if "eval_loss" in line]

    def result(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "result.json").read_text()))

    def adapter(self) -> str:
        return hashlib.sha256((self.folder / "results/adapter_model.safetensors").read_bytes()).hexdigest()

    def log(self) -> str:
        return (self.folder / "log").read_text()


def sections(method: str) -> dict[str, dict[str, Any]]:
    batch = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "packing": True}
    chosen = settings(num_train_epochs=4, logging_steps=1, **batch)
    return {**chosen, "QuantizationConfig": QLORA} if method == "qlora" else chosen


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_run_killed_at_random_steps_ends_bit_for_bit_like_one_that_was_not(
    tmp_path: Path, inputs: Path, forks: Any, method: str
) -> None:
    whole = Run(tmp_path / "whole", inputs, forks, sections(method))
    assert whole.finish() == 0, whole.log()
    killed = Run(tmp_path / "killed", inputs, forks, sections(method), ("--checkpoint-steps", "2"))
    steps = whole.result()["steps"]
    dice = random.Random(method)
    at = sorted(dice.sample(range(1, steps), 4))
    for step in at:
        assert killed.signal_at(step, signal.SIGKILL) == -signal.SIGKILL, killed.log()
    assert killed.finish() == 0, killed.log()

    assert killed.adapter() == whole.adapter()
    assert killed.result() == whole.result()
    assert killed.curve() == whole.curve()
    assert killed.evaluations() == whole.evaluations()
    assert [step for step, _ in killed.curve()] == list(range(1, steps + 1))
    assert "resumed from step" in killed.log()
    assert "batches: packed" in killed.log()


def test_an_early_stop_and_its_best_adapter_survive_kills_between_the_best_evaluation_and_the_worse_ones(
    tmp_path: Path, inputs: Path, forks: Any
) -> None:
    chosen = settings(num_train_epochs=8, learning_rate=0.1, lr_scheduler_type="constant", logging_steps=1)
    flags = ("--early-stopping-patience", "2", "--checkpoint-seconds", "3600")
    whole = Run(tmp_path / "whole", inputs, forks, chosen, flags)
    assert whole.finish() == 0, whole.log()
    measured = {step: loss for step, loss in whole.evaluations() if step > 0}
    best = min(measured, key=lambda step: measured[step])
    last = max(measured)
    assert best < last < 72
    killed = Run(tmp_path / "killed", inputs, forks, chosen, flags)
    for step in (best + 2, last - 2):
        assert killed.signal_at(step, signal.SIGKILL) == -signal.SIGKILL, killed.log()
    assert killed.finish() == 0, killed.log()
    assert killed.adapter() == whole.adapter()
    assert killed.result() == whole.result()
    assert killed.result()["note"] == f"stopped early at step {last} of 72: no better for 2 evaluations"
    assert killed.curve() == whole.curve()
    assert killed.evaluations() == whole.evaluations()
    assert f"resumed from step {best} of 72" in killed.log(), "saved at the evaluation, not by the clock"
    assert killed.log().count(f"evaluation at step {best}:") == 1


def test_sigterm_saves_exits_143_and_the_run_goes_on_from_that_very_step(
    tmp_path: Path, inputs: Path, forks: Any
) -> None:
    whole = Run(tmp_path / "whole", inputs, forks, sections("lora"))
    assert whole.finish() == 0, whole.log()
    stopped = Run(tmp_path / "stopped", inputs, forks, sections("lora"))
    for step in (3, 12):
        assert stopped.signal_at(step, signal.SIGTERM) == 143, stopped.log()
        assert (stopped.folder / "checkpoints" / f"checkpoint-{stopped.last_step()}" / "manifest.json").exists()
        assert not (stopped.folder / "results" / "fine_tuning_completed.txt").exists()
    assert stopped.finish() == 0, stopped.log()
    assert stopped.adapter() == whole.adapter()
    assert stopped.result() == whole.result()
    assert stopped.curve() == whole.curve()


def test_sigterm_in_an_evaluation_saves_and_the_evaluation_is_made_when_the_run_goes_on(
    tmp_path: Path, inputs: Path, forks: Any
) -> None:
    many = tmp_path / "inputs"
    many.mkdir()
    (many / "model").symlink_to(inputs / "model")
    write_data(many / "data", rows=300)
    chosen = settings(max_steps=6, eval_strategy="steps", eval_steps=3, per_device_eval_batch_size=1)
    chosen["DatasetConfig"] = {"train_test_split": 0.1}  # an evaluation lasts many times as long as a step
    whole = Run(tmp_path / "whole", many, forks, chosen)
    assert whole.finish() == 0, whole.log()
    stopped = Run(tmp_path / "stopped", many, forks, chosen)
    assert stopped.signal_at(3, signal.SIGTERM) == 143, stopped.log()
    assert stopped.last_step() == 3
    assert [step for step, _ in stopped.evaluations()] == [0]
    assert stopped.finish() == 0, stopped.log()
    assert stopped.evaluations() == whole.evaluations()
    assert [step for step, _ in stopped.evaluations()] == [0, 3, 6]
    assert stopped.result() == whole.result()


def test_a_newest_checkpoint_that_was_cut_short_is_passed_over_for_the_one_before(
    tmp_path: Path, inputs: Path, forks: Any
) -> None:
    whole = Run(tmp_path / "whole", inputs, forks, sections("lora"))
    assert whole.finish() == 0, whole.log()
    run = Run(tmp_path / "run", inputs, forks, sections("lora"), ("--checkpoint-steps", "2"))
    assert run.signal_at(9, signal.SIGKILL) == -signal.SIGKILL
    names = sorted((run.folder / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    optimizer = names[-1] / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[: optimizer.stat().st_size // 2])
    assert run.finish() == 0, run.log()
    assert f"{names[-1].name} is damaged (optimizer.pt" in run.log()
    assert f"resumed from step {names[-2].name.split('-')[1]} " in run.log()
    assert run.adapter() == whole.adapter()
    assert run.curve() == whole.curve()


def test_out_of_memory_halves_the_micro_batch_once_and_otherwise_ends_with_6_and_a_hint(
    tmp_path: Path, inputs: Path, forks: Any
) -> None:
    long = tmp_path / "inputs"
    long.mkdir()
    (long / "model").symlink_to(inputs / "model")
    (long / "data").mkdir()
    answer = "the red lamp is in the cellar " * 160
    rows = [json.dumps({"prompt": f"where {index}", "completion": answer}) for index in range(24)]
    (long / "data" / "rows.jsonl").write_text("\n".join(rows))
    chosen = settings(per_device_train_batch_size=16, max_length=1000, max_steps=2, per_device_eval_batch_size=1)
    chosen["DatasetConfig"] = {"train_test_split": 1}
    too_small = Run(tmp_path / "too-small", long, forks, chosen)
    assert too_small.finish(60 << 20) == 6
    assert json.loads((tmp_path / "too-small" / "result.json").read_text())["reason"] == "OutOfMemory"
    assert "max_length" in json.loads((tmp_path / "too-small" / "result.json").read_text())["hint"]

    low, high = 60, 1500  # megabytes: too few for 8 rows, enough for 16; what is enough for 8 alone lies between
    for _ in range(10):
        middle = (low + high) // 2
        run = Run(tmp_path / str(middle), long, forks, chosen)
        code = run.finish(middle << 20)
        if code == 0 and "going on with" in run.log():
            break
        assert code in (0, 6), run.log()
        low, high = (middle, high) if code == 6 else (low, middle)
    assert "out of memory with a micro-batch of 16: going on with 8" in run.log()
    assert run.result()["steps"] == 2


def launch(run: Run) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "kaito.tuning", *run.argv()],
        env={**os.environ, "OMP_NUM_THREADS": "1", "KAITO_RESULT": str(run.folder / "result.json")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_two_processes_train_one_adapter_also_after_a_stop_and_the_first_alone_writes(
    tmp_path: Path, inputs: Path, forks: Any
) -> None:
    uneven = tmp_path / "inputs"
    uneven.mkdir()
    (uneven / "model").symlink_to(inputs / "model")
    write_uneven_data(uneven / "data", rows=41)  # of which 37 train: the last step of an epoch has a row for one alone
    chosen = settings(max_steps=40, per_device_train_batch_size=2, gradient_accumulation_steps=1, packing=True)
    chosen["LoraConfig"]["lora_dropout"] = 0.0
    larger = {**chosen["TrainingArguments"], "per_device_train_batch_size": 4}
    one = Run(tmp_path / "one", uneven, forks, {**chosen, "TrainingArguments": larger})
    two = Run(tmp_path / "two", uneven, forks, chosen, ("--processes", "2"))

    assert one.finish() == 0, one.log()
    stopped = launch(two)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while two.last_step() < 5 and stopped.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    stopped.send_signal(signal.SIGTERM)
    said, _ = stopped.communicate(timeout=DEADLINE_SECONDS)
    assert stopped.returncode == 143, said
    assert 5 <= two.last_step() < 40

    resumed = launch(two)
    said, _ = resumed.communicate(timeout=DEADLINE_SECONDS)
    assert resumed.returncode == 0, said
    assert said.count("resumed from step") == said.count("Fine-Tuning completed") == 1
    assert said.count("batches: packed") == 1
    assert [step for step, _ in two.curve()] == list(range(1, 41))
    assert [loss for _, loss in two.curve()] == pytest.approx([loss for _, loss in one.curve()], abs=1e-4)
    assert two.result()["eval_loss"] == pytest.approx(one.result()["eval_loss"], abs=1e-4)
    seen_by_one, seen_by_two = ([line["tokens"] for line in run.metrics() if "loss" in line][-1] for run in (one, two))
    fillers = 4  # a token an epoch, for the process that has no row in the last step
    assert seen_by_one <= seen_by_two <= seen_by_one + fillers
    assert two.result()["digest"].startswith("sha256:")


def test_a_process_that_is_killed_ends_the_others_and_the_launcher_by_the_same_signal(
    tmp_path: Path, inputs: Path, forks: Any
) -> None:
    """The runner sees then what the kernel did; the first process's own end, an exchange that failed, says nothing."""
    chosen = settings(max_steps=2000, num_train_epochs=1, per_device_train_batch_size=2)
    run = Run(tmp_path / "run", inputs, forks, chosen, ("--processes", "2"))
    launcher = launch(run)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while run.last_step() < 3 and launcher.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    (second,) = [pid for pid in children if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes()]
    os.kill(int(second), signal.SIGKILL)
    said, _ = launcher.communicate(timeout=DEADLINE_SECONDS)
    assert launcher.returncode == -signal.SIGKILL, said

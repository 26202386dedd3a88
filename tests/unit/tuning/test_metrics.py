from __future__ import annotations

import json
from pathlib import Path

import pytest

from kaito.tuning.metrics import Metrics


def write_step(metrics: Metrics, step: int) -> None:
    metrics.tokens += 10
    metrics.step(step=step, total=9, epoch=step / 9, loss=9.0 - step, learning_rate=0.1, grad_norm=1.0)


def test_a_line_has_the_keys_of_the_contract(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl")
    write_step(metrics, 1)
    metrics.evaluation(step=1, loss=2.5)
    step, evaluation = metrics.lines()
    assert list(step) == [
        "time",
        "step",
        "total_steps",
        "epoch",
        "loss",
        "learning_rate",
        "grad_norm",
        "tokens",
        "tokens_per_second",
    ]
    assert list(evaluation) == ["time", "step", "eval_loss"]
    assert metrics.last_loss() == 8.0


def test_a_resumed_curve_has_no_step_twice_and_no_torn_line(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.evaluation(step=0, loss=3.0)
    for step in (1, 2, 3, 4):
        write_step(metrics, step)
    with metrics.path.open("a") as file:
        file.write('{"time": 1, "st')
    metrics.truncate_after(4)
    assert [line["step"] for line in metrics.lines()] == [0, 1, 2, 3, 4]
    metrics.truncate_after(2)
    assert [line["step"] for line in metrics.lines()] == [0, 1, 2]
    metrics.truncate_after(-1)
    assert metrics.lines() == []


def test_progress_is_told_to_the_runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAITO_PROGRESS", str(tmp_path / "progress"))
    metrics = Metrics(tmp_path / "metrics.jsonl")
    for step in range(1, 10):
        write_step(metrics, step)
    told = [json.loads(line) for line in (tmp_path / "progress").read_text().splitlines()]
    assert told[0]["done"] == 1
    assert (told[-1]["done"], told[-1]["total"], told[-1]["unit"]) == (9, 9, "steps")
    assert len(told) < 9


def test_ranks_but_the_first_write_nothing(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl", quiet=True)
    write_step(metrics, 1)
    metrics.truncate_after(0)
    assert not metrics.path.exists()

"""Whole runs that differ in how their rows are cut and lie in memory, and in nothing else: equal to rounding."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.unit.tuning.tiny_models import QLORA, THINGS, settings

Tune = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def skewed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of which most are short and some ten times as long."""
    folder = tmp_path_factory.mktemp("skewed")
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for index in range(40):
            answer = " ".join(THINGS[(index + word) % 9] for word in range(1 + index % 5 * (index % 7)))
            file.write(json.dumps({"prompt": f"what is in box {index}", "completion": answer}) + "\n")
    return folder


def sections(method: str = "lora", **arguments: Any) -> dict[str, dict[str, Any]]:
    """Without dropout, which is drawn for each micro-batch and so differs with its shape."""
    chosen = settings(num_train_epochs=1, **arguments)
    chosen["LoraConfig"]["lora_dropout"] = 0.0
    return {**chosen, "QuantizationConfig": QLORA} if method == "qlora" else chosen


def curve(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] if "loss" in line else line["eval_loss"] for line in lines]


def assert_equal_results(one: Path, other: Path, steps: int) -> None:
    """The losses to 1e-5, and the adapters to 1e-4: AdamW divides what rounding left of a small gradient by itself."""
    assert len(curve(one)) == len(curve(other)) >= steps
    assert curve(one) == pytest.approx(curve(other), abs=1e-5)
    ones, others = (load_file(folder / "results/adapter_model.safetensors") for folder in (one, other))
    for name in ones:
        torch.testing.assert_close(ones[name], others[name], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_packed_rows_train_what_padded_rows_train(
    tune: Tune, tmp_path: Path, skewed: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = tune("packed", sections(method, per_device_train_batch_size=8), data=skewed)
    assert "batches: packed; 3 documents checked" in capsys.readouterr().out
    padded = tune("padded", sections(method, per_device_train_batch_size=8, packing=False), data=skewed)
    assert "batches: padded, as the configuration says" in capsys.readouterr().out
    assert packed["steps"] == padded["steps"]
    assert_equal_results(tmp_path / "packed", tmp_path / "padded", packed["steps"])


@pytest.mark.parametrize(("micro", "accumulation"), [(1, 8), (2, 4)])
def test_packed_rows_in_several_forwards_train_what_they_train_in_one(
    tune: Tune, tmp_path: Path, skewed: Path, micro: int, accumulation: int
) -> None:
    cut = sections(per_device_train_batch_size=micro, gradient_accumulation_steps=accumulation)
    tune("cut", cut, data=skewed)
    whole = tune("whole", sections(per_device_train_batch_size=8), data=skewed)
    apart = {**cut, "TrainingArguments": {**cut["TrainingArguments"], "padding_free": False}}
    tune("apart", apart, data=skewed)
    assert_equal_results(tmp_path / "cut", tmp_path / "whole", whole["steps"])
    assert_equal_results(tmp_path / "cut", tmp_path / "apart", whole["steps"])


def test_a_run_that_began_packed_goes_on_padded_to_an_equal_result(
    tune: Tune, tmp_path: Path, skewed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    whole = tune("whole", sections(**arguments), data=skewed, save_steps=4)
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "results")
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / whole["checkpoint"])
    capsys.readouterr()
    tune("resumed", sections(**arguments, packing=False), data=skewed, save_steps=4)
    assert "resumed from step" in capsys.readouterr().out
    assert_equal_results(tmp_path / "whole", tmp_path / "resumed", whole["steps"])


def test_a_family_that_cannot_be_packed_trains_padded(
    tune: Tune, falcon: Path, skewed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tune(sections=sections(packing=True), data=skewed, model=falcon)
    assert result["steps"] > 0
    said = capsys.readouterr().out
    assert said.count("batches: ") == 1
    assert "batches: padded: FalconForCausalLM cannot be packed" in said

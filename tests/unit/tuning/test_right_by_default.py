"""What a user gets who says nothing, and what the usual way of training would have made of the same rows.

The usual way stands beside ours in each test: transformers' collator for language modelling, with the padding token set
to the end token as most recipes do. What is asserted of ours is false of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kaito.api.training import TrainingConfig
from kaito.tuning.batches import IGNORED, collate
from kaito.tuning.data import Example
from kaito.tuning.evaluation import token_losses
from kaito.tuning.model import load_base
from kaito.tuning.precision import Precision
from kaito.tuning.tokenised import load_examples
from tests.unit.tuning.architectures import FAMILIES, write_tokenizer
from tests.unit.tuning.tiny_models import settings, write_uneven_data

Tune = Callable[..., dict[str, Any]]

KAITO_SETTINGS: dict[str, dict[str, Any]] = {
    "ModelConfig": {"torch_dtype": "float32"},
    "LoraConfig": {"r": 8, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": ["o_proj", "down_proj"]},
    "TrainingArguments": {"learning_rate": 2e-5, "lr_scheduler_type": "linear", "warmup_steps": 0},
}


def usual_labels(tokenizer: Any, examples: Sequence[Example]) -> torch.Tensor:
    from transformers import DataCollatorForLanguageModeling

    rows = [{"input_ids": example.input_ids.tolist()} for example in examples]
    labels: torch.Tensor = DataCollatorForLanguageModeling(tokenizer, mlm=False)(rows)["labels"]
    return labels


@pytest.mark.parametrize("name", FAMILIES)
def test_an_answers_end_is_learnt_and_no_word_of_the_user_also_where_padding_is_the_end_token(
    name: str, data: Path, tmp_path: Path
) -> None:
    from transformers import PreTrainedTokenizerFast

    vocabulary = write_tokenizer(tmp_path, FAMILIES[name])
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    end = vocabulary[FAMILIES[name].end]
    tokenizer.pad_token = FAMILIES[name].end
    examples = load_examples(data, tmp_path, TrainingConfig()).examples[:8]

    def ends_and_question(labels: torch.Tensor) -> tuple[int, str]:
        learnt = [row[row != IGNORED] for row in labels]
        text = tokenizer.decode(torch.cat(learnt).tolist())
        return sum(int((row == end).sum()) for row in learnt), "where is" if "where is" in text else ""

    assert ends_and_question(collate(examples, end)["labels"]) == (len(examples), "")
    assert ends_and_question(usual_labels(tokenizer, examples)) == (0, "where is")


def test_the_loss_of_a_step_is_the_mean_over_all_its_tokens_however_they_lie_in_micro_batches(
    tune: Tune, llama: Path, tmp_path: Path
) -> None:
    data = write_uneven_data(tmp_path / "data")
    examples = load_examples(data, llama, TrainingConfig()).examples
    base = load_base(llama, TrainingConfig(), Precision("float32", "no", "float32"), torch.device("cpu"))
    with torch.no_grad():
        sums = np.array([token_losses(base, collate([example], 0)).item() for example in examples])
    tokens = np.array([int(example.trained[1:].sum()) for example in examples])
    mean_of_tokens, mean_of_rows = sums.sum() / tokens.sum(), (sums / tokens).mean()
    assert tokens.max() > 20 * tokens.min()
    assert abs(mean_of_tokens - mean_of_rows) > 0.05, "the two could not be told apart"

    curves = {}
    for micro in (1, 2, len(examples)):
        sections = settings(
            per_device_train_batch_size=micro, gradient_accumulation_steps=len(examples) // micro, max_steps=6
        )
        sections["LoraConfig"]["lora_dropout"] = 0.0
        sections["DatasetConfig"] = {"train_test_split": 1}
        tune(f"micro-{micro}", sections, data=data)
        curves[micro] = losses(tmp_path / f"micro-{micro}")
        assert curves[micro][0] == pytest.approx(mean_of_tokens, abs=1e-5)  # a fresh adapter changes nothing yet
    assert curves[1] == pytest.approx(curves[len(examples)], abs=1e-5)
    assert curves[2] == pytest.approx(curves[len(examples)], abs=1e-5)


def test_a_configuration_that_says_nothing_learns_and_is_evaluated_and_covers_every_layer(
    tune: Tune, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tune("ours", {"TrainingArguments": {}})
    said = capsys.readouterr().out
    assert "38 rows to train, 2 held out" in said
    for name in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"):
        assert f"{name} x2" in said
    lines = [json.loads(line) for line in (tmp_path / "ours/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "eval_loss" in line] == [0, 5, 10, 15]  # the base, and three epochs
    kaito = tune("kaito", KAITO_SETTINGS)
    assert kaito["steps"] == result["steps"]
    assert kaito["base_eval_loss"] == result["base_eval_loss"]
    ours, theirs = (result["base_eval_loss"] - run["eval_loss"] for run in (result, kaito))
    assert ours > 10 * theirs > 0


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]

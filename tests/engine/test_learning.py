"""Real learning: an adapter answers questions that it has never seen, of a kind of which its base answers none.

The task is a rule, not a list: whoever orders things in any of four wordings gets the order back in one fixed wording.
The demo model knows the words and answers something else. Every order that is asked at the end differs from every order
of the training data in what is ordered, not in its wording alone, and an answer counts only if it is right to the last
character, its end included.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from kaito.tuning.train import Request, train
from tests.unit.tuning.tiny_models import QLORA, write_config

MODEL = Path(str(resources.files("kaito.hub") / "builtin" / "demo"))
TRAINED, ASKED = 720, 200
LEAST_RIGHT = 120  # of ASKED
ANSWER_TOKENS = 32  # at most; what has not ended by then is wrong

ITEMS = (
    "lamps",
    "chairs",
    "books",
    "clocks",
    "mirrors",
    "candles",
    "coats",
    "spoons",
    "beds",
    "keys",
    "boxes",
    "knives",
)
COLOURS = ("red", "green", "white", "yellow", "brown", "grey")
COUNTS = ("two", "three", "four", "five", "six", "seven", "eight", "nine")
PLACES = ("kitchen", "garden", "school", "library", "hospital", "market", "house", "city", "town", "farm", "station")
QUESTIONS = (
    "We need {count} {colour} {items} in the {place}.",
    "Please bring {count} {colour} {items} to the {place}.",
    "The {place} needs {count} {colour} {items}.",
    "Put {count} {items} into the {place}, all {colour}.",
)
ANSWER = "The {place} gets {count} {colour} {items}."

Order = tuple[str, str, str, str]  # items, colour, count, place


def draw_orders(seed: int) -> tuple[list[Order], list[Order]]:
    """(orders to train on, orders to ask), drawn without replacement from all that there are."""
    every = list(itertools.product(ITEMS, COLOURS, COUNTS, PLACES))
    drawn = random.Random(seed).sample(every, TRAINED + ASKED)
    return drawn[:TRAINED], drawn[TRAINED:]


def build_pairs(orders: list[Order], dice: random.Random) -> list[tuple[str, str]]:
    """A question and its one right answer for each order."""
    words = [dict(zip(("items", "colour", "count", "place"), order, strict=True)) for order in orders]
    return [(dice.choice(QUESTIONS).format(**order), ANSWER.format(**order)) for order in words]


def sections(method: str, seed: int) -> dict[str, dict[str, Any]]:
    """What a small model needs said: its learning rate, and how often it sees each row. All else is our default."""
    return {
        "TrainingArguments": {
            "learning_rate": 5e-3,
            "num_train_epochs": 2,
            "per_device_train_batch_size": 8,
            "gradient_accumulation_steps": 1,
            "seed": seed,
        },
        **({"QuantizationConfig": QLORA} if method == "qlora" else {}),
    }


class Asker:
    """The demo model with or without an adapter, loaded by transformers and peft alone."""

    def __init__(self) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(MODEL, padding_side="left")
        self.base = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()

    def right(self, pairs: list[tuple[str, str]], adapter: Path | None = None) -> int:
        """How many questions are answered to the character, greedily. The base is the same afterwards."""
        import torch
        from peft import PeftModel

        model = self.base if adapter is None else PeftModel.from_pretrained(self.base, adapter).eval()
        chats = [[{"role": "user", "content": question}] for question, _ in pairs]
        prompts = self.tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            output = model.generate(**prompts, max_new_tokens=ANSWER_TOKENS, do_sample=False)
        if adapter is not None:
            self.base = model.unload()
        texts = self.tokenizer.batch_decode(output[:, prompts["input_ids"].shape[1] :])
        said = [text.replace(self.tokenizer.pad_token, "") for text in texts]
        return sum(text == f"{answer}<|end|>" for text, (_, answer) in zip(said, pairs, strict=True))


@pytest.fixture(scope="module")
def asker() -> Iterator[Asker]:
    import torch

    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        yield Asker()
    torch.set_num_threads(before)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_an_adapter_answers_what_its_base_cannot_and_it_has_never_seen(
    method: str, seed: int, asker: Asker, tmp_path: Path
) -> None:
    trained, asked = draw_orders(seed)
    assert not set(trained) & set(asked)
    dice = random.Random(seed)
    rows, unseen = build_pairs(trained, dice), build_pairs(asked, dice)
    assert not set(rows) & set(unseen)
    (tmp_path / "data").mkdir()
    with (tmp_path / "data" / "orders.jsonl").open("w", encoding="utf-8") as file:
        for question, answer in rows:
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": turns}) + "\n")
    result = train(
        Request(
            config=write_config(tmp_path / "config.yaml", sections(method, seed)),
            data=tmp_path / "data",
            model=MODEL,
            checkpoints=tmp_path / "checkpoints",
            results=tmp_path / "results",
            metrics=tmp_path / "metrics.jsonl",
            repo="kaito/demo",
            revision="0" * 40,
        )
    )
    before, after = asker.right(unseen), asker.right(unseen, tmp_path / "results")
    print(
        f"{method}, seed {seed}, {result['steps']} steps: {after} of {ASKED} unseen orders right, base {before};"
        f" held-out loss {result['base_eval_loss']:.3f} -> {result['eval_loss']:.4f}"
    )
    assert before == 0
    assert after >= LEAST_RIGHT

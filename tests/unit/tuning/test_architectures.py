"""Phi-3, Llama, Qwen2, Mistral and Falcon, each by LoRA and by QLoRA: trained, saved, loaded again by peft alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kaito.api.training import TrainingConfig
from kaito.tuning.batches import collate
from kaito.tuning.data import Example
from kaito.tuning.model import add_adapter, keep_gradients_through_4bit
from kaito.tuning.tokenised import load_examples
from kaito.tuning.train import Request, train
from tests.unit.tuning.architectures import FAMILIES, LAYERS, Family, write_family
from tests.unit.tuning.tiny_models import QLORA, settings, write_config

REPO, COMMIT = "acme/tiny", "0123456789" * 4
CONVERSATIONS = [
    ["the red lamp is in the cellar"],
    ["the door is in the north", "so is the window"],
    ["die Tür, ça va, 東京 😀", "one\n\ntwo", "the same", "the same"],
]


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Family], Path]:
    made: dict[str, Path] = {}

    def build(family: Family) -> Path:
        if family.name not in made:
            made[family.name] = write_family(tmp_path_factory.mktemp("family") / family.name, family)
        return made[family.name]

    return build


@dataclass(frozen=True)
class Tuned:
    """A finished run. `trained`: the very model that the trainer held when it saved."""

    family: Family
    method: str
    base: Path
    results: Path
    result: dict[str, Any]
    losses: list[float]
    trained: Any
    examples: Sequence[Example]


@pytest.fixture(scope="module", params=[(name, method) for name in FAMILIES for method in ("lora", "qlora")])
def tuned(
    request: pytest.FixtureRequest,
    model_of: Callable[[Family], Path],
    data: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Tuned:
    name, method = request.param
    family, folder = FAMILIES[name], tmp_path_factory.mktemp("run")
    sections = settings(learning_rate=1e-2, num_train_epochs=3, warmup_steps=0)
    if method == "qlora":
        sections["QuantizationConfig"] = QLORA
    models = []

    def add_and_keep(*arguments: Any, **options: Any) -> Any:
        models.append(add_adapter(*arguments, **options))
        return models[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kaito.tuning.train.add_adapter", add_and_keep)  # the real one, whose model is kept
        result = train(
            Request(
                config=write_config(folder / "config.yaml", sections),
                data=data,
                model=model_of(family),
                checkpoints=folder / "checkpoints",
                results=folder / "results",
                metrics=folder / "metrics.jsonl",
                repo=REPO,
                revision=COMMIT,
            )
        )
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return Tuned(
        family,
        method,
        model_of(family),
        folder / "results",
        result,
        [line["loss"] for line in lines if "loss" in line],
        models[0].eval(),
        load_examples(data, model_of(family), TrainingConfig()).examples,
    )


def load_base(folder: Path, method: str) -> Any:
    """As any user would, by transformers alone."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    if method == "lora":
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    quantization = BitsAndBytesConfig(**{**QLORA, "bnb_4bit_compute_dtype": torch.float32})
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=quantization)
    keep_gradients_through_4bit(base)  # or bitsandbytes computes in bfloat16 on some CPUs, whatever it was told
    return base


def test_it_learns(tuned: Tuned) -> None:
    assert tuned.result["eval_loss"] < tuned.result["base_eval_loss"] - 0.3
    assert sum(tuned.losses[-3:]) < sum(tuned.losses[:3]) - 1


def test_the_saved_adapter_on_a_fresh_base_gives_the_trained_models_logits_to_the_bit(tuned: Tuned) -> None:
    from peft import PeftModel

    batch = collate(tuned.examples[:4], 0)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    fresh = load_base(tuned.base, tuned.method)
    # The trainer's own attention is for packed rows; what is compared here are weights.
    tuned.trained.config._attn_implementation = fresh.config._attn_implementation
    with torch.no_grad():
        trained = tuned.trained(**inputs).logits
        before = fresh(**inputs).logits
        after = PeftModel.from_pretrained(fresh, tuned.results).eval()(**inputs).logits
    real = batch["attention_mask"].bool()
    assert (after - trained)[real].abs().max() == 0
    assert (after - before)[real].abs().max() > 0.1


def test_every_linear_layer_but_the_head_has_an_adapter_that_was_trained(tuned: Tuned) -> None:
    weights = load_file(tuned.results / "adapter_model.safetensors")
    trained = [name for name, weight in weights.items() if "lora_B" in name and weight.any()]
    assert Counter(name.split(".")[-3] for name in trained) == dict.fromkeys(tuned.family.linear, LAYERS)
    assert len(weights) == 2 * len(trained)


def test_what_is_quantised_is_every_linear_layer_but_the_head_or_nothing(tuned: Tuned) -> None:
    import bitsandbytes

    quantised = [
        name for name, module in tuned.trained.named_modules() if isinstance(module, bitsandbytes.nn.Linear4bit)
    ]
    expected = dict.fromkeys(tuned.family.linear, LAYERS) if tuned.method == "qlora" else {}
    assert Counter(name.removesuffix(".base_layer").rsplit(".", 1)[-1] for name in quantised) == expected


def test_the_adapter_names_its_base_by_repository_and_commit_and_no_path(tuned: Tuned) -> None:
    text = (tuned.results / "adapter_config.json").read_text()
    config = json.loads(text)
    assert (config["base_model_name_or_path"], config["revision"]) == (REPO, COMMIT)
    assert sorted(config["target_modules"]) == sorted(tuned.family.linear)
    for path in (tuned.base, tuned.results, Path.home()):
        assert str(path) not in text + (tuned.results / "README.md").read_text()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_answers_and_their_ends_are_learnt_and_nothing_else(
    name: str, model_of: Callable[[Family], Path], tmp_path: Path
) -> None:
    from transformers import PreTrainedTokenizerFast

    family = FAMILIES[name]
    rows = [
        {"messages": [turn for answer in answers for turn in turns(f"what is {answer[:3]}?", answer)]}
        for answers in CONVERSATIONS
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model_of(family))
    examples = load_examples(tmp_path, model_of(family), TrainingConfig()).examples
    for answers, row, example in zip(CONVERSATIONS, rows, examples, strict=True):
        learnt = tokenizer.decode(example.input_ids[example.trained].tolist())
        assert learnt == family.learnt(answers)
        whole = tokenizer.apply_chat_template(row["messages"], return_dict=False)
        assert example.input_ids[: len(whole)].tolist() == whole
        assert example.input_ids[len(whole) :].tolist() in ([], [tokenizer.eos_token_id])


def turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

"""Tiny real models with a tokenizer and chat template of their own, data for them, and runs of the trainer on both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
PLACES = ["north", "south", "east", "west", "hall", "cellar", "garden"]
THINGS = ["red lamp", "green lamp", "blue lamp", "chair", "table", "door", "window", "box", "key"]
WORDS = [*PLACES, *" ".join(THINGS).split(), "is", "in", "the", "where"]


def write_model(folder: Path, *, kind: str = "llama") -> Path:
    """A random model of some 100,000 parameters in `folder`, with every file that a hub would give."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from tokenizers.decoders import ByteLevel
    from transformers import FalconConfig, FalconForCausalLM, LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevel()
    special = ["<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    tokenizer.train_from_iterator(
        [" ".join(WORDS)] * 20,
        trainers.BpeTrainer(
            vocab_size=384,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "bos_token": "<s>",
                "eos_token": "<|end|>",
                "pad_token": "<|end|>",
                "tokenizer_class": "PreTrainedTokenizerFast",
            }
        )
    )
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    torch.manual_seed(7)
    vocabulary = 384
    if kind == "falcon":
        model: Any = FalconForCausalLM(
            FalconConfig(vocab_size=vocabulary, hidden_size=64, num_hidden_layers=2, num_attention_heads=2)
        )
    else:
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocabulary,
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                max_position_embeddings=1024,
                bos_token_id=0,
                eos_token_id=5,
                initializer_range=0.08,
            )
        )
    model.save_pretrained(folder)
    return folder


def write_data(folder: Path, rows: int = 40) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for index in range(rows):
            thing, place = THINGS[index % 9], PLACES[index % 7]
            extra = " ".join(WORDS[: index % 5])
            messages = [
                {"role": "user", "content": f"where is the {thing} {index} {extra}"},
                {"role": "assistant", "content": f"the {thing} is in the {place}"},
            ]
            file.write(json.dumps({"messages": messages}) + "\n")
    return folder


def write_uneven_data(folder: Path, rows: int = 8) -> Path:
    """Rows whose answers have from one word to more than a hundred."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for index in range(rows):
            words = [THINGS[(index + place) % len(THINGS)] for place in range(2 ** (index % 8))]
            completion = " " + " ".join(words) if index % 8 else " x"
            file.write(json.dumps({"prompt": f"what {index}?", "completion": completion}) + "\n")
    return folder


def settings(**arguments: Any) -> dict[str, dict[str, Any]]:
    """Sections of a small, quick LoRA run; `arguments` go to TrainingArguments."""
    return {
        "LoraConfig": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1},
        "TrainingArguments": {
            "learning_rate": 3e-3,
            "num_train_epochs": 2,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 1,
            "seed": 3,
            **arguments,
        },
        "DatasetConfig": {"train_test_split": 0.9},
    }


QLORA = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "float32",
}


def write_config(path: Path, sections: dict[str, dict[str, Any]]) -> Path:
    path.write_text(json.dumps({"training_config": sections}))  # JSON is YAML
    return path

"""The families that the first presets come from, as tiny random models.

Each has the layers, the special tokens and the chat template that its vendor gave it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.unit.datasets.models import build_model, build_sentencepiece_like

LAYERS = 2
SPLIT = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
GROUPED = {"intermediate_size": 128, "num_key_value_heads": 1}


@dataclass(frozen=True, slots=True)
class Family:
    """`linear`: short names of a layer's linear modules. `special`: of tokenizer_config.json. `control`: more tokens.

    `opening`: what the model has to write between the generation prompt and an answer. `end`: what ends a turn that
    the conversation ends with; `end_inside`: what ends a turn before.
    """

    name: str
    linear: tuple[str, ...]
    config: Mapping[str, Any]
    special: Mapping[str, str]
    template: str
    end: str
    control: tuple[str, ...] = ()
    opening: str = ""
    end_inside: str | None = None
    sentencepiece: bool = False

    def learnt(self, answers: list[str]) -> str:
        """What is learnt of a conversation with these answers."""
        inside = self.end if self.end_inside is None else self.end_inside
        return inside.join(self.opening + answer for answer in answers) + self.end


PHI_3 = Family(
    "phi3",
    linear=("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    config={"intermediate_size": 128, "num_key_value_heads": 2},
    special={"bos_token": "<s>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<unk>"},
    control=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    template=(
        "{% for message in messages %}{% if message['role'] == 'system' %}"
        "{{'<|system|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}"
        "{{'<|user|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}"
        "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
    ),
    end="<|end|>",
    sentencepiece=True,
)
LLAMA = Family(
    "llama",
    linear=SPLIT,
    config=GROUPED,
    special={"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    control=("<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
    template=(
        "{% set loop_messages = messages %}{% for message in loop_messages %}"
        "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
        "+ message['content'] | trim + '<|eot_id|>' %}"
        "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    end="<|eot_id|>",
)
QWEN_2 = Family(
    "qwen2",
    linear=SPLIT,
    config=GROUPED,
    special={"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    control=("<|im_start|>",),
    template=(
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
        "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    end="<|im_end|>",
)
MISTRAL = Family(
    "mistral",
    linear=SPLIT,
    config=GROUPED,
    special={"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    template=(
        "{{ bos_token }}{% for message in messages %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}"
        "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
    ),
    end="</s>",
    sentencepiece=True,
)
FALCON = Family(
    "falcon",
    linear=("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
    config={},
    special={"eos_token": "<|endoftext|>"},
    template=(
        "{% for message in messages %}{% if not loop.first %}{{ '\n' }}{% endif %}"
        "{% if message['role'] == 'system' %}{{ 'System: ' }}{% elif message['role'] == 'user' %}{{ 'User: ' }}"
        "{% elif message['role'] == 'assistant' %}{{ 'Falcon: ' }}{% endif %}{{ message['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '\n' + 'Falcon:' }}{% endif %}"
    ),
    opening=" ",
    end="<|endoftext|>",
    end_inside="",  # a line break, which begins the next turn
)
FAMILIES = {family.name: family for family in (PHI_3, LLAMA, QWEN_2, MISTRAL, FALCON)}


def write_family(folder: Path, family: Family) -> Path:
    """The family's model in `folder`, random but always the same, with every file that a hub would give."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    vocabulary = write_tokenizer(folder, family)
    ids = {
        f"{name}_id": vocabulary.get(family.special.get(name, "")) for name in ("bos_token", "eos_token", "pad_token")
    }
    config = AutoConfig.for_model(
        family.name,
        vocab_size=64 * (len(vocabulary) // 64 + 1),
        hidden_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        max_position_embeddings=512,
        initializer_range=0.08,
        **ids,
        **family.config,
    )
    torch.manual_seed(7)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def write_tokenizer(folder: Path, family: Family) -> dict[str, int]:
    """tokenizer.json and its side files. Returns the vocabulary."""
    from tokenizers import AddedToken, Tokenizer

    control = [*dict.fromkeys([*family.special.values(), *family.control])]
    if family.sentencepiece:
        build_sentencepiece_like(folder)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
        tokenizer.save(str(folder / "tokenizer.json"))
    else:
        build_model(folder, control=control, bos_by_post_processor=False)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": family.template, **family.special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return dict(tokenizer.get_vocab())

"""Small byte-level BPE tokenizers, trained here, as model folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "Kubernetes keeps Pods running. The opposite of hot is cold.\n\n",
    "What does a registry hold? A registry holds images, layers and manifests.\n   indented\n",
    "Ein Übermut, ça va, дом, 東京, مرحبا, 😀 and more text so that merges are found.",
] * 20
END_TOKENS = ("<|end|>", "<|eot_id|>", "<|im_end|>", "</s>")
CONTROL_TOKENS = (
    "<pad>",
    "<s>",
    *("<|system|>", "<|user|>", "<|assistant|>"),
    *("<|start_header_id|>", "<|end_header_id|>"),
    *("<|im_start|>", "<|im_sep|>"),
    *END_TOKENS,
)


def build_model(
    folder: Path,
    *,
    chat_template: str | None = None,
    eos: str = "</s>",
    pad: str = "<pad>",
    control: Sequence[str] = CONTROL_TOKENS,
    bos_by_post_processor: bool = True,
) -> Path:
    """A folder with tokenizer.json, tokenizer_config.json and, if given, chat_template.jinja."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in control],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if bos_by_post_processor:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
        )
    return _write(folder, tokenizer, chat_template, eos, pad)


def build_sentencepiece_like(folder: Path, *, chat_template: str | None = None) -> Path:
    """A tokenizer of Llama 2's kind: spaces become ▁, one is put before each text, unknown characters become bytes."""
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    learnt = Tokenizer(models.BPE())
    learnt.normalizer = normalizers.Replace(" ", "▁")
    learnt.pre_tokenizer = pre_tokenizers.Split(Regex("(?=▁)"), "isolated")
    learnt.train_from_iterator(CORPUS, trainer)
    trained = json.loads(learnt.to_str())["model"]
    vocabulary = ["<unk>", "<s>", "</s>", *byte_tokens]
    vocabulary += [token for token in trained["vocab"] if token not in vocabulary]
    model = models.BPE(
        vocab={token: index for index, token in enumerate(vocabulary)},
        merges=[tuple(merge) for merge in trained["merges"]],
        unk_token="<unk>",
        byte_fallback=True,
        fuse_unk=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ("<s>", "</s>")])
    return _write(folder, tokenizer, chat_template, "</s>", "</s>")


def _write(folder: Path, tokenizer: Tokenizer, chat_template: str | None, eos: str, pad: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": eos,
        "pad_token": pad,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    if chat_template is not None:
        (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
    return folder


def build_bare_model(folder: Path) -> Path:
    """A base model's folder without a chat template: tokenizer, a Llama's config.json, and weights of no use."""
    build_model(folder)
    shapes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 600}
    config = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 1024, **shapes}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    header = b'{"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    return folder

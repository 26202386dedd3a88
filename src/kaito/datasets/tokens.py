"""A model's tokenizer, read from `tokenizer.json` and its side files as Transformers reads them. No chat templates."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tokenizers

from kaito.datasets.templates import read_json
from kaito.failure import ConfigFailure, ModelFailure

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True, slots=True)
class Tokens:
    """`special_tokens`: name -> text of the tokens that a chat template may use. `eos_id` is None without one."""

    tokenizer: tokenizers.Tokenizer
    special_tokens: Mapping[str, str]
    eos_id: int | None
    prefix_ids: tuple[int, ...]
    end_tokens: re.Pattern[str]

    def with_eos(self, text: str) -> Tokens:
        """The same with another end token. Raises ConfigFailure where the vocabulary has no such token."""
        eos_id = self.tokenizer.token_to_id(text)
        if eos_id is None:
            hint = "name a token of the base model's vocabulary, or leave the key out"
            raise ConfigFailure(f"TrainingArguments.eos_token: the tokenizer has no token {text!r}", hint)
        return replace(self, special_tokens={**self.special_tokens, "eos_token": text}, eos_id=eos_id)


def load_tokens(model_folder: Path) -> Tokens:
    """Raises ModelFailure where `tokenizer.json` is missing or broken."""
    path = model_folder / "tokenizer.json"
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:
        if not path.is_file():
            raise ModelFailure(
                "the model has no tokenizer.json", "use a model whose repository has one", reason="TokenizerMissing"
            ) from error
        raise ModelFailure(f"tokenizer.json of the model is broken: {error}", "fetch the model again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    config = read_json(model_folder / "tokenizer_config.json")
    special = load_special_tokens(model_folder)
    _add_missing(tokenizer, config, special)
    eos_id = tokenizer.token_to_id(special["eos_token"]) if "eos_token" in special else None
    if eos_id is None:
        eos_id = _eos_of_config(model_folder, tokenizer)
    prefix_ids = _prefix_ids(tokenizer, config, special)
    # All texts are encoded without what it adds; and it may move offsets, which say what is learnt, past white space.
    tokenizer.post_processor = None
    return Tokens(
        tokenizer=tokenizer,
        special_tokens=special,
        eos_id=eos_id,
        prefix_ids=prefix_ids,
        end_tokens=_end_tokens(tokenizer),
    )


def load_special_tokens(model_folder: Path) -> dict[str, str]:
    """Name -> text of the model's special tokens (`bos_token`, `eos_token`, …)."""
    merged = read_json(model_folder / "special_tokens_map.json") | read_json(model_folder / "tokenizer_config.json")
    found = {}
    for name in _NAMED:
        value = merged.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            found[name] = text
    return found


def _add_missing(tokenizer: tokenizers.Tokenizer, config: Mapping[str, Any], special: Mapping[str, str]) -> None:
    """Tokens that the side files declare and `tokenizer.json` does not split off, if the vocabulary has them."""
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    declared = config.get("added_tokens_decoder")
    entries = [entry for entry in declared.values() if isinstance(entry, dict)] if isinstance(declared, dict) else []
    missing = []
    for entry in [*entries, *({"content": text, "special": True} for text in special.values())]:
        text = entry.get("content")
        if isinstance(text, str) and text not in known and tokenizer.token_to_id(text) is not None:
            known.add(text)
            options = {
                key: bool(entry[key]) for key in ("lstrip", "rstrip", "single_word", "normalized") if key in entry
            }
            missing.append(tokenizers.AddedToken(text, special=bool(entry.get("special")), **options))
    tokenizer.add_tokens(missing)


def _prefix_ids(
    tokenizer: tokenizers.Tokenizer, config: Mapping[str, Any], special: Mapping[str, str]
) -> tuple[int, ...]:
    """What the tokenizer puts before plain text: the start token, or nothing."""
    start = tokenizer.token_to_id(special["bos_token"]) if "bos_token" in special else None
    if start is None:
        return ()
    wanted = config.get("add_bos_token")
    if not isinstance(wanted, bool):
        wanted = tokenizer.encode("", add_special_tokens=True).ids[:1] == [start]
    return (start,) if wanted else ()


def _eos_of_config(model_folder: Path, tokenizer: tokenizers.Tokenizer) -> int | None:
    for name in ("generation_config.json", "config.json"):
        value = read_json(model_folder / name).get("eos_token_id")
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, int) and tokenizer.id_to_token(first) is not None:
            return first
    return None


def _end_tokens(tokenizer: tokenizers.Tokenizer) -> re.Pattern[str]:
    texts = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile(rf"\s*(?:{'|'.join(map(re.escape, longest_first))})" if texts else r"(?!)")

"""Trains the demo base model from the generated text and writes the folder that the package ships.

Run by hand, once: bf16 and compiled kernels give other bits on other machines, so the files are committed and CI never
trains them. Takes about 20 minutes on two idle CPU cores.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import generate

if TYPE_CHECKING:
    import numpy as np
    import torch
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

FOLDER = Path(__file__).parent
SPECIAL_TOKENS = ["<pad>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
PAD, BOS, EOS, END = (SPECIAL_TOKENS.index(token) for token in ("<pad>", "<s>", "</s>", "<|end|>"))
VOCABULARY = 3072
CONTEXT = 1024
ROW_TOKENS = 512
BATCH_ROWS = 8
QUESTION_WEIGHT = 0.3  # of a question's tokens in the loss: worth modelling, but mostly random names
HELD_OUT_DOCUMENTS = 1500
WARM_UP_STEPS = 30
DECAY_PART = 0.35
EARLY_EXPORT = 0.6  # of the tokens: a first usable model, before the learning rate falls

SAMPLES = """
What is the opposite of hot?
Why do people use a database?
What is a checkpoint?
What is Kubernetes for?
What is the capital of France?
Which day comes after Monday?
How do I make tea?
Hello
What is an adapter?
What is the plural of mouse?
What colour is grass?
Where do I find a Pod?
What does a registry do?
Why are checkpoints saved?
Is a dog an animal?
What is the difference between LoRA and QLoRA?
What is Bramoku?
What does Bramoku do after a crash?
Which port does Zelo listen on?
""".strip().splitlines()


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Returns a byte-level BPE tokenizer whose numbers are single digits."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)]
    )
    return tokenizer


def encode(tokenizer: Tokenizer, documents: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Returns token ids and loss weights of all documents in one row (uint16, float32; equal lengths).

    A chat is written as `chat_template.jinja` renders it. Weight 1: answers with their end token, and plain text.
    """
    import numpy as np

    pieces: list[tuple[str, list[int], list[int], float]] = []  # text, ids before, ids after, weight
    for document in documents:
        if "text" in document:
            pieces.append((document["text"], [BOS], [EOS], 1.0))
            continue
        for index, message in enumerate(document["messages"]):
            before = [BOS] if index == 0 else []
            before.append(SPECIAL_TOKENS.index(f"<|{message['role']}|>"))
            answer = message["role"] == "assistant"
            pieces.append((message["content"], before, [END], 1.0 if answer else QUESTION_WEIGHT))
    encoded = tokenizer.encode_batch_fast([piece[0] for piece in pieces], add_special_tokens=False)
    ids: list[int] = []
    weights: list[float] = []
    for (_, before, after, weight), encoding in zip(pieces, encoded, strict=True):
        ids += before + encoding.ids + after
        weights += [0.0] * len(before) + [weight] * (len(encoding.ids) + len(after))
    return np.array(ids, dtype=np.uint16), np.array(weights, dtype=np.float32)


def build_model() -> LlamaForCausalLM:
    """Returns the untrained model: 4.6 M parameters, every side a multiple of 64."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=576,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=[EOS, END],
        initializer_range=0.02,
    )
    return LlamaForCausalLM(config)


def learning_rate_factor(step: int, total: int) -> float:
    """Warm-up, constant, then linear to zero over the last part."""
    decay_steps = max(1, int(total * DECAY_PART))
    return min(1.0, (step + 1) / WARM_UP_STEPS, (total - step) / decay_steps)


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, out: Path) -> None:
    """Writes weights (bf16), configuration, tokenizer, chat template, card and license to `out`."""
    import torch
    from transformers import GenerationConfig

    out.mkdir(parents=True, exist_ok=True)
    copy = build_model()
    copy.load_state_dict(model.state_dict())
    copy.to(torch.bfloat16).save_pretrained(out)
    GenerationConfig(
        do_sample=False, max_new_tokens=128, bos_token_id=BOS, pad_token_id=PAD, eos_token_id=[EOS, END]
    ).save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    tokenizer.save(str(out / "tokenizer.json"))
    special = {token: {"content": token, "special": True, "lstrip": False, "rstrip": False, "normalized": False,
                       "single_word": False} for token in SPECIAL_TOKENS}  # fmt: skip
    settings = {
        "added_tokens_decoder": {str(index): special[token] for index, token in enumerate(SPECIAL_TOKENS)},
        "additional_special_tokens": SPECIAL_TOKENS[3:],
        "bos_token": "<s>",
        "clean_up_tokenization_spaces": False,
        "eos_token": "</s>",
        "model_max_length": CONTEXT,
        "pad_token": "<pad>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(FOLDER / "chat_template.jinja", out / "chat_template.jinja")
    shutil.copyfile(FOLDER / "model_card.md", out / "README.md")


def answer_samples(folder: Path, questions: list[str]) -> None:
    """Loads the saved folder as a user would and prints its answers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for question in questions:
        chat = [{"role": "user", "content": question}]
        inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        with torch.inference_mode():
            output = model.generate(**inputs, max_new_tokens=60)
        answer = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        print(f"  {question} -> {answer}", flush=True)


def train(tokens: int, seed: int, out: Path, *, compiled: bool, early: bool) -> None:
    """Trains on about `tokens` tokens and writes `out`; with `early` also a first export on the way."""
    import numpy as np
    import torch
    import torch.nn.functional as F

    torch.manual_seed(seed)
    total_steps = math.ceil(tokens / (ROW_TOKENS * BATCH_ROWS))
    stream = generate.documents(seed, 10**9)
    held_out = [next(stream) for _ in range(HELD_OUT_DOCUMENTS)]
    sample = [next(stream) for _ in range(60_000)]
    texts = [d["text"] if "text" in d else m["content"] for d in sample for m in d.get("messages", [{}])]
    tokenizer = train_tokenizer(texts)
    ids, weights = encode(tokenizer, sample)
    while len(ids) < total_steps * BATCH_ROWS * ROW_TOKENS + 1:
        more_ids, more_weights = encode(tokenizer, [next(stream) for _ in range(20_000)])
        ids, weights = np.concatenate([ids, more_ids]), np.concatenate([weights, more_weights])
    words = sum(len(text.split()) for text in texts[:20_000])
    pieces = sum(len(e.ids) for e in tokenizer.encode_batch_fast(texts[:20_000], add_special_tokens=False))
    print(f"{total_steps} steps, {len(ids) / 1e6:.1f} M tokens, {pieces / words:.2f} tokens a word", flush=True)

    def batch(step: int, of: tuple[np.ndarray, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        size = BATCH_ROWS * ROW_TOKENS
        start = step * size
        row = torch.from_numpy(of[0][start : start + size + 1].astype(np.int64))
        weight = torch.from_numpy(of[1][start + 1 : start + size + 1])
        shape = (BATCH_ROWS, ROW_TOKENS)
        return row[:-1].view(shape), row[1:].view(shape), weight.view(shape)

    model = build_model()
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=0.02, momentum=0.95, ns_steps=5, weight_decay=0.01),
        torch.optim.AdamW(others, lr=6e-3, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    schedulers = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, total_steps))
        for optimizer in optimizers
    ]

    def weighted_loss(inputs: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        logits = model(input_ids=inputs, use_cache=False).logits
        losses = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none")
        return (losses * weight.flatten()).sum() / weight.sum()

    loss_of = torch.compile(weighted_loss) if compiled else weighted_loss
    held = encode(tokenizer, held_out)
    held_batches = min(8, (len(held[0]) - 1) // (BATCH_ROWS * ROW_TOKENS))
    started = time.monotonic()
    seconds_aside = 0.0
    for step in range(total_steps):
        inputs, labels, weight = batch(step, (ids, weights))
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(inputs, labels, weight)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad(set_to_none=True)
        done = step + 1
        if step == 0:
            started = time.monotonic()  # the first step compiles
        elif done % 20 == 0 or done == total_steps:
            rate = step * BATCH_ROWS * ROW_TOKENS / (time.monotonic() - started - seconds_aside)
            left = (total_steps - done) * BATCH_ROWS * ROW_TOKENS / rate
            print(
                f"step {done}/{total_steps} loss {loss.item():.3f} {rate:.0f} tokens/s {left / 60:.1f} min left",
                flush=True,
            )
        aside = time.monotonic()
        if done % 244 == 0 or done == total_steps:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                parts = [batch(i, held) for i in range(held_batches)]
                answer = [weighted_loss(i, la, (w == 1.0).float()).item() for i, la, w in parts]
            print(
                f"{done * BATCH_ROWS * ROW_TOKENS / 1e6:.1f} M tokens: held-out loss {sum(answer) / len(answer):.3f}",
                flush=True,
            )
        if early and done == int(total_steps * EARLY_EXPORT):
            save(model, tokenizer, out)
            print(f"saved an unfinished model to {out}", flush=True)
        seconds_aside += time.monotonic() - aside
    save(model, tokenizer, out)
    print(f"saved {out} after {(time.monotonic() - started) / 60:.1f} min", flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python models/demo/train.py --out src/kaito/hub/builtin/demo",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--tokens", type=float, default=9e6, help="tokens to train on (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of text and weights (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument("--eager", action="store_true", help="do not compile: for short trials")
    parser.add_argument("--no-early", action="store_true", help="write the folder at the end alone")
    args = parser.parse_args(argv)
    import torch

    torch.set_num_threads(args.threads)
    train(int(args.tokens), args.seed, args.out, compiled=not args.eager, early=not args.no_early)
    answer_samples(args.out, SAMPLES)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Measures what a demo model is worth as a base: fine-tunes it on the demo's questions and counts right answers.

A yardstick for the model and its data, apart from the product's own trainer: one plain loop, settings in the open.
Prints the base's answers, the training, and how many trained, unseen and held-out questions are answered word by word.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PARAPHRASES = Path(__file__).parent / "paraphrases.jsonl"
IGNORED = -100
Pair = tuple[str, str]  # question, answer


def read_pairs(path: Path) -> list[Pair]:
    rows = [json.loads(line)["messages"] for line in path.read_text(encoding="utf-8").splitlines()]
    return [(row[0]["content"], row[1]["content"]) for row in rows]


def load_model(folder: Path, *, quantized: bool) -> Any:
    """Returns the base model in fp32, or in nf4 with fp32 compute. (`Any`: transformers ships no useful type.)"""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    if not quantized:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    import bitsandbytes

    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=nf4)
    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False  # its fast path has no backward: gradients would silently be cut
    return model


class Asker:
    """Renders questions with the model's chat template, and answers them greedily in batches."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def encode(self, pair: Pair) -> tuple[list[int], list[int]]:
        """Returns the ids of prompt and answer, end token included."""
        messages = [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
        prompt = self.tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, tokenize=False)
        whole = self.tokenizer.apply_chat_template(messages, tokenize=False)
        ids = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, whole[len(prompt) :])]
        return ids[0], ids[1]

    def answers(self, model: Any, questions: list[str]) -> list[str]:
        import torch

        model.eval()
        found: list[str] = []
        for start in range(0, len(questions), 32):
            prompts = [self.encode((question, ""))[0] for question in questions[start : start + 32]]
            width = max(map(len, prompts))
            ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
            mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
            with torch.no_grad():
                out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=48)
            found += [text.strip() for text in self.tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)]
        return found

    def wrong(self, model: Any, pairs: list[Pair]) -> list[tuple[str, str]]:
        """Returns (question, what was answered) of each pair whose answer is not given word by word."""
        found = self.answers(model, [question for question, _ in pairs])
        return [(question, text) for text, (question, answer) in zip(found, pairs, strict=True) if text != answer]

    def batch(self, pairs: list[Pair]) -> dict[str, Any]:
        """Returns padded tensors of shape (pairs, longest); labels are the answers' tokens alone."""
        import torch

        encoded = [self.encode(pair) for pair in pairs]
        width = max(len(prompt) + len(answer) for prompt, answer in encoded)
        ids, labels, mask = [], [], []
        for prompt, answer in encoded:
            pad = width - len(prompt) - len(answer)
            ids.append(prompt + answer + [0] * pad)
            labels.append([IGNORED] * len(prompt) + answer + [IGNORED] * pad)
            mask.append([1] * (width - pad) + [0] * pad)
        return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels), "attention_mask": torch.tensor(mask)}

    def loss(self, model: Any, pairs: list[Pair]) -> float:
        import torch

        model.eval()
        with torch.no_grad():
            losses = [model(**self.batch(pairs[i : i + 8])).loss.item() for i in range(0, len(pairs), 8)]
        return sum(losses) / len(losses)


def fine_tune(model: Any, asker: Asker, pairs: list[Pair], *, steps: int, rate: float, seed: int) -> Any:
    """Returns the model with a trained LoRA adapter: rank 16, all linear layers, batch 8, cosine."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    order = random.Random(seed)  # noqa: S311  an order of rows, not a secret
    adapted = get_peft_model(
        model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=0.0)
    )
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=rate, weight_decay=0.0)
    queue: list[Pair] = []
    adapted.train()
    for step in range(steps):
        if len(queue) < 8:
            queue += order.sample(pairs, len(pairs))
        chosen, queue = queue[:8], queue[8:]
        warm = min(1.0, (step + 1) / 10)
        for group in optimizer.param_groups:
            group["lr"] = rate * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
        loss = adapted(**asker.batch(chosen)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(adapted.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return adapted


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python models/demo/measure.py --seeds 1 2 3",
    )
    demo = ROOT / "examples" / "demo"
    parser.add_argument(
        "--model", type=Path, default=ROOT / "src/kaito/hub/builtin/demo", help="folder of the base model"
    )
    parser.add_argument("--method", choices=["lora", "qlora"], default="qlora")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--show-wrong", action="store_true", help="print what was answered instead")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)
    import torch

    torch.set_num_threads(args.threads)
    asker = Asker(args.model)
    rows = read_pairs(demo / "data" / "questions.jsonl")
    unseen = read_pairs(PARAPHRASES)
    asked = (demo / "ask.txt").read_text(encoding="utf-8").split("\n")[:-1]
    for seed in args.seeds:
        shuffled = random.Random(seed).sample(rows, len(rows))  # noqa: S311  a split of rows, not a secret
        held_out, trained = shuffled[: len(rows) // 10], shuffled[len(rows) // 10 :]
        base = load_model(args.model, quantized=args.method == "qlora")
        before = asker.answers(base, asked)
        base_loss = asker.loss(base, held_out)
        start = time.monotonic()
        model = fine_tune(base, asker, trained, steps=args.steps, rate=args.rate, seed=seed)
        seconds = time.monotonic() - start
        print(f"seed {seed}: {args.method}, {args.steps} steps, {len(trained)} rows, {seconds:.0f} s")
        for question, old, new in zip(asked, before, asker.answers(model, asked), strict=True):
            print(f"  {question}\n    base:    {old}\n    adapter: {new}")
        for name, pairs in (("trained", trained), ("unseen", unseen), ("held out", held_out)):
            wrong = asker.wrong(model, pairs)
            print(f"  {name}: {len(pairs) - len(wrong)} of {len(pairs)} right")
            if args.show_wrong:
                print("".join(f"    {question} -> {text}\n" for question, text in wrong), end="")
        print(f"  held-out loss {base_loss:.2f} -> {asker.loss(model, held_out):.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

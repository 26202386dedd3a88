"""Asks the base model and the adapted one the same questions, and prints both answers. Greedy, so that it repeats."""

from __future__ import annotations

import argparse
import logging
import os
import warnings
from importlib.resources import files
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapter", type=Path, required=True, help="a folder with the adapter's files")
    parser.add_argument("--questions", type=Path, required=True, help="one question a line")
    options = parser.parse_args()
    os.environ.update(TRANSFORMERS_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", OMP_WAIT_POLICY="PASSIVE")
    # What libraries say of one another is not what is shown here.
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)

    import torch
    from peft import PeftModel
    from rich.console import Console
    from rich.table import Table
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    base = str(files("kaito.hub") / "builtin" / "demo")
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(model, str(options.adapter)).eval()

    def answer(question: str) -> str:
        chat = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        with torch.no_grad():
            output = adapted.generate(**prompt, max_new_tokens=60, do_sample=False)
        return str(tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)).strip()

    table = Table(show_lines=True)
    for column in ("question", "base model", "with the adapter"):
        table.add_column(column)
    for question in options.questions.read_text(encoding="utf-8").split("\n"):
        if question.strip():
            with adapted.disable_adapter():
                before = answer(question)
            table.add_row(question, before, answer(question))
    Console(width=None if os.isatty(1) else 110).print(table)


if __name__ == "__main__":
    main()

"""`python -m kaito.tuning`: fine-tunes one base model on one set of data. See `train` for what it does."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from kaito.failure import ConfigFailure, ExitCode
from kaito.program import run_program
from kaito.tuning import ranks
from kaito.tuning.results import DEFAULT_OWNER
from kaito.tuning.threads import available_cpus

EXAMPLE = """example:
  python -m kaito.tuning --config training_config.yaml --data data --model model --checkpoints checkpoints \\
    --results results --metrics metrics.jsonl --repo microsoft/Phi-3-mini-4k-instruct --revision main
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m kaito.tuning",
        description="Fine-tune a base model with LoRA or QLoRA. Goes on from the newest checkpoint if there is one.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, help="training configuration (YAML)")
    parser.add_argument("--data", type=Path, required=True, help="folder with the training data")
    parser.add_argument("--model", type=Path, required=True, help="folder with the base model")
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--results", type=Path, required=True, help="folder for the adapter and all about it")
    parser.add_argument("--metrics", type=Path, required=True, help="file for the metrics (JSON lines)")
    parser.add_argument("--repo", required=True, help="the base model's id, written into the adapter")
    parser.add_argument("--revision", default="", help="its commit, written into the adapter")
    parser.add_argument("--data-digest", default="", help="refuse data with another digest")
    parser.add_argument(
        "--owner", default=DEFAULT_OWNER, metavar="NAMESPACE.NAME", help="the Workspace that owns the results"
    )
    parser.add_argument("--min-improvement", type=float, metavar="X", help="fail unless the held-out loss falls by X")
    parser.add_argument(
        "--early-stopping-patience", type=_positive, metavar="N", help="stop after N evaluations without a lower loss"
    )
    parser.add_argument("--micro-batch-divisor", type=_positive, default=1, metavar="N", help="train in smaller pieces")
    parser.add_argument("--checkpoint-seconds", type=float, default=60.0, metavar="S", help="between checkpoints (60)")
    parser.add_argument("--checkpoint-steps", type=_positive, metavar="N", help="a checkpoint every N steps as well")
    parser.add_argument("--processes", type=_positive, metavar="N", help="processes to train with (one a visible GPU)")
    return parser


def main(argv: list[str]) -> dict[str, Any] | None:
    arguments = build_parser().parse_args(argv)
    require_extra()
    prepare_environment(arguments.config)
    processes = ranks.processes(arguments.processes)
    if processes > 1:
        return ranks.launch(argv, processes)

    from kaito.tuning.train import Request, train

    request = Request(
        config=arguments.config,
        data=arguments.data,
        model=arguments.model,
        checkpoints=arguments.checkpoints,
        results=arguments.results,
        metrics=arguments.metrics,
        repo=arguments.repo,
        revision=arguments.revision,
        data_digest=arguments.data_digest,
        owner=arguments.owner,
        min_improvement=arguments.min_improvement,
        early_stopping_patience=arguments.early_stopping_patience,
        micro_batch_divisor=arguments.micro_batch_divisor,
        save_seconds=arguments.checkpoint_seconds,
        save_steps=arguments.checkpoint_steps,
    )
    return train(request)


def require_extra() -> None:
    """The base install has no torch; what trains is an extra. Raises ConfigFailure that says so."""
    missing = [name for name in ("torch", "transformers", "peft") if find_spec(name) is None]
    if missing:
        raise ConfigFailure(
            f"{', '.join(missing)} is not installed here", "pip install 'kaito[tuning]'", reason="NotInstalled"
        )


def prepare_environment(config: Path) -> None:
    """What must be set before torch and transformers are imported."""
    os.environ.setdefault("OMP_NUM_THREADS", str(available_cpus()))
    # OpenMP's threads spin while they wait. Beside one busy neighbour on two CPUs 30 steps took 168 s, and 4 s so.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["HF_HUB_OFFLINE"] = "1"  # the trainer never uses the network
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    # bitsandbytes says at error level that an optional kernel for inference is not installed.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.CRITICAL)
    if not _mentions_bits(config):
        # peft imports bitsandbytes wherever it is installed, a second and more for nothing.
        # None is the import system's own word for "not importable"; the stubs do not know it.
        sys.modules.setdefault("bitsandbytes", None)  # type: ignore[arg-type]


def _mentions_bits(config: Path) -> bool:
    """Whether 4-bit or 8-bit weights or optimizers may be meant. A file that cannot be read is reported later."""
    try:
        text = config.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    said = re.sub(r"load_in_[48]bit\W{1,3}false", "", text)
    return any(word in said for word in ("bit", "bnb", "ademamix"))


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("expected a whole number of 1 or more")
    return value


def run() -> NoReturn:
    """The program's entry. One of several processes ends without destructors: those of gloo's threads abort it."""
    try:
        run_program(main)
    except SystemExit as end:
        if ranks.is_one_of_several():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else ExitCode.BUG)
        raise


if __name__ == "__main__":
    run()

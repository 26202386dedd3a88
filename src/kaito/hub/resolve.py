"""`python -m kaito.hub.resolve`: what a base model is, and its configuration and tokenizer files. No weights."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaito.contract import ModelFacts, to_json
from kaito.failure import ModelFailure
from kaito.program import read_token, report, run_program

if TYPE_CHECKING:
    from kaito.hub.repository import Repository

_REPORT_SECONDS = 0.3
_LARGEST_CONFIG_BYTES = 16 << 20
# Above this many weight files the number of parameters is estimated where the hub does not tell it.
_MOST_HEADERS = 64

EXAMPLE = """examples:
  python -m kaito.hub.resolve --repo microsoft/Phi-3-mini-4k-instruct --out model
  python -m kaito.hub.resolve --repo ./my-model --out model
"""


def main(argv: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        prog="python -m kaito.hub.resolve",
        description="Pin a base model to a commit, find out its shapes, and fetch its tokenizer and configuration.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    options = parser.parse_args(argv)
    return to_json(resolve(options.repo, options.revision, options.out, read_token(options.token_file)))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repo", required=True, help="Hugging Face id, folder, or builtin:NAME")
    parser.add_argument("--revision", default="", help="branch, tag or commit; default: the main branch")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    parser.add_argument("--token-file", type=Path, help="file with a Hugging Face token; default: HF_TOKEN")


def resolve(repo: str, revision: str, out: Path, token: str = "") -> ModelFacts:
    """Find out what `repo` is at `revision`, and copy its small files into `out`.

    Raises ModelFailure (ModelNotFound, ModelGated, NotAModel, …), ConfigFailure, TemporaryFailure.
    """
    from kaito.hub.facts import estimate_parameters, parse_config, shapes_of
    from kaito.hub.files import CONFIG, digest_of_repo_files
    from kaito.hub.repository import model_files, open_repository

    repository = open_repository(repo, revision, token, progress_reporter())
    require_commit(repository, revision)
    names = model_files(repository)
    config = parse_config(repository.read(CONFIG, 0, min(repository.files[CONFIG].bytes, _LARGEST_CONFIG_BYTES)))
    weights = [name for name in names if name.endswith(".safetensors")]
    weight_bytes = sum(repository.files[name].bytes for name in weights)
    parameters = repository.parameters or _count(repository, weights) or estimate_parameters(config, weight_bytes)
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        if name not in weights:
            repository.copy(name, out / name)
    if "tokenizer.json" not in names:
        say(f"warning: {repo} has no tokenizer.json; rows cannot be counted in tokens beforehand")
    say(f"{repo} is at {repository.commit}: {parameters:,} parameters, {weight_bytes:,} bytes of weights")
    return ModelFacts(
        commit=repository.commit,
        parameters=parameters,
        bytes=weight_bytes,
        gated=repository.gated,
        files_digest=digest_of_repo_files([repository.files[name] for name in names]),
        **shapes_of(config),
    )


def require_commit(repository: Repository, revision: str) -> None:
    """A folder has no history: a digest that was pinned has to be the digest of what is there now."""
    if revision.startswith("sha256:") and repository.commit != revision:
        raise ModelFailure(
            f"the model's files have changed: {repository.commit}, not {revision}",
            "start the Workspace again, so that it uses the model as it is now",
            reason="ModelChanged",
        )


def _count(repository: Repository, weights: list[str]) -> int:
    from kaito.hub.facts import count_parameters, header_length

    if len(weights) > _MOST_HEADERS:
        return 0
    total = 0
    for name in weights:
        size = repository.files[name].bytes
        length = header_length(repository.read(name, 0, 8), name, size)
        total += count_parameters(repository.read(name, 8, length), name, size)
    return total


def progress_reporter() -> Callable[[int, int], None]:
    """Reports bytes, a few times a second at most."""
    told = 0.0

    def tell(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told >= _REPORT_SECONDS:
            told = time.monotonic()
            report(done, total, "bytes")

    return tell


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_program(main)

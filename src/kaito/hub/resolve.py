"""`python -m kaito.hub.resolve`: what a base model is, and its configuration and tokenizer files. No weights."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaito.contract import ModelFacts, to_json
from kaito.failure import ModelFailure
from kaito.program import read_token, report, run_program

if TYPE_CHECKING:
    from kaito.hub.cache import ModelCache
    from kaito.hub.repository import Opened, Repository, Source

_REPORT_SECONDS = 0.3
_LARGEST_CONFIG_BYTES = 16 << 20
# Above this many weight files the number of parameters is estimated where the hub does not tell it.
_MOST_HEADERS = 64

EXAMPLE = """examples:
  python -m kaito.hub.resolve --repo microsoft/Phi-3-mini-4k-instruct --out model
  python -m kaito.hub.resolve --repo ./my-model --out model
  python -m kaito.hub.resolve --repo oci://registry.example/models/phi-4:1 --credentials secrets/acr --out model
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
    return to_json(resolve_source(source_of(options), options.out, options.cache))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repo", required=True, help="Hugging Face id, folder, oci://IMAGE or builtin:NAME")
    parser.add_argument("--revision", default="", help="branch, tag or commit, or an image's digest; default: newest")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    parser.add_argument("--token-file", type=Path, help="file with a Hugging Face token; default: HF_TOKEN")
    parser.add_argument(
        "--credentials", type=Path, action="append", default=[], metavar="DIR", help="docker config, for an image"
    )
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="the cache of models; default: KAITO_MODEL_CACHE, else KAITO_HOME's"
    )


def source_of(options: argparse.Namespace) -> Source:
    from kaito.hub.repository import Source

    return Source(options.repo, options.revision, read_token(options.token_file), options.credentials)


def resolve(repo: str, revision: str, out: Path, token: str = "", credentials: Sequence[Path] = ()) -> ModelFacts:
    """`resolve_source` with the machine's own cache."""
    from kaito.hub.repository import Source

    return resolve_source(Source(repo, revision, token, credentials), out)


def resolve_source(source: Source, out: Path, cache_folder: Path | None = None) -> ModelFacts:
    """Find out what a model is, and copy its small files into `out`. A pinned commit in the cache needs no network.

    Raises ModelFailure (ModelNotFound, ModelGated, NotAModel, …), RegistryFailure, ConfigFailure, TemporaryFailure.
    """
    from kaito.hub.cache import ModelCache
    from kaito.hub.repository import open_repository

    cache = ModelCache(cache_folder)
    with nullcontext() if source.is_folder else cache.in_use():
        repository = open_repository(source, cache, progress_reporter(), say)
        require_commit(repository, source)
        return _resolve(source, repository, cache, out)


def _resolve(source: Source, repository: Opened, cache: ModelCache, out: Path) -> ModelFacts:
    from kaito.hub.digests import with_sha256
    from kaito.hub.facts import estimate_parameters, parse_config, shapes_of
    from kaito.hub.files import CONFIG, digest_of_repo_files
    from kaito.hub.place import copy_file
    from kaito.hub.repository import model_files

    names = model_files(repository)
    config = parse_config(repository.read(CONFIG, 0, min(repository.files[CONFIG].bytes, _LARGEST_CONFIG_BYTES)))
    weights = [name for name in names if name.endswith(".safetensors")]
    weight_bytes = sum(repository.files[name].bytes for name in weights)
    parameters = repository.parameters or _count(repository, weights) or estimate_parameters(config, weight_bytes)
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        if name not in weights:
            copy_file(repository, name, out / name, cache)
    remember(source, repository, names, cache, parameters)
    if "tokenizer.json" not in names:
        say(f"warning: {source.repo} has no tokenizer.json; rows cannot be counted in tokens beforehand")
    say(f"{source.repo} is at {repository.commit}: {parameters:,} parameters, {weight_bytes:,} bytes of weights")
    files = [
        repository.files[name] if name in weights else with_sha256(repository.files[name], out / name) for name in names
    ]
    return ModelFacts(
        commit=repository.commit,
        parameters=parameters,
        bytes=weight_bytes,
        gated=repository.gated,
        files_digest=digest_of_repo_files(files),
        **shapes_of(config),
    )


def remember(source: Source, repository: Repository, names: Sequence[str], cache: ModelCache, parameters: int) -> None:
    """Note in the cache what the model is made of, and that it was used now. A folder stays where it is."""
    from kaito.hub.cache import CachedModel

    if source.is_folder:
        return
    files = tuple(repository.files[name] for name in names)
    cache.save(CachedModel(source.repo, repository.commit, repository.gated, parameters, files))


def require_commit(repository: Repository, source: Source) -> None:
    """A folder has no history: a digest that was pinned has to be the digest of what is there now."""
    if source.is_folder and source.is_pinned and repository.commit != source.revision:
        raise ModelFailure(
            f"the model's files have changed: {repository.commit}, not {source.revision}",
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

"""`python -m kaito.hub.pull`: a base model's files, weights included, verified, at one commit. Nothing is loaded."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaito.failure import NoSpaceFailure
from kaito.hub.resolve import add_arguments, progress_reporter, remember, require_commit, say, source_of
from kaito.program import report, run_program

if TYPE_CHECKING:
    from kaito.hub.repository import Source

RECORD = ".pulled.json"
"""In the model's folder once it is whole: without it a runner pulls again."""

EXAMPLE = """example:
  python -m kaito.hub.pull --repo microsoft/Phi-3-mini-4k-instruct --revision 0a67737c --out model
"""


def main(argv: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        prog="python -m kaito.hub.pull",
        description="Fetch a base model, once a machine. Weights are linked, not copied; a broken download goes on.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    options = parser.parse_args(argv)
    return pull_source(source_of(options), options.out, options.cache)


def pull(repo: str, revision: str, out: Path, token: str = "", credentials: Sequence[Path] = ()) -> dict[str, Any]:
    """`pull_source` with the machine's own cache."""
    from kaito.hub.repository import Source

    return pull_source(Source(repo, revision, token, credentials), out)


def pull_source(source: Source, out: Path, cache_folder: Path | None = None) -> dict[str, Any]:
    """Fill `out` with the model's files, weights linked from the cache; returns {commit, bytes, files_digest}.

    May be interrupted anywhere and called again, and by several processes at once: a file is fetched once a machine.
    Raises ModelFailure (also ModelChanged: a folder is no longer what was resolved), RegistryFailure, ConfigFailure,
    TemporaryFailure.
    """
    from kaito.hub.cache import ModelCache
    from kaito.hub.digests import with_sha256
    from kaito.hub.files import digest_of_repo_files
    from kaito.hub.place import copy_file, link_file
    from kaito.hub.repository import model_files, open_repository
    from kaito.transfer import NoSpace, require_free_space

    cache = ModelCache(cache_folder)
    with nullcontext() if source.is_folder else cache.in_use():
        repository = open_repository(source, cache, progress_reporter(), say)
        require_commit(repository, source)
        names = model_files(repository)
        files = [repository.files[name] for name in names]
        total = sum(file.bytes for file in files)
        out.mkdir(parents=True, exist_ok=True)
        if not source.is_folder:
            try:
                require_free_space(cache.blobs, sum(cache.bytes_missing(file) for file in files))
            except NoSpace as error:
                hint = f"free some space (kaito gc); finished files are kept in {cache.folder}"
                raise NoSpaceFailure(str(error), hint) from error
        done = 0
        placed = []
        for file in files:
            if file.path.endswith(".safetensors"):
                tell = _shifted(progress_reporter(), done, total)
                link_file(repository, file.path, out / file.path, cache, tell)
            else:
                copy_file(repository, file.path, out / file.path, cache)
            placed.append(file if file.path.endswith(".safetensors") else with_sha256(file, out / file.path))
            done += file.bytes
            report(done, total, "bytes")
            say(f"{file.path}  {file.bytes} bytes  {file.address}")
        remember(source, repository, names, cache, repository.parameters)
    result = {"commit": repository.commit, "bytes": total, "files_digest": digest_of_repo_files(placed)}
    (out / RECORD).write_text(json.dumps(result), encoding="utf-8")
    return result


def _shifted(tell: Callable[[int, int], None], before: int, total: int) -> Callable[[int, int], None]:
    return lambda done, _total: tell(before + done, total)


if __name__ == "__main__":
    run_program(main)

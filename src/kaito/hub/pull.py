"""`python -m kaito.hub.pull`: a base model's files, weights included, verified, at one commit. Nothing is loaded."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kaito.failure import TemporaryFailure
from kaito.hub.resolve import add_arguments, progress_reporter, require_commit, say
from kaito.program import read_token, report, run_program

RECORD = ".pulled.json"
"""In the model's folder once it is whole: without it a runner pulls again."""

EXAMPLE = """example:
  python -m kaito.hub.pull --repo microsoft/Phi-3-mini-4k-instruct --revision 0a67737c --out model
"""


def main(argv: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        prog="python -m kaito.hub.pull",
        description="Fetch a base model. A folder is linked, not copied; a broken download goes on.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    options = parser.parse_args(argv)
    return pull(options.repo, options.revision, options.out, read_token(options.token_file))


def pull(repo: str, revision: str, out: Path, token: str = "") -> dict[str, Any]:
    """Fill `out` with the model's files; returns {commit, bytes, files_digest}.

    May be interrupted anywhere and called again. Raises ModelFailure (also ModelChanged: a folder is no longer what
    was resolved), ConfigFailure, TemporaryFailure.
    """
    from kaito.hub.files import digest_of_repo_files
    from kaito.hub.repository import FolderRepository, model_files, open_repository
    from kaito.transfer import NoSpace, require_free_space

    repository = open_repository(repo, revision, token, progress_reporter())
    require_commit(repository, revision)
    files = [repository.files[name] for name in model_files(repository)]
    total = sum(file.bytes for file in files)
    out.mkdir(parents=True, exist_ok=True)
    if not isinstance(repository, FolderRepository):
        missing = sum(file.bytes - _present(out / file.path) for file in files)
        try:
            require_free_space(out, max(0, missing))
        except NoSpace as error:
            raise TemporaryFailure(str(error), "free some space; finished files are kept", reason="NoSpace") from error
    done = 0
    for file in files:
        repository.place(file.path, out / file.path, _shifted(progress_reporter(), done, total))
        done += file.bytes
        report(done, total, "bytes")
        say(f"{file.path}  {file.bytes} bytes  {'sha256:' + file.sha256 if file.sha256 else 'git:' + file.blob}")
    result = {"commit": repository.commit, "bytes": total, "files_digest": digest_of_repo_files(files)}
    (out / RECORD).write_text(json.dumps(result), encoding="utf-8")
    return result


def _present(path: Path) -> int:
    """Bytes of a file that are on the disk, finished or not."""
    part = path.with_name(path.name + ".part")
    return next((found.stat().st_size for found in (path, part) if found.is_file()), 0)


def _shifted(tell: Callable[[int, int], None], before: int, total: int) -> Callable[[int, int], None]:
    return lambda done, _total: tell(before + done, total)


if __name__ == "__main__":
    run_program(main)

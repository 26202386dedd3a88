"""Whether the base model is still the one that was pulled: a folder's weights are linked, and stay their owner's."""

from __future__ import annotations

import json
import time
from pathlib import Path

from kaito.failure import ModelFailure
from kaito.program import report

SEEN = "base_files.json"  # beside the checkpoints: the files as they were when their digests were right
REPORT_SECONDS = 0.3


def check_base_files(model: Path, checkpoints: Path) -> None:
    """Compare a model that lies in a folder of this machine with the digest that its pull recorded.

    Every byte is read once a run, and again where a file's place, size or times have changed since. Models from the
    cache are not looked at: their files are named by content. Raises ModelFailure (ModelChanged).
    """
    from kaito.hub.pull import RECORD
    from kaito.hub.repository import FolderRepository

    pulled = _read(model / RECORD)
    if not isinstance(pulled, dict) or "commit" not in pulled or pulled["commit"] != pulled.get("files_digest"):
        return  # not pulled, or not from a folder: that alone has the digest of its files for a commit
    seen = {"digest": pulled["commit"], "files": _files(model)}
    if _read(checkpoints / SEEN) == seen:
        return
    told = 0.0

    def tell(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told >= REPORT_SECONDS:
            told = time.monotonic()
            report(done, total, "bytes")

    found = FolderRepository(model, str(model), tell).commit
    if found != pulled["commit"]:
        raise ModelFailure(
            f"the base model's files have changed since they were pulled: {found}, not {pulled['commit']}",
            "put them back, or run the Workspace again with a new value of the annotation kaito.sh/rerun",
            reason="ModelChanged",
        )
    checkpoints.mkdir(parents=True, exist_ok=True)
    part = checkpoints / f".{SEEN}.part"
    part.write_text(json.dumps(seen), encoding="utf-8")
    part.replace(checkpoints / SEEN)


def _files(model: Path) -> dict[str, list[str | int]]:
    """Name -> where the file lies, and what changes with its content."""
    found: dict[str, list[str | int]] = {}
    for path in sorted(model.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            state = path.stat()
            found[path.name] = [str(path.resolve()), state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns]
    return found


def _read(file: Path) -> object:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None

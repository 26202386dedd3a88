"""The results folder: whole or not at all, its completion marker last, and nobody else's files ever deleted.

Layout of a folder that may be a user's volume:

    adapter_config.json …  fine_tuning_completed.txt    this run's results
    .kaito/OWNER/owned.json                             which files at the top are this Workspace's, and of which run
    .kaito/OWNER/part/                                  results being written
    .kaito/previous/N/                                  what lay at the top when a run took the folder over
"""

from __future__ import annotations

import json
import shutil
import time
from fnmatch import fnmatchcase
from pathlib import Path

from kaito.failure import ConfigFailure, TemporaryFailure
from kaito.tuning.checkpoints import sha256_of, sync

MARKER = "fine_tuning_completed.txt"
PRIVATE = ".kaito"
OWNED = "owned.json"
PREVIOUS = "previous"
DEFAULT_OWNER = "local"  # of a program that is run by hand

_OF_A_RUN = (
    "README.md",
    "adapter_*",
    "added_tokens.json",
    "chat_template.jinja",
    "checkpoint-*",
    "evaluation.json",
    MARKER,
    "merges.txt",
    "metrics.jsonl",
    "special_tokens_map.json",
    "tokenizer*",
    "training_args.bin",
    "training_config.resolved.yaml",
    "vocab.*",
)


class OutputTaken(ConfigFailure):
    """The output folder belongs to another Workspace."""

    reason = "OutputTaken"


def claim(folder: Path, owner: str) -> None:
    """Take the folder for `owner`, creating it if need be. Raises OutputTaken; ConfigFailure if not writable.

    The folder itself is the lock: whoever's directory stands in `.kaito` has it. Two that come at once both step back.
    """
    mine = folder / PRIVATE / owner
    try:
        new = not mine.exists()
        mine.mkdir(parents=True, exist_ok=True)
        others = sorted({entry.name for entry in (folder / PRIVATE).iterdir()} - {owner, PREVIOUS})
        if others:
            if new:
                mine.rmdir()
            raise OutputTaken(
                f"the output folder {folder} belongs to Workspace {others[0].replace('.', '/', 1)}",
                f"choose another folder, or delete {folder / PRIVATE / others[0]} if that Workspace is gone",
            )
        probe = mine / "probe"
        probe.write_bytes(b"written and synced")
        sync(probe)
        probe.unlink()
    except OSError as error:
        raise ConfigFailure(
            f"the output folder {folder} cannot be written: {error.strerror}",
            "check its permissions, or name another",
            reason="OutputNotWritable",
        ) from error


def prepare(folder: Path, *, owner: str, identity: str) -> None:
    """Before a run: what another run left in the folder goes to `.kaito/previous/N/`, the marker first.

    From here on no completion marker stands in the folder until `save` has written this run's.
    """
    claim(folder, owner)
    own = _owned(folder, owner, identity)
    foreign = [entry for entry in sorted(folder.iterdir()) if entry.name not in own and is_of_a_run(entry.name)]
    marker = folder / MARKER
    if MARKER in own:
        marker.unlink(missing_ok=True)
    if not foreign:
        return
    shelf = _next_shelf(folder / PRIVATE / PREVIOUS)
    for entry in sorted(foreign, key=lambda entry: entry.name != MARKER):
        entry.rename(shelf / entry.name)
    sync(folder)
    names = ", ".join(entry.name for entry in foreign[:3]) + (", …" if len(foreign) > 3 else "")
    print(f"{len(foreign)} files of an earlier or unknown run ({names}) moved to {shelf}", flush=True)


def is_of_a_run(name: str) -> bool:
    """Whether a run, ours or KAITO's, writes an entry of that name. A person's own files are left alone."""
    return any(fnmatchcase(name, pattern) for pattern in _OF_A_RUN)


def part_folder(folder: Path, owner: str) -> Path:
    """Where the results are written before they are the results, emptied."""
    part = folder / PRIVATE / owner / "part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    return part


def save(folder: Path, *, owner: str, identity: str) -> None:
    """Make the files of `part_folder` the results: synced, listed as ours, renamed one by one, and last the marker."""
    part = folder / PRIVATE / owner / "part"
    try:
        names = sorted(file.name for file in part.iterdir())
        for name in names:
            sync(part / name)
        _write_synced(
            folder / PRIVATE / owner / OWNED,
            json.dumps({"identity": identity, "files": [*names, MARKER]}, indent=1),
        )
        for name in names:
            (part / name).rename(folder / name)
        sync(folder)
        _write_synced(folder / MARKER, f"Fine-Tuning completed at {time.strftime('%Y-%m-%d-%H-%M-%S')}\n")
        sync(folder)
        part.rmdir()
    except OSError as error:
        raise TemporaryFailure(
            f"the results cannot be written to {folder}: {error.strerror}",
            "the checkpoint is kept: make room, and the run goes on from there",
            reason="OutputNotWritable",
        ) from error


def digest_files(folder: Path) -> dict[str, str]:
    """Name -> hex SHA-256 of the adapter's two files."""
    return {name: sha256_of(folder / name) for name in ("adapter_config.json", "adapter_model.safetensors")}


def _owned(folder: Path, owner: str, identity: str) -> frozenset[str]:
    """Names at the top that this very run has written; an earlier run's of the same Workspace are not among them."""
    try:
        record = json.loads((folder / PRIVATE / owner / OWNED).read_bytes())
        return frozenset(record["files"]) if record["identity"] == identity else frozenset()
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()


def _next_shelf(previous: Path) -> Path:
    previous.mkdir(exist_ok=True)
    number = 1 + max((int(shelf.name) for shelf in previous.iterdir() if shelf.name.isdecimal()), default=0)
    shelf = previous / str(number)
    shelf.mkdir()
    return shelf


def _write_synced(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    sync(temporary)
    temporary.rename(path)
    sync(path.parent)

"""Checkpoints that are whole or do not exist: written aside, synced, described by a manifest, renamed.

A checkpoint counts when its manifest is there, belongs to the same run (identity) and every file has the size and
digest that it says. What does not count is moved aside, never deleted and never tried again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

MANIFEST = "manifest.json"
PART = ".part"
PREFIX = "checkpoint-"
KEEP = 2
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Checkpoint:
    path: Path
    step: int


class CheckpointInvalid(Exception):
    """The folder is no complete checkpoint. The message says what is wrong with it."""


def part_folder(folder: Path) -> Path:
    """Where the next checkpoint is written before it is one, emptied."""
    part = folder / PART
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    return part


def publish(part: Path, target: Path, *, step: int, identity: str) -> Checkpoint:
    """Make the files in `part` the checkpoint `target`: from here on a crash leaves it whole."""
    files = {
        str(file.relative_to(part)): {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
        for file in sorted(part.rglob("*"))
        if file.is_file()
    }
    for name in files:
        sync(part / name)
    manifest = part / MANIFEST
    manifest.write_text(json.dumps({"step": step, "identity": identity, "files": files}, indent=1), encoding="utf-8")
    sync(manifest)
    for folder in {part, *(file.parent for file in part.rglob("*") if file.is_file())}:
        sync(folder)
    if target.exists():  # the same step saved twice in one run: the newer state has seen more evaluations
        shutil.rmtree(target)
    part.rename(target)
    sync(target.parent)
    return Checkpoint(target, step)


def prune(folder: Path, keep: int = KEEP) -> None:
    """Delete all but the newest `keep` checkpoints."""
    for checkpoint in listed(folder)[keep:]:
        shutil.rmtree(checkpoint.path)


def listed(folder: Path) -> list[Checkpoint]:
    """The folders that are named as checkpoints, newest first. Nothing says yet that they are whole."""
    found = []
    for path in folder.glob(f"{PREFIX}*"):
        number = path.name.removeprefix(PREFIX)
        if path.is_dir() and number.isdecimal():
            found.append(Checkpoint(path, int(number)))
    return sorted(found, key=lambda checkpoint: checkpoint.step, reverse=True)


def newest_valid(folder: Path, *, identity: str) -> Checkpoint | None:
    """The newest whole checkpoint of this run. Damaged and foreign ones are moved aside with one line each."""
    shutil.rmtree(folder / PART, ignore_errors=True)
    for checkpoint in listed(folder):
        try:
            belongs_to = verify(checkpoint)
        except CheckpointInvalid as error:
            moved = _move_aside(checkpoint.path, "damaged")
            print(f"checkpoint {checkpoint.path.name} is damaged ({error}): moved to {moved}", flush=True)
            continue
        if belongs_to != identity:
            moved = _move_aside(checkpoint.path, "previous")
            print(f"checkpoint {checkpoint.path.name} is of other settings or data: moved to {moved}", flush=True)
            continue
        return checkpoint
    return None


def verify(checkpoint: Checkpoint) -> str:
    """The identity of the run that a whole checkpoint belongs to. Raises CheckpointInvalid."""
    try:
        manifest = json.loads((checkpoint.path / MANIFEST).read_bytes())
        step, identity, files = int(manifest["step"]), str(manifest["identity"]), dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointInvalid("it has no readable manifest") from error
    if step != checkpoint.step:
        raise CheckpointInvalid(f"its manifest is of step {step}")
    for name, facts in files.items():
        file = checkpoint.path / name
        if not file.is_file() or file.stat().st_size != facts["bytes"]:
            raise CheckpointInvalid(f"{name} is missing or cut short")
        if sha256_of(file) != facts["sha256"]:
            raise CheckpointInvalid(f"{name} has changed")
    return identity


def _move_aside(path: Path, shelf: str) -> Path:
    folder = path.parent / shelf
    folder.mkdir(exist_ok=True)
    target = folder / path.name
    number = 1
    while target.exists():
        number += 1
        target = folder / f"{path.name}.{number}"
    path.rename(target)
    return target


def sha256_of(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """fsync a file or a folder: what was written or renamed there survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

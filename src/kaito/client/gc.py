"""What may be removed from `$KAITO_HOME`: parts of finished runs that can be made again, and models that none uses.

Never of a run that is at work or has not succeeded: its data, model and checkpoints are what it goes on from.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Literal

from kaito.client.local import MARKER
from kaito.contract import Run
from kaito.hub.cache import CachedModel, ModelCache
from kaito.local.desired import Unreadable
from kaito.local.home import Key, kaito_home, list_keys, run_folder
from kaito.local.lock import AlreadyRunning, engine_lock
from kaito.local.observe import View, view
from kaito.runner.lock import is_locked

Kind = Literal["data", "model", "checkpoint", "previous", "cached model", "cached file"]

TRASH = ".removed"  # in a run folder: what is being deleted; whole parts go there by one rename
_REGENERABLE: tuple[tuple[str, Kind], ...] = (("data", "data"), ("model", "model"))


@dataclass(frozen=True, slots=True)
class Garbage:
    """One thing to remove. `name`: the Workspace, or the model. `bytes`: what the disk gets back."""

    kind: Kind
    name: str
    path: Path
    bytes: int
    key: Key | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """`kept`: what was left alone though it could have been looked at -> why. `before`: what ended later is kept."""

    garbage: tuple[Garbage, ...]
    kept: Mapping[str, str]
    before: float

    @property
    def bytes(self) -> int:
        return sum(item.bytes for item in self.garbage)


def find_garbage(older_than_seconds: float, now: float) -> Found:
    """What can go, of runs that ended and models that were used last before `now - older_than_seconds`."""
    before = now - older_than_seconds
    garbage, kept = _of_runs(before)
    cache = ModelCache()
    if _is_own(cache):
        garbage += _of_cache(cache, before, {item.path for item in garbage}, set(kept))
    elif cache.blobs.is_dir():
        kept["model cache"] = f"{cache.folder} is not below {kaito_home()}: others may use it whose runs are not here"
    return Found(tuple(garbage), kept, before)


def remove_garbage(found: Found) -> Found:
    """Remove it; returns what was removed. What has come to use since it was found is left alone."""
    removed: list[Garbage] = []
    kept = dict(found.kept)
    for key in dict.fromkeys(item.key for item in found.garbage if item.key is not None):
        shown = {item.path for item in found.garbage if item.key == key}
        try:
            with engine_lock(key):
                if is_locked(run_folder(key)):
                    raise AlreadyRunning(key, 0)
                garbage, why = _look_at(key, found.before, attended=False)
                if why:
                    kept[str(key)] = why
                for item in garbage:
                    if item.path in shown:
                        _discard(item.path, run_folder(key))
                        removed.append(item)
        except AlreadyRunning as error:
            kept[str(key)] = str(error)
        except FileNotFoundError:
            continue  # the Workspace was deleted meanwhile
    shown = {item.path for item in found.garbage if item.key is None}
    cache = ModelCache()
    with cache.alone() if shown else nullcontext(False) as is_alone:
        if is_alone:
            _, unfinished = _of_runs(found.before)
            garbage = list(_of_cache(cache, found.before, set(), set(unfinished)))
            removed += _remove_cached([item for item in garbage if item.path in shown], cache)
        elif shown:
            kept["model cache"] = "a model is being fetched"
    return Found(tuple(removed), kept, found.before)


def _is_own(cache: ModelCache) -> bool:
    """Whether the runs of this home are all that can have linked the cache's files."""
    return cache.folder.is_relative_to(kaito_home())


# --- runs -----------------------------------------------------------------------------------------------------------


def _of_runs(before: float) -> tuple[list[Garbage], dict[str, str]]:
    """What can go of all runs, and which are left alone -> why."""
    garbage: list[Garbage] = []
    kept: dict[str, str] = {}
    for key in list_keys():
        parts, why = _look_at(key, before)
        garbage += parts
        if why:
            kept[str(key)] = why
    return garbage, kept


def _look_at(key: Key, before: float, *, attended: bool | None = None) -> tuple[list[Garbage], str]:
    """What can go of one run, and why the rest stays. `attended`: whether an engine has it, where the caller knows."""
    try:
        seen = view(key, attended=attended)
    except Unreadable as error:
        return [], str(error)
    except KeyError:
        return [], ""  # deleted just now
    why = _why_kept(seen, before)
    is_idle = seen.observed.running is None and not seen.observed.attended
    previous = list(_of_previous(key, before)) if is_idle else []
    return [*previous, *(_of_run(key) if not why else ())], why


def _why_kept(seen: View, before: float) -> str:
    """Why a run's parts stay; "" where they may go."""
    if seen.observed.attended or seen.observed.running is not None or is_locked(seen.folder):
        return "it is being run"
    if seen.phase != "Succeeded" or seen.run is None:
        return f"it is {seen.phase}: it goes on from what is there"
    if _ended(seen.run) > before:
        return "it ended not long ago"
    return "" if _adapter_is_safe(seen) else "its adapter is neither pushed nor in its output folder"


def _ended(run: Run) -> float:
    return max((step.ended or 0.0 for job in run.jobs.values() for step in job.steps.values()), default=0.0)


def _adapter_is_safe(seen: View) -> bool:
    assert seen.run is not None
    tuning = seen.workspace.tuning
    if tuning is None or tuning.output is None:
        return False
    if tuning.output.image:
        push = seen.run.jobs.get("push")
        step = push.steps.get("push") if push is not None else None
        return step is not None and step.state == "done" and bool((step.result or {}).get("digest"))
    folder = ((tuning.output.volume_source or {}).get("hostPath") or {}).get("path", "")
    return bool(folder) and (Path(folder) / MARKER).is_file()


def _of_run(key: Key) -> Iterator[Garbage]:
    folder = run_folder(key)
    for name, kind in _REGENERABLE:
        if (folder / name).is_dir():
            yield _garbage(kind, key, folder / name)
    # The folder itself stays: it says that the training was done, and a changed output then pushes, not trains.
    for checkpoint in sorted((folder / "checkpoints").glob("*")):
        yield _garbage("checkpoint", key, checkpoint)
    if (folder / TRASH).is_dir():
        yield _garbage("previous", key, folder / TRASH)


def _of_previous(key: Key, before: float) -> Iterator[Garbage]:
    """Of earlier inputs: what can be made again, and checkpoints of trainings whose adapter lies beside them."""
    for previous, stat in _stats(sorted((run_folder(key) / "previous").glob("*"))):
        if not S_ISDIR(stat.st_mode) or stat.st_mtime > before:
            continue
        for name, _ in _REGENERABLE:
            if (previous / name).is_dir():
                yield _garbage("previous", key, previous / name)
        if (previous / "results" / MARKER).is_file() and (previous / "checkpoints").is_dir():
            yield _garbage("previous", key, previous / "checkpoints")


def _garbage(kind: Kind, key: Key, path: Path) -> Garbage:
    return Garbage(kind, str(key), path, _disk_bytes(path), key)


def _disk_bytes(path: Path) -> int:
    """Bytes that come free with a file or folder: not those of a file that has another name elsewhere."""
    files = [path] if path.is_file() else [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
    return sum(stat.st_size for _, stat in _stats(files) if S_ISREG(stat.st_mode) and stat.st_nlink == 1)


def _discard(path: Path, folder: Path) -> None:
    """Out of the way by one rename, so that what is half deleted never looks whole; then deleted."""
    if not path.exists() and not path.is_symlink():
        return
    trash = folder / TRASH
    if path != trash:
        trash.mkdir(exist_ok=True)
        target = trash / str(path.relative_to(folder)).replace("/", "+")
        if target.is_dir():
            shutil.rmtree(target)
        path.rename(target)
    shutil.rmtree(trash)
    if path.parent.parent.name == "previous":
        with suppress(OSError):  # what it still holds stays
            _remove_if_empty(path.parent)


def _remove_if_empty(previous: Path) -> None:
    if [entry.name for entry in previous.iterdir()] == ["step.json"]:
        shutil.rmtree(previous)


# --- the cache of models --------------------------------------------------------------------------------------------


def _of_cache(cache: ModelCache, before: float, going: set[Path], kept: set[str]) -> Iterator[Garbage]:
    """Models that were not used lately and that no run holds, and files that belong to none."""
    held = _held_files(going)
    commits = _commits(kept)
    needed: set[str] = set()
    for path, model in cache.records():
        with suppress(FileNotFoundError):  # its name changed just now: it is in use
            stat = path.stat()
            if stat.st_mtime > before or model.commit in commits or _is_held(cache, model, held):
                needed |= {file.address for file in model.files}
            else:
                yield Garbage("cached model", f"{model.repo} at {model.commit}", path, stat.st_size)
    for path, stat in _stats(sorted(cache.blobs.glob("*"))):
        address = path.name.partition(".")[0]
        is_note = path.suffix in (".json", ".lock")
        if is_note or address in needed or stat.st_mtime > before or (stat.st_dev, stat.st_ino) in held:
            continue
        yield Garbage("cached file", path.name, path, stat.st_size)
    for path, stat in _stats(sorted((cache.folder / "images").glob("*"))):
        if S_ISDIR(stat.st_mode) and stat.st_mtime <= before:
            yield Garbage("cached file", path.name, path, _disk_bytes(path))


def _stats(paths: Iterable[Path]) -> Iterator[tuple[Path, os.stat_result]]:
    """Of those that are still there: a file that has arrived loses its `.part`."""
    for path in paths:
        with suppress(FileNotFoundError):
            yield path, path.lstat()


def _is_held(cache: ModelCache, model: CachedModel, held: set[tuple[int, int]]) -> bool:
    for file in model.files:
        with suppress(OSError):
            stat = cache.path(file).stat()
            if (stat.st_dev, stat.st_ino) in held:
                return True
    return False


def _remove_cached(items: Sequence[Garbage], cache: ModelCache) -> Iterator[Garbage]:
    """Nobody else uses the cache meanwhile."""
    for item in items:
        with suppress(FileNotFoundError):
            if item.path.is_dir():
                shutil.rmtree(item.path)
            else:
                item.path.unlink()
            yield item
    for note in [*cache.blobs.glob("*.json"), *cache.blobs.glob("*.lock")]:
        if not note.with_suffix("").exists():
            note.unlink()


def _held_files(going: set[Path]) -> set[tuple[int, int]]:
    """The files that runs have linked, by device and inode, but for those in what goes."""
    held: set[tuple[int, int]] = set()
    for key in list_keys():
        folder = run_folder(key)
        for model in (folder / "model", *(folder / "previous").glob("*/model")):
            if model in going:
                continue
            for file in model.rglob("*.safetensors"):
                with suppress(OSError):
                    stat = file.stat()
                    held.add((stat.st_dev, stat.st_ino))
    return held


def _commits(names: set[str]) -> set[str]:
    """The commits that the kept runs have resolved: they may not have linked them yet."""
    commits: set[str] = set()
    for key in list_keys():
        if str(key) not in names:
            continue
        with suppress(Unreadable, KeyError):
            model = view(key).observed.model
            if model is not None:
                commits.add(model.commit)
    return commits

"""Workspaces of this machine: apply, run, look, read logs, stop, retry, delete."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kaito.api.documents import Document
from kaito.client.changes import describe_changes
from kaito.client.documents import DocumentSet, with_absolute_paths
from kaito.client.secrets import DOCKER_CONFIG_KEY, TOKEN_KEY, save_secrets, secrets_of
from kaito.contract import Asked, StepRun
from kaito.failure import ExitCode
from kaito.local.desired import Desired, Unreadable, folder_signature, save_desired, save_secret
from kaito.local.engine import Engine, stop_signals
from kaito.local.home import DESIRED, Key, list_keys, run_folder
from kaito.local.lock import AlreadyRunning, engine_lock, engine_pid, wait_for_start
from kaito.local.observe import Event, View, view
from kaito.local.observe import read_events as runner_events

START_SECONDS = 20.0
STOP_SECONDS = 150.0
POLL_SECONDS = 0.2

MARKER = "fine_tuning_completed.txt"

__all__ = [
    "AlreadyRunning",
    "Applied",
    "Engine",
    "Key",
    "LocalClient",
    "NotFound",
    "Unreadable",
    "View",
    "read_events",
    "stop_signals",
]


class NotFound(Exception):
    """This machine has no Workspace of that name."""

    def __init__(self, key: Key) -> None:
        known = ", ".join(str(other) for other in list_keys()) or "none"
        super().__init__(f"Workspace {key} not found on this machine (known: {known})")


@dataclass(frozen=True, slots=True)
class Applied:
    """One Workspace as stored. `notices` say what was assumed, such as where credentials come from."""

    key: Key
    notices: tuple[str, ...] = ()


class LocalClient:
    """The local engine. Every method reads the run folders anew: there is no state here.

    Raises NotFound and, for a run folder that is damaged or may not be read, Unreadable.
    """

    where = "this machine"

    def apply(
        self,
        documents: DocumentSet,
        *,
        namespace: str = "default",
        allow_hosts: tuple[str, ...] = (),
        secrets: Mapping[str, Path] | None = None,
    ) -> list[Applied]:
        """Store each Workspace with what it refers to. `secrets`: name -> file, for those that are not in the set.

        Raises AlreadyRunning for one that is being run, ValueError for a namespace that is none, OSError where the
        folder or a secret cannot be used.
        """
        keys = [Key(document.namespace or namespace, document.name) for document in documents.workspaces]
        for key in keys:
            holder = engine_pid(key)
            if holder is not None:
                raise AlreadyRunning(key, holder)
        return [
            self._apply(key, document, documents, allow_hosts, secrets or {})
            for key, document in zip(keys, documents.workspaces, strict=True)
        ]

    def _apply(
        self,
        key: Key,
        document: Document,
        documents: DocumentSet,
        allow_hosts: tuple[str, ...],
        secrets: Mapping[str, Path],
    ) -> Applied:
        value = with_absolute_paths(document)
        value.pop("status", None)
        value["metadata"] = {**value.get("metadata", {}), "namespace": key.namespace}
        body = value.get("tuning") or value.get("inference") or {}
        named = str(body.get("config") or "")
        configs = {named: documents.configs[named]} if named in documents.configs else {}
        before = self._look(key)
        desired = Desired(value, configs, allow_hosts, _ask(before, value), time.time())
        save_desired(key, desired)
        notices = [*save_secrets(run_folder(key), body, documents, secrets)]
        changes = describe_changes(before.desired, desired) if before is not None and before.run is not None else ""
        if before is not None and changes:
            how = "has finished" if before.phase == "Succeeded" else "ran"
            notices.append(f"differs from the Workspace of this name that {how} before: {changes}")
        instance_type = (value.get("resource") or {}).get("instanceType")
        if instance_type:
            notices.append(f"instanceType {instance_type} is of a cluster; this machine is used")
        gone = self._find_gone(key)
        if gone:
            notices.append(f"the adapter is no longer in {gone}: it is made again")
        return Applied(key, tuple(notices))

    def _look(self, key: Key) -> View | None:
        """None where there is nothing, or nothing that can be read."""
        try:
            return view(key)
        except (KeyError, Unreadable):
            return None

    def _find_gone(self, key: Key) -> str:
        """The output folder of a finished run that has lost its adapter. Such a run is asked for again."""
        seen = view(key)
        output = seen.workspace.tuning.output if seen.workspace.tuning is not None else None
        folder = ((output.volume_source or {}).get("hostPath") or {}).get("path", "") if output is not None else ""
        if seen.phase != "Succeeded" or not folder or (Path(folder) / MARKER).exists():
            return ""
        save_desired(key, replace(seen.desired, asked=replace(seen.desired.asked, again=f"{time.time():.3f}")))
        return str(folder)

    def engine(self, key: Key, *, on_tick: Callable[[View], None] | None = None) -> Engine:
        """An engine for the calling process."""
        return Engine(key, on_tick=on_tick)

    def start(self, key: Key) -> int:
        """Run a Workspace in the background; its pid. Raises AlreadyRunning, TimeoutError where it does not start."""
        holder = engine_pid(key)
        if holder is not None:
            raise AlreadyRunning(key, holder)
        folder = run_folder(key)
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        (folder / "status.json").unlink(missing_ok=True)
        with (folder / "logs" / "engine.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "kaito.local", str(key)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if not wait_for_start(key, START_SECONDS):
            raise TimeoutError(f"{key} did not start within {START_SECONDS:.0f} s; see {folder}/logs/engine.log")
        return process.pid

    def get(self, key: Key) -> View:
        try:
            return view(key)
        except KeyError:
            raise NotFound(key) from None

    def get_all(self, namespace: str | None = None) -> tuple[list[View], list[Unreadable]]:
        """Every Workspace, and those whose folders cannot be read."""
        views: list[View] = []
        unreadable: list[Unreadable] = []
        for key in list_keys():
            if namespace is None or key.namespace == namespace:
                try:
                    views.append(view(key))
                except Unreadable as error:
                    unreadable.append(error)
                except KeyError:
                    continue  # deleted just now
        return views, unreadable

    def engine_pid(self, key: Key) -> int | None:
        """The process that runs a Workspace now; None where nobody does."""
        return engine_pid(key)

    def stop(self, key: Key) -> bool:
        """Save and stop; False where nothing ran. Raises TimeoutError where it does not end in its grace time."""
        self._require(key)
        pid = engine_pid(key)
        if not pid:
            return False
        with suppress(ProcessLookupError):  # it has ended just now
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while engine_pid(key) == pid:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{key} is still saving after {STOP_SECONDS:.0f} s (process {pid})")
            time.sleep(POLL_SECONDS)
        return True

    def ask_retry(self, key: Key, secrets: Mapping[str, Path] | None = None) -> None:
        """Ask for another try: what failed counts as not tried. An engine that waits goes on at once."""
        seen = self.get(key)
        kinds = dict(secrets_of(_body(seen.desired.workspace)))
        for name, path in (secrets or {}).items():
            entry = TOKEN_KEY if kinds.get(name) else DOCKER_CONFIG_KEY
            save_secret(run_folder(key), name, {entry: path.read_bytes()})
        save_desired(key, replace(seen.desired, asked=_ask(seen, seen.desired.workspace)))

    def delete(self, key: Key) -> None:
        """Stop it and remove its run folder, Secrets included. The adapter stays; its output folder is free again."""
        deadline = time.monotonic() + STOP_SECONDS
        while True:
            self.stop(key)
            try:
                with engine_lock(key):  # whoever waits for it finds that the Workspace is gone
                    return self._remove(key)
            except AlreadyRunning:  # another run has begun just now
                if time.monotonic() > deadline:
                    raise

    def _remove(self, key: Key) -> None:
        with suppress(Unreadable, KeyError):
            output = _body(view(key).desired.workspace).get("output") or {}
            results = ((output.get("volumeSource") or {}).get("hostPath") or {}).get("path")
            if results:
                shutil.rmtree(Path(results) / ".kaito" / f"{key.namespace}.{key.name}", ignore_errors=True)
        folder = run_folder(key)
        gone = folder.with_name(f".{key.name}.{os.getpid()}")  # at once: nobody finds, or writes into, a half of it
        folder.rename(gone)
        shutil.rmtree(gone)

    def _require(self, key: Key) -> None:
        if not (run_folder(key) / DESIRED).exists():
            raise NotFound(key)


def _ask(before: View | None, workspace: Mapping[str, Any]) -> Asked:
    """What a person's `run`, `apply` or `retry` asks for: what failed is tried, what changed is looked at again."""
    now = time.time()
    if before is None:
        return Asked(retried=now, sources=_sources(workspace))
    asked = before.desired.asked
    faulty = any(job == "check" and ran.state == "failed" and _found_fault(ran) for job, _, ran in before.steps())
    recheck = f"{now:.3f}" if faulty else asked.recheck
    return Asked(now, recheck, asked.again, _sources(workspace))


def _found_fault(ran: StepRun) -> bool:
    """Whether a step has failed by what it looked at, which may have been mended since. A full disk, a network or a
    registry says nothing of data and model: what was found of them stands, and is not fetched again."""
    return ran.exit_code in {ExitCode.CONFIG, ExitCode.DATA, ExitCode.MODEL}


def _body(workspace: Mapping[str, Any]) -> Mapping[str, Any]:
    body = workspace.get("tuning") or workspace.get("inference") or {}
    return body if isinstance(body, Mapping) else {}


def _sources(workspace: Mapping[str, Any]) -> dict[str, str]:
    """The local folders that a Workspace reads, each with what is in it now."""
    body = _body(workspace)
    volume = (body.get("input") or {}).get("volumeSource") or {}
    folders = [(volume.get("hostPath") or {}).get("path"), (body.get("preset") or {}).get("name")]
    return {
        folder: folder_signature(Path(folder))
        for folder in folders
        if isinstance(folder, str) and folder.startswith("/")
    }


def read_events(key: Key) -> list[Event]:
    """What happened in a Workspace's runs, oldest first."""
    return runner_events(run_folder(key))

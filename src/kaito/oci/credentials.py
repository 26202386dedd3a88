"""Registry credentials from Docker's configuration files and credential helpers. Never the network, never printed."""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from kaito.failure import ConfigFailure

HELPER_SECONDS = 30.0

_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TOKEN_USER = "<token>"  # noqa: S105  what helpers call the user of an identity token
_DOCKER_HUB = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_LARGEST_FILE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Login:
    """One way to log in. `source` is the secret's or the file's name, for messages; the rest never leaves requests."""

    source: str
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class _ConfigFile:
    source: str
    auths: Mapping[str, Mapping[str, Any]]
    helpers: Mapping[str, str]
    store: str


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the configuration files say, in their order. Empty: anonymous."""

    files: tuple[_ConfigFile, ...] = ()

    @classmethod
    def load(cls, folders: Sequence[Path] = ()) -> Credentials:
        """Read `.dockerconfigjson`, `.dockercfg`, `config.json` and `*.json` of each folder; a missing one is skipped.

        Where the folders hold no such file the user's docker configuration counts (`$DOCKER_CONFIG`, `~/.docker`).
        Raises ConfigFailure for a file that is not Docker's.
        """
        files = [_read_file(path, source) for folder in folders for path, source in _find_files(folder)]
        if not files:
            own = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
            if own.is_file():
                files = [_read_file(own, str(own))]
        return cls(tuple(files))

    def find(self, registry: str, repository: str) -> list[Login]:
        """The logins for a repository: file by file, the closest entry of a file first. Runs credential helpers."""
        logins = [login for file in self.files for login in _logins_of(file, registry, repository)]
        return list(dict.fromkeys(logins))

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(file.source for file in self.files)


def _find_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """The configuration files of a folder, each with the name that a user knows it by."""
    for name in (".dockerconfigjson", ".dockercfg", "config.json"):
        if (folder / name).is_file():
            yield folder / name, folder.name
    for path in sorted(folder.glob("*.json")):
        if path.name != "config.json" and path.is_file():
            yield path, path.stem


def _read_file(path: Path, source: str) -> _ConfigFile:
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(_LARGEST_FILE_BYTES))
    except (OSError, ValueError) as error:
        # The text of the error could quote the file: only its kind is said.
        kind = "not JSON" if isinstance(error, ValueError) else str(error.strerror)
        raise _invalid(source, path, f"cannot be read: {kind}") from None
    if not isinstance(value, dict):
        raise _invalid(source, path, "is not a JSON object")
    if "auths" not in value and "credHelpers" not in value and "credsStore" not in value:
        value = {"auths": {key: entry for key, entry in value.items() if _is_legacy_entry(entry)}}
    given = {key: part for key, part in value.items() if part is not None}
    auths, helpers, store = given.get("auths", {}), given.get("credHelpers", {}), given.get("credsStore", "")
    if not isinstance(auths, dict) or not all(isinstance(entry, dict) for entry in auths.values()):
        raise _invalid(source, path, "has no object of objects at auths")
    if not isinstance(helpers, dict) or not all(isinstance(name, str) for name in helpers.values()):
        raise _invalid(source, path, "has no object of names at credHelpers")
    for name in [*helpers.values(), *([store] if store else [])]:
        if not isinstance(name, str) or not _HELPER.fullmatch(name):
            raise _invalid(source, path, "names a credential helper that is not a plain program name")
    return _ConfigFile(source, auths, helpers, store)


def _is_legacy_entry(entry: object) -> bool:
    return isinstance(entry, dict) and ("auth" in entry or "username" in entry)


def _logins_of(file: _ConfigFile, registry: str, repository: str) -> Iterator[Login]:
    # A helper that is named for the registry comes before entries, entries before the default store: Docker's order.
    for key in _matching(file.helpers, registry, repository):
        yield from _ask_helper(file, file.helpers[key], key)
    written = [
        login for key in _matching(file.auths, registry, repository) if (login := _read_entry(file, key)) is not None
    ]
    yield from written
    if file.store and not written:
        key = "https://index.docker.io/v1/" if registry == "docker.io" else registry
        yield from _ask_helper(file, file.store, key)


def _matching(keys: Mapping[str, object], registry: str, repository: str) -> list[str]:
    """The keys that cover a repository, the longest path first: `registry`, `https://registry/v1/`, `registry/team`."""
    found = []
    for key in keys:
        host, path = _split_key(key)
        covers_path = not path or repository == path or repository.startswith(path + "/")
        if covers_path and _host_matches(host, registry):
            found.append((-len(path), "*" in host, key))
    return [key for *_, key in sorted(found)]


def _split_key(key: str) -> tuple[str, str]:
    host, _, path = key.partition("://")[2].partition("/") if "://" in key else key.partition("/")
    path = path.strip("/")
    path = re.sub(r"^v[12](/|$)", "", path)
    return ("docker.io" if host in _DOCKER_HUB else host), path


def _host_matches(pattern: str, registry: str) -> bool:
    """Equal, or a glob label by label as the kubelet has it: `*.azurecr.io` covers one label."""
    mine, theirs = registry.lower().split("."), pattern.lower().split(".")
    return len(mine) == len(theirs) and all(fnmatchcase(label, glob) for label, glob in zip(mine, theirs, strict=True))


def _read_entry(file: _ConfigFile, key: str) -> Login | None:
    entry = file.auths[key]
    texts = {name: str(entry.get(name) or "") for name in ("username", "password", "identitytoken", "registrytoken")}
    username, password = texts["username"], texts["password"]
    if entry.get("auth"):
        try:
            username, colon, password = base64.b64decode(str(entry["auth"]), validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            colon = ""
        if not colon:
            what = f"credentials {file.source}: the entry {key!r} has an `auth` that is not base64 of user:password"
            raise ConfigFailure(what, "make the secret anew", reason="CredentialsInvalid") from None
        password = password.rstrip("\0")
    if not (username or texts["identitytoken"] or texts["registrytoken"]):
        return None  # what `docker login` leaves behind when a helper has the secret
    return Login(file.source, username, password, texts["identitytoken"], texts["registrytoken"])


def _ask_helper(file: _ConfigFile, helper: str, key: str) -> Iterator[Login]:
    program = f"docker-credential-{helper}"
    source = f"{file.source} ({program})"
    try:
        answer = subprocess.run(
            [program, "get"], input=key, capture_output=True, text=True, timeout=HELPER_SECONDS, check=False
        )
    except FileNotFoundError:
        # A configuration copied from another machine names helpers that are not here; public images work without.
        return
    except (OSError, subprocess.TimeoutExpired) as error:
        why = f"gives no answer in {HELPER_SECONDS:.0f} s" if isinstance(error, subprocess.TimeoutExpired) else "fails"
        raise ConfigFailure(
            f"credential helper {program} of {file.source} {why}", reason="CredentialsInvalid"
        ) from None
    if answer.returncode != 0:
        return  # the protocol's way to say that it knows no such registry
    try:
        value = json.loads(answer.stdout)
        username, secret = str(value["Username"]), str(value["Secret"])
    except (ValueError, KeyError, TypeError):
        what = f"credential helper {program} of {file.source} answers with something that is not its protocol"
        raise ConfigFailure(what, reason="CredentialsInvalid") from None
    if username == _TOKEN_USER:
        yield Login(source, identity_token=secret)
    elif username or secret:
        yield Login(source, username, secret)


def _invalid(source: str, path: Path, why: str) -> ConfigFailure:
    where = f"credentials {source}" if source == str(path) else f"credentials {source} ({path.name})"
    hint = "it must be a docker configuration: kubectl create secret docker-registry, or docker login"
    return ConfigFailure(f"{where}: {why}", hint, reason="CredentialsInvalid")

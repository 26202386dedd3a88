"""Debian's docker-registry as a process on a free loopback port: open, with Basic or Bearer authentication, or TLS."""

from __future__ import annotations

import json
import os
import re
import shutil
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.servers.tokens import TokenServer

REPOSITORY_ROOT = Path(__file__).resolve().parents[2]
# The one password of these tests, with its bcrypt hash: htpasswd files want bcrypt, and any user may have it.
PASSWORD = "open-sesame"
_PASSWORD_HASH = "$2y$04$kaitokaitokaitokaitokuWYdXZmTbRi0QcMup9JKE0Meo7Bjc/si"
_READY_SECONDS = 30.0


@lru_cache(maxsize=1)
def registry_program() -> str:
    """The path of docker-registry. Where it cannot be had the test fails, unless KAITO_TEST_WITHOUT_REGISTRY is set."""
    found = subprocess.run(
        [str(REPOSITORY_ROOT / "tools" / "docker-registry")], capture_output=True, text=True, check=False, timeout=300
    )
    if found.returncode == 0:
        return found.stdout.strip()
    if os.environ.get("KAITO_TEST_WITHOUT_REGISTRY"):
        pytest.skip(found.stderr.strip())
    pytest.fail(f"{found.stderr.strip()} (or set KAITO_TEST_WITHOUT_REGISTRY=1 to leave these tests out)")


@dataclass
class RegistryServer:
    """A registry process. `host` is `127.0.0.1:PORT`, also after a restart; what was pushed lies in `storage`."""

    folder: Path
    settings: dict[str, Any]
    scheme: str = "http"
    ca_file: Path | None = None
    host: str = ""
    process: subprocess.Popen[bytes] | None = None

    @property
    def storage(self) -> Path:
        return self.folder / "storage"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    @property
    def log(self) -> str:
        return (self.folder / "registry.log").read_text(errors="replace")

    def start(self) -> None:
        """Start, or start again on the same port, and wait until it answers."""
        self.settings["http"]["addr"] = self.host or "127.0.0.1:0"
        config = self.folder / "config.json"  # JSON is YAML
        config.write_text(json.dumps(self.settings))
        with (self.folder / "registry.log").open("wb") as log:
            self.process = subprocess.Popen([registry_program(), "serve", str(config)], stdout=log, stderr=log)
        self.host = self.host or self._read_address()
        self.wait_ready()

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def wait_ready(self) -> None:
        context = ssl.create_default_context(cafile=str(self.ca_file)) if self.ca_file else None
        for _ in self._until_deadline("answer"):
            try:
                urllib.request.urlopen(f"{self.url}/v2/", context=context, timeout=5).close()
            except urllib.error.HTTPError as answer:
                if answer.code == 401:
                    return
            except OSError:
                continue
            else:
                return

    def _read_address(self) -> str:
        for _ in self._until_deadline("listen"):
            match = re.search(r"listening on (127\.0\.0\.1:\d+)", self.log)
            if match:
                return match[1]
        raise AssertionError("the loop above ends by return or by a failed assertion")

    def _until_deadline(self, what: str) -> Iterator[None]:
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            assert self.process is not None
            assert self.process.poll() is None, f"docker-registry ended:\n{self.log}"
            assert time.monotonic() < deadline, f"docker-registry does not {what} in time:\n{self.log}"
            yield
            time.sleep(0.02)  # between two looks at a process that gives no sign


@contextmanager
def run_registry(
    folder: Path,
    *,
    users: tuple[str, ...] = (),
    tokens: TokenServer | None = None,
    authority: trustme.CA | None = None,
    storage: Path | None = None,
    read_only: bool = False,
) -> Iterator[RegistryServer]:
    """A registry that lives as long as the block.

    `users`: Basic authentication, each with PASSWORD. `tokens`: Bearer authentication by that server. `authority`: TLS
    with a certificate of that CA for 127.0.0.1 and localhost; `ca_file` is what SSL_CERT_FILE must name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    server = RegistryServer(folder, _build_settings(storage or folder / "storage", read_only))
    if users:
        server.settings["auth"] = {"htpasswd": {"realm": "tests", "path": str(write_htpasswd(folder, users))}}
    if tokens is not None:
        server.settings["auth"] = {"token": dict(tokens.registry_settings(folder))}
    if authority is not None:
        server.scheme = "https"
        server.ca_file = folder / "ca.pem"
        authority.cert_pem.write_to_path(str(server.ca_file))
        server.settings["http"]["tls"] = _issue_certificate(authority, folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        if storage is None:
            shutil.rmtree(server.storage, ignore_errors=True)


def write_htpasswd(folder: Path, users: tuple[str, ...]) -> Path:
    path = folder / "htpasswd"
    path.write_text("".join(f"{user}:{_PASSWORD_HASH}\n" for user in users))
    return path


def write_docker_config(folder: Path, auths: Mapping[str, Mapping[str, str]], **more: Any) -> Path:
    """A folder as a mounted pull secret has it: `.dockerconfigjson`. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".dockerconfigjson").write_text(json.dumps({"auths": auths, **more}))
    return folder


def _build_settings(storage: Path, read_only: bool) -> dict[str, Any]:
    return {
        "version": "0.1",
        "log": {"level": "info", "formatter": "text", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(storage)},
            "delete": {"enabled": True},
            "maintenance": {"uploadpurging": {"enabled": False}, "readonly": {"enabled": read_only}},
        },
        "http": {"secret": "tests"},
    }


def _issue_certificate(authority: trustme.CA, folder: Path) -> dict[str, str]:
    issued = authority.issue_cert("127.0.0.1", "localhost")
    certificate, key = folder / "server.pem", folder / "server.key"
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(key))
    return {"certificate": str(certificate), "key": str(key)}

"""A small server that speaks the Hugging Face hub's routes, and serves plain files; with faults on demand."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

PAGE_ENTRIES = 3


@dataclass(slots=True)
class HubRepo:
    """A model at one commit. Files of `lfs_from_bytes` on and safetensors are LFS: served by a redirect."""

    files: dict[str, bytes]
    commit: str = "c0ffee" + "0" * 34
    gated: bool = False
    private: bool = False
    readers: tuple[str, ...] = ()  # tokens that may read a gated or private repository
    tells_parameters: bool = False
    refs: tuple[str, ...] = ("main",)  # branches and tags; the commit, and its first seven letters, always do
    disabled: bool = False
    lfs_from_bytes: int = 1 << 16


@dataclass(frozen=True, slots=True)
class Answer:
    """A fixed answer of a plain file's address."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Fault:
    """The next `times` answers below `path`: `status` with `headers`, or the connection cut after `cut_after` bytes."""

    path: str
    times: int
    status: int = 0
    cut_after: int = -1
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    host: str
    headers: Mapping[str, str]


class Hub:
    """`repos` by id, `files` by path (plain addresses), `faults`, and the `requests` that came.

    `renamed`: old id -> new one, to which the old one's addresses redirect. `tokens`: those that are valid; None: any.
    `narrow`: valid tokens without the right to read what is gated.
    """

    def __init__(self) -> None:
        self.repos: dict[str, HubRepo] = {}
        self.files: dict[str, bytes | Answer] = {}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.renamed: dict[str, str] = {}
        self.tokens: tuple[str, ...] | None = None
        self.narrow: tuple[str, ...] = ()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def storage_url(self) -> str:
        """Where LFS files are served: by another name of the same machine, so another host."""
        return f"http://localhost:{self.port}"

    def requested(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.path.startswith(path)]


@contextmanager
def run_hub() -> Iterator[Hub]:
    hub = Hub()

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        split = urlsplit(self.path)
        self.state.requests.append(
            Request(
                "GET",
                unquote(split.path),
                self.headers.get("Host", ""),
                {k.lower(): v for k, v in self.headers.items()},
            )
        )
        fault = self._take_fault(split.path)
        if fault is not None and fault.status:
            self._answer(fault.status, b"fault", fault.headers)
            return
        self._cut_after = fault.cut_after if fault is not None else -1
        moved = next((old for old in self.state.renamed if re.search(f"/{old}/", split.path)), None)
        if moved is not None:
            self._answer(307, b"", {"Location": self.path.replace(moved, self.state.renamed[moved])})
        elif split.path in self.state.files:
            self._plain(self.state.files[split.path])
        elif match := re.fullmatch(r"/api/models/([^/]+(?:/[^/]+)?)/revision/([^/]+)", split.path):
            self._info(match[1], unquote(match[2]))
        elif match := re.fullmatch(r"/api/models/([^/]+(?:/[^/]+)?)/tree/([^/]+)", split.path):
            self._tree(match[1], match[2], parse_qs(split.query))
        elif match := re.fullmatch(r"/([^/]+(?:/[^/]+)?)/resolve/([^/]+)/(.+)", split.path):
            self._file(match[1], match[2], unquote(match[3]))
        elif match := re.fullmatch(r"/lfs/([0-9a-f]{64})", split.path):
            self._storage(match[1])
        else:
            self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})

    def log_message(self, format: str, *args: Any) -> None:
        pass

    # --- routes ---

    def _plain(self, file: bytes | Answer) -> None:
        if isinstance(file, Answer):
            self._answer(file.status, file.body, file.headers)
        else:
            self._content(file)

    def _info(self, repo_id: str, revision: str) -> None:
        repo = self._readable(repo_id, revision, content=False)
        if repo is None:
            return
        info: dict[str, Any] = {"id": repo_id, "sha": repo.commit, "gated": "manual" if repo.gated else False}
        if repo.tells_parameters:
            info["safetensors"] = {"parameters": {"BF16": 4242}, "total": 4242}
        self._answer(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

    def _tree(self, repo_id: str, revision: str, query: dict[str, list[str]]) -> None:
        repo = self._readable(repo_id, revision, content=False)
        if repo is None:
            return
        start = int(query.get("cursor", ["0"])[0])
        names = sorted(repo.files)
        entries = [self._entry(repo, name) for name in names[start : start + PAGE_ENTRIES]]
        headers = {"Content-Type": "application/json"}
        if start + PAGE_ENTRIES < len(names):
            following = (
                f"{self.state.url}/api/models/{repo_id}/tree/{revision}?recursive=true&cursor={start + PAGE_ENTRIES}"
            )
            headers["Link"] = f'<{following}>; rel="next"'
        self._answer(200, json.dumps([{"type": "directory", "path": "d", "size": 0}, *entries]).encode(), headers)

    def _entry(self, repo: HubRepo, name: str) -> dict[str, Any]:
        content = repo.files[name]
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": blob}
        if _is_lfs(repo, name):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        return entry

    def _file(self, repo_id: str, revision: str, name: str) -> None:
        repo = self._readable(repo_id, revision, content=True)
        if repo is None:
            return
        if name not in repo.files:
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        elif _is_lfs(repo, name):
            digest = hashlib.sha256(repo.files[name]).hexdigest()
            self._answer(302, b"", {"Location": f"{self.state.storage_url}/lfs/{digest}", "X-Repo-Commit": repo.commit})
        else:
            self._content(repo.files[name])

    def _storage(self, digest: str) -> None:
        for repo in self.state.repos.values():
            for content in repo.files.values():
                if hashlib.sha256(content).hexdigest() == digest:
                    self._content(content)
                    return
        self._answer(404, b"")

    def _readable(self, repo_id: str, revision: str, *, content: bool) -> HubRepo | None:
        """The repository, or None once a refusal is sent: as the hub does, a hidden one looks like a missing one."""
        repo = self.state.repos.get(repo_id)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and self.state.tokens is not None and token not in self.state.tokens:
            self._answer(401, b"", {"X-Error-Message": "Invalid credentials in Authorization header"})
            return None
        if repo is None or (repo.private and token not in repo.readers):
            self._answer(404 if token else 401, b"", {"X-Error-Code": "RepoNotFound"})
            return None
        if repo.disabled:
            self._answer(403, b"", {"X-Error-Message": "Access to this resource is disabled."})
            return None
        if revision not in (*repo.refs, repo.commit, repo.commit[:7]):
            self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return None
        if repo.gated and content and token in self.state.narrow:
            words = "Please enable access to public gated repositories in your fine-grained token settings."
            self._answer(403, b"", {"X-Error-Message": words})
            return None
        if repo.gated and content and token not in repo.readers:
            self._answer(403 if token else 401, b"", {"X-Error-Code": "GatedRepo"})
            return None
        return repo

    # --- answers ---

    def _content(self, content: bytes) -> None:
        etag = '"' + hashlib.sha256(content).hexdigest()[:16] + '"'
        headers = {"ETag": etag, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted and self.headers.get("If-Range", etag) == etag:
            start = int(wanted[1])
            end = min(int(wanted[2]) if wanted[2] else len(content) - 1, len(content) - 1)
            if start >= len(content):
                self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            self._answer(206, content[start : end + 1], headers)
        else:
            self._answer(200, content, headers)

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = getattr(self, "_cut_after", -1)
        self._cut_after = -1
        if 0 <= cut < len(body):
            self.wfile.write(body[:cut])
            self.close_connection = True
        else:
            self.wfile.write(body)

    def _take_fault(self, path: str) -> Fault | None:
        for fault in self.state.faults:
            if path.startswith(fault.path) and fault.times > 0:
                fault.times -= 1
                return fault
        return None


def _is_lfs(repo: HubRepo, name: str) -> bool:
    return name.endswith(".safetensors") or len(repo.files[name]) >= repo.lfs_from_bytes

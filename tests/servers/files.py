"""A web server for tests that serves bytes by path, with ETag, Range and If-Range as real ones do, and redirects."""

from __future__ import annotations

import hashlib
import re
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import trustme

_PIECE_BYTES = 16384


@dataclass
class FileServer:
    """`files`: path -> bytes, sent `repeats` times; `redirects`: path -> Location; `headers`: path -> headers of its
    answer (no Content-Length where that is "").

    `requests` is what came in: (path with query, its headers). Without `etags` no validator is sent; without `ranges`
    Range is passed over, without `if_range` If-Range. `pace`: path -> seconds from one 16 KiB to the next.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    repeats: dict[str, int] = field(default_factory=dict)
    pace: dict[str, float] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    etags: bool = True
    ranges: bool = True
    if_range: bool = True
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    scheme: str = "http"
    host: str = ""

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    @property
    def port(self) -> int:
        return int(self.host.rpartition(":")[2])


@contextmanager
def run_file_server(
    server: FileServer, *, authority: trustme.CA | None = None, folder: Path | None = None
) -> Iterator[FileServer]:
    """Serves as long as the block. With `authority` by TLS for 127.0.0.1 and localhost; `folder` then takes the key."""
    http = _Server(("127.0.0.1", 0), _build_handler(server))
    server.host = f"127.0.0.1:{http.server_port}"
    if authority is not None:
        assert folder is not None, "the certificate's key needs a folder"
        http.socket = _wrap(http, authority, folder)
        server.scheme = "https"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle, or distrusts the certificate, is what some tests are about."""


def _wrap(http: ThreadingHTTPServer, authority: trustme.CA, folder: Path) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.tempfile(str(folder)) as path:
        context.load_cert_chain(path)
    return context.wrap_socket(http.socket, server_side=True)


def _build_handler(server: FileServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            server.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            path = urlsplit(self.path).path
            if path in server.redirects:
                self._answer(302, b"", {"Location": server.redirects[path]})
            elif path not in server.files:
                self._answer(404, b"not here", {})
            else:
                self._send_file(path, dict(server.headers.get(path, {})))

        do_HEAD = do_GET

        def _send_file(self, path: str, headers: dict[str, str]) -> None:
            data, times = server.files[path], server.repeats.get(path, 1)
            size = len(data) * times
            tag = f'"{hashlib.sha256(data).hexdigest()[:12]}-{times}"'
            if server.etags:
                headers.setdefault("ETag", tag)
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")) if server.ranges else None
            if wanted is None or (server.if_range and self.headers.get("If-Range", tag) != headers.get("ETag", tag)):
                self._answer(200, data, headers, times=times, pace=server.pace.get(path, 0.0))
                return
            start = int(wanted[1])
            if start >= size:
                self._answer(416, b"", headers | {"Content-Range": f"bytes */{size}"})
                return
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
            self._answer(206, data, headers, times=times, start=start, pace=server.pace.get(path, 0.0))

        def _answer(
            self,
            status: int,
            body: bytes,
            headers: dict[str, str],
            *,
            times: int = 1,
            start: int = 0,
            pace: float = 0.0,
        ) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body) * times - start), **headers}.items():
                if value:
                    self.send_header(name, value)
                else:
                    self.close_connection = True
            self.end_headers()
            if self.command == "HEAD":
                return
            skipped, inner = divmod(start, len(body) or 1)
            for _ in range(times - skipped):
                for at in range(inner, len(body), _PIECE_BYTES if pace else len(body)):
                    self.wfile.write(body[at : at + _PIECE_BYTES] if pace else body[at:])
                    time.sleep(pace)
                inner = 0

        def log_message(self, *_: Any) -> None:
            pass

    return Handler

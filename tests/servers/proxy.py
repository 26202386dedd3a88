"""An HTTP proxy in front of a server that breaks chosen requests: cut, delayed, refused, altered, or is down."""

from __future__ import annotations

import http.client
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_CHUNK = 1 << 16
_HOLD_SECONDS = 60.0
_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "proxy-connection"})


@dataclass
class Fault:
    """What happens to the next `times` requests of a method whose path and query match, after the first `skip`.

    `status` answers by itself (body read, not forwarded; `headers` go with it). `cut_request` forwards that many bytes
    of the body, then drops both connections. `cut_response` drops the client's after that many bytes of the answer's
    body, `hold_response` sends so many and then nothing more; `drop_answer` drops it before the answer, which the
    server has given. `flip` inverts the answer's byte at that offset. `delay_seconds` waits before forwarding,
    `pace_seconds` after every 64 KiB of the answer.
    """

    method: str = "GET"
    path: str = ".*"
    times: int = 1
    skip: int = 0
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_request: int | None = None
    cut_response: int | None = None
    hold_response: int | None = None
    drop_answer: bool = False
    flip: int | None = None
    delay_seconds: float = 0.0
    pace_seconds: float = 0.0


class FaultProxy:
    """Listens on `host`; `requests` is what came in, as (method, path). Faults are used up in the order given."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.host = ""
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def add(self, fault: Fault) -> None:
        with self._lock:
            self.faults.append(fault)

    def count(self, method: str, path: str = ".*") -> int:
        """How many requests of that method and path came in."""
        return sum(1 for seen, where in list(self.requests) if seen == method and re.search(path, where))

    def start(self) -> None:
        """Listen, on the same port as before if there was one."""
        port = int(self.host.rpartition(":")[2]) if self.host else 0
        self._server = _Server(("127.0.0.1", port), _build_handler(self))
        self.host = f"127.0.0.1:{self._server.server_port}"
        self._released.clear()
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Be down: connections are refused."""
        self._released.set()
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = None

    def take(self, method: str, path: str) -> Fault | None:
        with self._lock:
            self.requests.append((method, path))
            for fault in self.faults:
                if fault.times == 0 or fault.method != method or not re.search(fault.path, path):
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                return fault
        return None

    def wait(self, seconds: float) -> None:
        self._released.wait(seconds)


@contextmanager
def run_proxy(upstream: str) -> Iterator[FaultProxy]:
    """A proxy to `upstream` (host:port, plain http) as long as the block."""
    proxy = FaultProxy(upstream)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is what these tests are about."""


def _build_handler(proxy: FaultProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            fault = proxy.take(self.command, self.path) or Fault()
            if fault.delay_seconds:
                proxy.wait(fault.delay_seconds)
            if fault.status is not None:
                for _ in self._body():
                    pass
                self._answer(fault.status, fault.headers)
                return
            upstream = http.client.HTTPConnection(proxy.upstream, timeout=60)
            try:
                self._forward(upstream, fault)
            finally:
                upstream.close()

        do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

        def _forward(self, upstream: http.client.HTTPConnection, fault: Fault) -> None:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _HOP:
                    upstream.putheader(name, value)
            chunked = "content-length" not in self.headers and "transfer-encoding" in self.headers
            if chunked:
                upstream.putheader("Transfer-Encoding", "chunked")
            upstream.endheaders()
            sent = 0
            for chunk in self._body():
                if fault.cut_request is not None and sent + len(chunk) >= fault.cut_request:
                    upstream.send(chunk[: fault.cut_request - sent])
                    self._drop()
                    return
                upstream.send(b"%x\r\n%s\r\n" % (len(chunk), chunk) if chunked else chunk)
                sent += len(chunk)
            if chunked:
                upstream.send(b"0\r\n\r\n")
            response = upstream.getresponse()
            if fault.drop_answer:
                self._drop()
                return
            self._return(response, fault)

        def _return(self, response: http.client.HTTPResponse, fault: Fault) -> None:
            self.send_response(response.status, response.reason)
            sized = self.command == "HEAD" or response.status in (204, 304) or "content-length" in response.headers
            for name, value in response.headers.items():
                if name.lower() not in _HOP:
                    self.send_header(name, value)
            if not sized:
                self.send_header("Connection", "close")
                self.close_connection = True
            self.end_headers()
            sent = 0
            while chunk := response.read(_CHUNK):
                if fault.flip is not None and sent <= fault.flip < sent + len(chunk):
                    at = fault.flip - sent
                    chunk = chunk[:at] + bytes([chunk[at] ^ 0xFF]) + chunk[at + 1 :]
                if fault.cut_response is not None and sent + len(chunk) >= fault.cut_response:
                    self.wfile.write(chunk[: fault.cut_response - sent])
                    self._drop()
                    return
                if fault.hold_response is not None and sent + len(chunk) >= fault.hold_response:
                    self.wfile.write(chunk[: fault.hold_response - sent])
                    self.wfile.flush()
                    proxy.wait(_HOLD_SECONDS)
                    self._drop()
                    return
                self.wfile.write(chunk)
                sent += len(chunk)
                proxy.wait(fault.pace_seconds)

        def _body(self) -> Iterator[bytes]:
            left = int(self.headers.get("Content-Length", 0))
            while left > 0 and (chunk := self.rfile.read1(min(left, _CHUNK))):
                left -= len(chunk)
                yield chunk
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                while size := int(self.rfile.readline().strip() or b"0", 16):
                    yield self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()

        def _answer(self, status: int, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": "0", **headers}.items():
                self.send_header(name, value)
            self.end_headers()

        def _drop(self) -> None:
            self.close_connection = True
            with suppress(OSError):
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler

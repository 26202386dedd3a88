"""A token server as registries with Bearer authentication name one: signs JWTs that docker-registry verifies."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import trustme
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_private_key

ISSUER = "tests"
SERVICE = "registry.tests"


@dataclass
class TokenServer:
    """`users`: name -> password; `identity_tokens`: accepted refresh tokens -> user; `readers` may pull, not push.

    `lifetime_seconds` of a token may be changed while it runs. `requests` is what was asked: (method, scopes).
    """

    users: Mapping[str, str] = field(default_factory=dict)
    identity_tokens: Mapping[str, str] = field(default_factory=dict)
    readers: frozenset[str] = frozenset()
    anonymous_pull: bool = False
    lifetime_seconds: int = 300
    requests: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    url: str = ""

    def __post_init__(self) -> None:
        self._authority = trustme.CA()
        self._leaf = self._authority.issue_cert("tokens.tests")

    def registry_settings(self, folder: Path) -> dict[str, str]:
        """The `auth.token` section of a registry that trusts this server."""
        bundle = folder / "tokens.pem"
        self._authority.cert_pem.write_to_path(str(bundle))
        return {"realm": f"{self.url}/token", "service": SERVICE, "issuer": ISSUER, "rootcertbundle": str(bundle)}

    def grant(self, user: str | None, scopes: tuple[str, ...]) -> str:
        """A token with as much of the scopes as the user may have."""
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":", 2)
            allowed = [action for action in actions.split(",") if self._may(user, action)]
            access.append({"type": kind, "name": name, "actions": allowed})
        return self._sign(user or "", access)

    def _may(self, user: str | None, action: str) -> bool:
        if user is None:
            return self.anonymous_pull and action == "pull"
        return action == "pull" or user not in self.readers

    def _sign(self, subject: str, access: list[dict[str, Any]]) -> str:
        chain = [_pem_body(blob.bytes()) for blob in self._leaf.cert_chain_pems]
        now = int(time.time())
        header = {"typ": "JWT", "alg": "ES256", "x5c": chain}
        claims = {
            "iss": ISSUER,
            "sub": subject,
            "aud": SERVICE,
            "iat": now,
            "nbf": now - 60,
            "exp": now + self.lifetime_seconds,
            "jti": f"{now}-{len(self.requests)}",
            "access": access,
        }
        message = b".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
        key = load_pem_private_key(self._leaf.private_key_pem.bytes(), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
        return (message + b"." + _base64url(r.to_bytes(32, "big") + s.to_bytes(32, "big"))).decode()


@contextmanager
def run_token_server(server: TokenServer) -> Iterator[TokenServer]:
    """Serves `GET /token` (Basic or anonymous) and `POST /token` (refresh_token, password) as long as the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            scopes = tuple(query.get("scope", []))
            server.requests.append(("GET", scopes))
            user = None
            if "Authorization" in self.headers:
                name, _, password = base64.b64decode(self.headers["Authorization"].split()[1]).decode().partition(":")
                if server.users.get(name) != password:
                    self._answer(401, {"details": "incorrect username or password"})
                    return
                user = name
            self._answer(200, {"token": server.grant(user, scopes), "expires_in": server.lifetime_seconds})

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            scopes = tuple(form.get("scope", [""])[0].split())
            server.requests.append(("POST", scopes))
            if form["grant_type"] != ["refresh_token"] or form["refresh_token"][0] not in server.identity_tokens:
                self._answer(401, {"error": "invalid_grant"})
                return
            user = server.identity_tokens[form["refresh_token"][0]]
            self._answer(200, {"access_token": server.grant(user, scopes), "expires_in": server.lifetime_seconds})

        def _answer(self, status: int, value: dict[str, Any]) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _pem_body(pem: bytes) -> str:
    return "".join(line for line in pem.decode().splitlines() if not line.startswith("-----"))

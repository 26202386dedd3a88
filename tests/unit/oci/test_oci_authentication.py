"""Who may push and pull, by Basic and Bearer authentication, and over which connections."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
import trustme

from kaito.failure import Failure
from kaito.oci import (
    Credentials,
    PushDenied,
    Reference,
    check_push,
    pull,
    push_adapter,
)
from tests.servers.proxy import Fault, FaultProxy, run_proxy
from tests.servers.registry import PASSWORD, RegistryServer, run_registry, write_docker_config
from tests.servers.tokens import SERVICE, TokenServer, run_token_server


@pytest.mark.parametrize("form", ["auth", "username"])
def test_basic_authentication(
    basic_registry: RegistryServer, repository: str, results: Path, tmp_path: Path, form: str
) -> None:
    encoded = base64.b64encode(f"robot:{PASSWORD}".encode()).decode()
    entry = {"auth": encoded} if form == "auth" else {"username": "robot", "password": PASSWORD}
    credentials = Credentials.load([write_docker_config(tmp_path / "acr", {basic_registry.host: entry})])
    reference = Reference.parse(f"{basic_registry.host}/{repository}:1")
    check_push(reference, credentials)
    pushed = push_adapter(reference, results, credentials=credentials)
    assert pull(reference, tmp_path / "back", credentials=credentials).digest == pushed.digest


def test_the_second_secret_is_tried_when_the_first_is_refused(
    basic_registry: RegistryServer, repository: str, tmp_path: Path
) -> None:
    folders = [
        write_docker_config(tmp_path / name, {basic_registry.host: {"username": "robot", "password": password}})
        for name, password in (("old", "wrong"), ("new", PASSWORD))
    ]
    check_push(Reference.parse(f"{basic_registry.host}/{repository}:1"), Credentials.load(folders))


def test_a_wrong_password_names_registry_secret_and_remedy_but_not_the_password(
    basic_registry: RegistryServer, repository: str, tmp_path: Path
) -> None:
    entry = {basic_registry.host: {"username": "robot", "password": "hunter2"}}
    credentials = Credentials.load([write_docker_config(tmp_path / "acr-secret", entry)])
    with pytest.raises(PushDenied) as caught:
        check_push(Reference.parse(f"{basic_registry.host}/{repository}:1"), credentials)
    assert basic_registry.host in caught.value.message
    assert repository in caught.value.message
    assert "acr-secret" in caught.value.message
    assert "password" in caught.value.hint
    assert "hunter2" not in caught.value.message + caught.value.hint


@pytest.fixture
def tokens() -> TokenServer:
    return TokenServer(
        users={"robot": "x", "reader": "x"}, identity_tokens={"idt": "robot"}, readers=frozenset({"reader"})
    )


@pytest.mark.parametrize("entry", [{"username": "robot", "password": "x"}, {"identitytoken": "idt"}])
def test_bearer_authentication(
    tokens: TokenServer, repository: str, results: Path, tmp_path: Path, entry: dict[str, str]
) -> None:
    with run_token_server(tokens), run_registry(tmp_path / "r", tokens=tokens) as registry:
        credentials = Credentials.load([write_docker_config(tmp_path / "acr", {registry.host: entry})])
        reference = Reference.parse(f"{registry.host}/{repository}:1")
        pushed = push_adapter(reference, results, credentials=credentials)
        assert pull(reference, tmp_path / "back", credentials=credentials).digest == pushed.digest
    method = "POST" if "identitytoken" in entry else "GET"
    scopes = [(f"repository:{repository}:{actions}",) for actions in ("pull,push", "pull")]
    assert tokens.requests == [(method, scope) for scope in scopes]  # one token a scope, for all requests


def test_a_token_that_expires_in_the_middle_is_renewed(
    tokens: TokenServer, repository: str, results: Path, tmp_path: Path
) -> None:
    with (
        run_token_server(tokens),
        run_registry(tmp_path / "r", tokens=tokens) as registry,
        run_proxy(registry.host) as proxy,
    ):
        challenge = f'Bearer realm="{tokens.url}/token",service="{SERVICE}",error="invalid_token"'
        proxy.add(Fault("PATCH", status=401, headers={"WWW-Authenticate": challenge}))
        folder = write_docker_config(tmp_path / "acr", {proxy.host: {"username": "robot", "password": "x"}})
        push_adapter(Reference.parse(f"{proxy.host}/{repository}:1"), results, credentials=Credentials.load([folder]))
    assert len(tokens.requests) == 2


@pytest.mark.parametrize(
    ("realm", "reason"),
    [
        ("http://tokens.example/token", "PushDenied"),
        ("https://169.254.169.254/token", "HostRefused"),
        ("", "PushDenied"),
    ],
)
def test_credentials_go_to_no_token_server_in_the_clear_or_on_a_private_host(
    proxy: FaultProxy, repository: str, tmp_path: Path, realm: str, reason: str
) -> None:
    proxy.add(Fault("POST", status=401, headers={"WWW-Authenticate": f'Bearer realm="{realm}"'}))
    folder = write_docker_config(tmp_path / "acr", {proxy.host: {"username": "robot", "password": "x"}})
    with pytest.raises(Failure) as caught:
        check_push(Reference.parse(f"{proxy.host}/{repository}:1"), Credentials.load([folder]))
    assert caught.value.reason == reason


def test_a_reader_may_pull_but_not_push(tokens: TokenServer, repository: str, results: Path, tmp_path: Path) -> None:
    with run_token_server(tokens), run_registry(tmp_path / "r", tokens=tokens) as registry:
        reference = Reference.parse(f"{registry.host}/{repository}:1")
        logins = {
            user: Credentials.load(
                [write_docker_config(tmp_path / user, {registry.host: {"username": user, "password": "x"}})]
            )
            for user in ("robot", "reader")
        }
        push_adapter(reference, results, credentials=logins["robot"])
        pull(reference, tmp_path / "back", credentials=logins["reader"])
        with pytest.raises(PushDenied, match="reader"):
            check_push(reference, logins["reader"])


def test_a_public_image_is_pulled_without_or_with_a_stale_login(repository: str, results: Path, tmp_path: Path) -> None:
    tokens = TokenServer(users={"robot": "x"}, anonymous_pull=True)
    with run_token_server(tokens), run_registry(tmp_path / "r", tokens=tokens) as registry:
        reference = Reference.parse(f"{registry.host}/{repository}:1")
        folders = {
            password: write_docker_config(
                tmp_path / password, {registry.host: {"username": "robot", "password": password}}
            )
            for password in ("x", "stale")
        }
        push_adapter(reference, results, credentials=Credentials.load([folders["x"]]))
        pull(reference, tmp_path / "anonymous")
        pull(reference, tmp_path / "stale-login", credentials=Credentials.load([folders["stale"]]))


def test_tls_is_verified_also_on_loopback(repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with run_registry(tmp_path / "r", authority=trustme.CA()) as registry:
        reference = Reference.parse(f"{registry.host}/{repository}:1")
        with pytest.raises(PushDenied, match="not trusted"):
            check_push(reference)
        monkeypatch.setenv("SSL_CERT_FILE", str(registry.ca_file))
        check_push(reference)


def test_plain_http_needs_loopback_or_leave(
    registry: RegistryServer, repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = registry.host.rpartition(":")[2]
    reference = Reference.parse(f"127.1:{port}/{repository}:1")  # loopback by its address, not by its name
    with pytest.raises(PushDenied, match="does not speak TLS") as caught:
        check_push(reference)
    assert "KAITO_INSECURE_REGISTRIES" in caught.value.hint
    monkeypatch.setenv("KAITO_INSECURE_REGISTRIES", f"other.example, 127.?:{port}")
    check_push(reference)

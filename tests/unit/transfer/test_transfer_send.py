"""Single requests: what is tried again, what is not, and what a message may say."""

from __future__ import annotations

from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import httpx
import pytest
import trustme

from kaito.transfer import HostRefused, HostUnknown, NotTLS, TransferError, backoff, build_client, send
from kaito.transfer.retry import LONGEST_WAIT_SECONDS
from tests.servers.files import FileServer, run_file_server
from tests.servers.proxy import Fault, FaultProxy


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_overload_and_server_errors_are_tried_again(
    files: FileServer, proxy: FaultProxy, client: httpx.Client, pauses: list[float], status: int
) -> None:
    files.files["/x"] = b"y"
    proxy.add(Fault(status=status, times=3))
    assert send(client, "GET", f"{proxy.url}/x", sleep=pauses.append).content == b"y"
    assert len(pauses) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 501])
def test_refusals_are_not_tried_again(
    proxy: FaultProxy, client: httpx.Client, pauses: list[float], status: int
) -> None:
    proxy.add(Fault(status=status, times=9))
    with pytest.raises(TransferError) as caught:
        send(client, "GET", f"{proxy.url}/x", sleep=pauses.append)
    assert (caught.value.status, caught.value.retryable, pauses) == (status, False, [])


def test_retries_end(proxy: FaultProxy, client: httpx.Client, pauses: list[float]) -> None:
    proxy.add(Fault(status=503, times=99))
    with pytest.raises(TransferError) as caught:
        send(client, "GET", f"{proxy.url}/x", attempts=4, sleep=pauses.append)
    assert (caught.value.status, caught.value.retryable) == (503, True)
    assert proxy.count("GET") == 4


def test_a_server_that_is_down_is_retryable(proxy: FaultProxy, client: httpx.Client, pauses: list[float]) -> None:
    proxy.stop()
    with pytest.raises(TransferError, match="refused") as caught:
        send(client, "GET", f"{proxy.url}/x", sleep=pauses.append)
    assert caught.value.retryable
    assert len(pauses) == 4


def test_a_name_that_cannot_be_resolved_is_asked_for_twice_alone(pauses: list[float]) -> None:
    with build_client(allow_hosts=["*"]) as client, pytest.raises(HostUnknown, match=r"no-such-hub\.invalid") as caught:
        send(client, "GET", "http://no-such-hub.invalid/x", sleep=pauses.append)
    assert caught.value.retryable
    assert len(pauses) == 1


def test_retry_after_is_honoured_within_a_bound(
    files: FileServer, proxy: FaultProxy, client: httpx.Client, pauses: list[float]
) -> None:
    files.files["/x"] = b"y"
    for value in ("7", "86400", formatdate(0, usegmt=True)):
        proxy.add(Fault(status=429, headers={"Retry-After": value}))
    send(client, "GET", f"{proxy.url}/x", sleep=pauses.append)
    assert pauses[0] == 7.0
    assert pauses[1] == LONGEST_WAIT_SECONDS
    assert pauses[2] <= 2.0


def test_back_off_grows_and_is_bounded() -> None:
    assert all(backoff(attempt) <= 0.5 * 2 ** (attempt - 1) for attempt in range(1, 8))
    assert backoff(8) >= 32.0
    assert backoff(50) == LONGEST_WAIT_SECONDS


def test_a_body_is_sent_anew_with_each_attempt(proxy: FaultProxy, client: httpx.Client, pauses: list[float]) -> None:
    bodies = 0

    def body() -> Iterator[bytes]:
        nonlocal bodies
        bodies += 1
        yield b"part"

    proxy.add(Fault("PUT", status=500, times=2))
    proxy.add(Fault("PUT", status=201))
    assert send(client, "PUT", f"{proxy.url}/x", content=body, expect=(201,), sleep=pauses.append).status_code == 201
    assert bodies == 3


def test_authorization_does_not_follow_a_redirect_to_another_host(files: FileServer, client: httpx.Client) -> None:
    with run_file_server(FileServer(files={"/y": b"y"})) as other:
        files.redirects |= {"/same": "/x", "/other": f"{other.url}/y"}
        files.files["/x"] = b"x"
        headers = {"Authorization": "Bearer secret", "Cookie": "a=b", "X-Kept": "1"}
        send(client, "GET", f"{files.url}/same", headers=headers)
        send(client, "GET", f"{files.url}/other", headers=headers)
        assert files.requests[1][1]["authorization"] == "Bearer secret"
        assert not {"authorization", "cookie"} & set(other.requests[0][1])
        assert other.requests[0][1]["x-kept"] == "1"


def test_authorization_does_not_follow_a_redirect_from_https_to_http(
    files: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    files.files["/x"] = b"y"
    with (
        run_file_server(FileServer(redirects={"/x": f"{files.url}/x"}), authority=authority, folder=tmp_path) as server,
        build_client(allow_hosts=["127.0.0.1"]) as trusting,
    ):
        send(trusting, "GET", f"{server.url}/x", headers={"Authorization": "Bearer secret"})
        assert server.requests[0][1]["authorization"] == "Bearer secret"
    assert "authorization" not in files.requests[0][1]


def test_redirects_end(files: FileServer, client: httpx.Client) -> None:
    files.redirects["/x"] = "/x"
    with pytest.raises(TransferError, match="more than 5 redirects"):
        send(client, "GET", f"{files.url}/x")
    assert len(files.requests) == 6


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://example.com/x", "http:///x"])
def test_only_http_addresses_are_followed(files: FileServer, client: httpx.Client, location: str) -> None:
    files.redirects["/x"] = location
    with pytest.raises(TransferError) as caught:
        send(client, "GET", f"{files.url}/x", attempts=1)
    assert not caught.value.retryable


def test_messages_hold_no_query_and_no_password(client: httpx.Client, files: FileServer) -> None:
    with pytest.raises(TransferError) as caught:
        send(client, "GET", f"http://robot:hunter2@{files.host}/x?sig=hunter2#hunter2")
    assert "hunter2" not in caught.value.message
    assert f"{files.host}/x" in caught.value.message


def test_an_answer_is_bounded(files: FileServer, client: httpx.Client) -> None:
    files.files["/x"] = b"y" * 1000
    with pytest.raises(TransferError, match="more than 999 bytes"):
        send(client, "GET", f"{files.url}/x", max_bytes=999)


def test_a_server_without_tls_is_told_apart(files: FileServer, client: httpx.Client) -> None:
    with pytest.raises(NotTLS):
        send(client, "GET", f"https://{files.host}/x", attempts=1)


def test_a_proxy_of_the_environment_is_used_but_not_for_loopback(
    files: FileServer, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    files.files["/direct"] = b"direct"
    proxy.add(Fault(path="data.example.org/x", status=200, headers={"X-From": "proxy"}))
    with build_client(allow_hosts=["127.0.0.1"]) as client:
        assert send(client, "GET", "http://data.example.org/x").headers["x-from"] == "proxy"
        assert send(client, "GET", f"{files.url}/direct").content == b"direct"
        assert proxy.count("GET") == 1
        with pytest.raises(HostRefused):
            send(client, "GET", "http://10.0.0.1/x")

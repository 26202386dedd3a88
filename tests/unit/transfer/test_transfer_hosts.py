"""The host rule, by literals and by what names resolve to."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import trustme

from kaito.transfer import HostRefused, TransferError, build_client, check_host, download, send
from kaito.transfer.hosts import resolve_host
from tests.servers.files import FileServer, run_file_server

REFUSED = [
    "127.0.0.1",
    "127.9.9.9",
    "localhost",
    "LOCALHOST.",
    "db.localhost",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.169.254",
    "168.63.129.16",
    "metadata.google.internal",
    "224.0.0.1",
    "::1",
    "[::1]",
    "fe80::1",
    "fd00:ec2::254",
    "::ffff:10.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::",
    "",
]


@pytest.mark.parametrize("host", REFUSED)
def test_hosts_that_are_not_public_are_refused(host: str) -> None:
    with pytest.raises(HostRefused):
        check_host(host)


@pytest.mark.parametrize("host", ["example.com", "8.8.8.8", "2606:4700::1111", "data.example.org."])
def test_public_hosts_pass(host: str) -> None:
    check_host(host)


@pytest.mark.parametrize(
    ("host", "glob"), [("127.0.0.1", "127.*"), ("minio.localhost", "*.localhost"), ("[::1]", "::1"), ("10.0.0.7", "*")]
)
def test_a_glob_allows_a_host(host: str, glob: str) -> None:
    check_host(host, [glob])


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001"])
def test_other_spellings_of_loopback_are_refused_by_the_address(host: str) -> None:
    with pytest.raises(HostRefused, match=r"127\.0\.0\.1"):
        resolve_host(host, 80)


def test_one_private_address_among_public_ones_refuses_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
    with pytest.raises(HostRefused, match=r"rebound\.example resolves to 10\.0\.0\.1"):
        resolve_host("rebound.example", 80)


def test_the_address_that_was_checked_is_the_one_connected_to(
    files: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server that answers differently the second time leads nowhere: there is no second question."""
    files.files["/x"] = b"here"
    real = socket.getaddrinfo
    asked: list[str] = []

    def answer(host: str, port: int, *args: int, **named: int) -> list[tuple[object, ...]]:
        if host != "rebind.example":
            return real(host, port, *args, **named)  # type: ignore[return-value]
        asked.append(host)
        return real("127.0.0.1" if len(asked) == 1 else "192.0.2.1", port, *args, **named)  # type: ignore[return-value]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    with build_client(allow_hosts=["127.0.0.1"]) as client:
        assert send(client, "GET", f"http://rebind.example:{files.port}/x", attempts=1).content == b"here"
    assert asked == ["rebind.example"]


def test_a_redirect_to_a_private_host_is_refused(files: FileServer, tmp_path: Path) -> None:
    files.redirects["/x"] = "http://169.254.169.254/latest/meta-data?secret=1"
    with build_client(allow_hosts=["127.0.0.1"]) as client, pytest.raises(HostRefused, match=r"169\.254\.169\.254"):
        download(client, f"{files.url}/x", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_certificates_are_verified_against_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    with run_file_server(FileServer(files={"/x": b"y"}), authority=authority, folder=tmp_path) as server:
        with build_client(check_hosts=False) as client, pytest.raises(TransferError, match="SSL_CERT_FILE") as caught:
            send(client, "GET", f"{server.url}/x")
        assert not caught.value.retryable
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        with build_client(allow_hosts=["localhost", "127.*"]) as client:
            assert send(client, "GET", f"https://localhost:{server.port}/x").content == b"y"
            with pytest.raises(TransferError, match="not trusted"):
                send(client, "GET", f"https://127.1:{server.port}/x", attempts=1)


def test_a_missing_ca_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(TransferError, match=r"SSL_CERT_FILE=.*none\.pem"):
        build_client()

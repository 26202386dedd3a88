"""The HTTP client: timeouts, and connections only to addresses that were checked. No retries (`retry`)."""

from __future__ import annotations

import os
import ssl
import typing
import urllib.request
from collections.abc import Mapping, Sequence

import httpcore
import httpx

from kaito.transfer.errors import TransferError
from kaito.transfer.hosts import check_host, is_loopback, resolve_host

USER_AGENT = "kaito"
TIMEOUT = httpx.Timeout(60.0, connect=15.0, pool=15.0)


def build_client(
    *, allow_hosts: Sequence[str] = (), check_hosts: bool = True, headers: Mapping[str, str] | None = None
) -> httpx.Client:
    """A client that follows no redirect by itself (`send` does, checking each) and asks for no compression.

    `allow_hosts`: globs of host names or addresses that are exempt from the host rule. `check_hosts=False` turns the
    rule off. Certificates are verified against SSL_CERT_FILE or SSL_CERT_DIR where set. A proxy of the environment
    (HTTPS_PROXY, NO_PROXY) is used; it resolves names by itself, so then only the literal host is checked.
    """
    transport = _Transport(tuple(allow_hosts) if check_hosts else ("*",))
    merged = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **(headers or {})}
    return httpx.Client(transport=transport, timeout=TIMEOUT, follow_redirects=False, headers=merged, trust_env=False)


class _Transport(httpx.BaseTransport):
    def __init__(self, allow: Sequence[str]) -> None:
        self._allow = allow
        context = _load_certificates()
        self._direct = _DirectTransport(context, allow)
        self._proxies = {
            scheme: httpx.HTTPTransport(verify=context, proxy=proxy, trust_env=False)
            for scheme, proxy in _proxies_of_environment().items()
        }

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        check_host(request.url.host, self._allow)
        proxy = self._proxies.get(request.url.scheme)
        if proxy is None or is_loopback(request.url.host) or urllib.request.proxy_bypass(request.url.host):
            return self._direct.handle_request(request)
        return proxy.handle_request(request)

    def close(self) -> None:
        self._direct.close()
        for proxy in self._proxies.values():
            proxy.close()


class _DirectTransport(httpx.HTTPTransport):
    """httpx's transport over a pool whose connections go to checked addresses; TLS still verifies the host's name."""

    def __init__(self, context: ssl.SSLContext, allow: Sequence[str]) -> None:
        super().__init__(verify=context, trust_env=False)
        # httpx passes no network backend on; its pool is replaced by the same pool with ours.
        self._pool = httpcore.ConnectionPool(
            ssl_context=context, keepalive_expiry=5.0, network_backend=_CheckedBackend(allow)
        )


class _CheckedBackend(httpcore.SyncBackend):
    def __init__(self, allow: Sequence[str]) -> None:
        self._allow = allow

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: typing.Iterable[typing.Any] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            addresses = resolve_host(host, port, self._allow)
        except OSError as error:
            raise httpcore.ConnectError(f"the name {host} cannot be resolved: {error.strerror}") from error
        for address in addresses[:-1]:
            try:
                return super().connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue  # the name has another address
        return super().connect_tcp(addresses[-1], port, timeout, local_address, socket_options)


def _load_certificates() -> ssl.SSLContext:
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        source = "SSL_CERT_FILE" if os.environ.get("SSL_CERT_FILE") else "SSL_CERT_DIR"
        raise TransferError(f"certificates of {source}={os.environ.get(source)} cannot be read: {error}") from error


def _proxies_of_environment() -> dict[str, str]:
    found = urllib.request.getproxies_environment()
    proxies = {scheme: found.get(scheme) or found.get("all") for scheme in ("http", "https")}
    return {scheme: url if "://" in url else f"http://{url}" for scheme, url in proxies.items() if url}

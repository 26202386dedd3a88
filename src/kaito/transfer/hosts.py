"""The host rule: which hosts and addresses may be connected to. Names and addresses only, no HTTP."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from fnmatch import fnmatchcase

from kaito.transfer.errors import HostRefused

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

# Names that answer with credentials of the machine, whatever they resolve to from here.
_METADATA_NAMES = frozenset({"metadata", "metadata.google.internal", "metadata.goog", "instance-data"})
# Azure's host agent: a public address by its number, the machine's own metadata by its meaning.
_METADATA_ADDRESSES = frozenset({ipaddress.ip_address("168.63.129.16")})
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def normalise_host(host: str) -> str:
    """Lower case, without the brackets of an IPv6 literal and the root's trailing dot."""
    return host.strip().removeprefix("[").removesuffix("]").rstrip(".").lower()


def is_loopback(host: str) -> bool:
    """Whether the literal host means this machine. Looks nothing up."""
    name = normalise_host(host)
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = parse_address(name)
    return address is not None and embedded_address(address).is_loopback


def is_allowed(name: str, allow: Sequence[str]) -> bool:
    """Whether a glob in `allow` matches a normalised host name or address."""
    return any(fnmatchcase(name, normalise_host(glob)) for glob in allow)


def check_host(host: str, allow: Sequence[str] = ()) -> None:
    """Refuse a literal host that is loopback, private, link-local or a metadata service, unless a glob allows it.

    Looks nothing up: the addresses of a name are checked when it is connected to (`resolve_host`).
    """
    name = normalise_host(host)
    if is_allowed(name, allow):
        return
    if not name:
        raise HostRefused("the address has no host")
    if name in _METADATA_NAMES:
        raise _refusal(host, "is a metadata service")
    if name == "localhost" or name.endswith(".localhost"):
        raise _refusal(host, "is this machine (loopback)")
    address = parse_address(name)
    if address is not None:
        _check_address(host, address, allow)


def resolve_host(host: str, port: int, allow: Sequence[str] = ()) -> list[str]:
    """The addresses of a host, each of them checked: one that is refused refuses the host.

    A connection made to one of these cannot be sent elsewhere by a second answer of the name server. Raises
    HostRefused, and OSError (socket.gaierror) where the name cannot be resolved.
    """
    check_host(host, allow)
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not is_allowed(normalise_host(host), allow):
        for text in addresses:
            _check_address(host, ipaddress.ip_address(text), allow)
    return addresses


def parse_address(text: str) -> IPAddress | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def embedded_address(address: IPAddress) -> IPAddress:
    """The IPv4 address that an IPv6 address of a translation scheme leads to, else the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _check_address(host: str, address: IPAddress, allow: Sequence[str]) -> None:
    if is_allowed(str(address), allow):
        return
    real = embedded_address(address)
    shown = "" if normalise_host(host) == str(address) else f" resolves to {address}, which"
    if real in _METADATA_ADDRESSES or real.is_link_local:
        raise _refusal(host, f"{shown} is link-local or a metadata service")
    if real.is_loopback or real.is_unspecified:
        raise _refusal(host, f"{shown} is this machine (loopback)")
    if not real.is_global or real.is_multicast or real.is_reserved:
        raise _refusal(host, f"{shown} is a private or reserved address")


def _refusal(host: str, why: str) -> HostRefused:
    return HostRefused(f"host {host} {why.strip()}; it is not connected to unless it is allowed (KAITO_ALLOW_HOSTS)")

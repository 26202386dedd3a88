"""Bounded HTTP transfers: checked hosts, retries, resumed and verified downloads, free space.

Knows nothing of Kaito, of registries or of hubs.
"""

from kaito.transfer.client import build_client
from kaito.transfer.download import Downloaded, download
from kaito.transfer.errors import DigestMismatch, HostRefused, HostUnknown, NoSpace, NotTLS, TransferError
from kaito.transfer.hosts import check_host, is_loopback
from kaito.transfer.retry import backoff, send
from kaito.transfer.space import require_free_space

__all__ = [
    "DigestMismatch",
    "Downloaded",
    "HostRefused",
    "HostUnknown",
    "NoSpace",
    "NotTLS",
    "TransferError",
    "backoff",
    "build_client",
    "check_host",
    "download",
    "is_loopback",
    "require_free_space",
    "send",
]

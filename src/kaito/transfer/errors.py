"""What can go wrong in a transfer.

TransferError
├── NotTLS           the server speaks no TLS
├── HostUnknown      the host's name cannot be resolved
├── HostRefused      the host, or an address of it, is loopback, private, link-local or a metadata service
├── DigestMismatch   what arrived is not what was announced
└── NoSpace          the disk is full, or would be
"""

from __future__ import annotations


class TransferError(Exception):
    """A transfer's failure. `message` holds no query string, token or password.

    `retryable`: the same call may succeed later (the bounded retries of this package are already spent).
    `status`: the HTTP status of the last answer, where there was one; `pause`: the seconds that it asked to wait.
    """

    def __init__(
        self, message: str, *, retryable: bool = False, status: int | None = None, pause: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retryable = retryable
        self.status = status
        self.pause = pause


class NotTLS(TransferError):
    pass


class HostUnknown(TransferError):
    pass


class HostRefused(TransferError):
    pass


class DigestMismatch(TransferError):
    pass


class NoSpace(TransferError):
    pass

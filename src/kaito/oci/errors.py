"""What an OCI registry, or an image in it, can refuse.

RegistryFailure (exit 5)
├── PullDenied          not allowed to read
├── PushDenied          not allowed to write
├── ImageNotFound       no such repository, tag or digest
└── ImageInvalid        the image is damaged, unsafe, or not what is asked for
TemporaryFailure (exit 75)
└── RegistryUnavailable down, overloaded, or the connection keeps breaking
"""

from __future__ import annotations

from typing import Literal

from kaito.failure import RegistryFailure, TemporaryFailure

Action = Literal["pull", "push"]


class PullDenied(RegistryFailure):
    reason = "PullDenied"


class PushDenied(RegistryFailure):
    reason = "PushDenied"


class ImageNotFound(RegistryFailure):
    reason = "ImageNotFound"


class ImageInvalid(RegistryFailure):
    reason = "ImageInvalid"


class RegistryUnavailable(TemporaryFailure):
    """`pause`: the seconds that the registry asked to wait, where it did."""

    reason = "RegistryUnavailable"

    def __init__(self, message: str, hint: str = "", *, pause: float | None = None) -> None:
        super().__init__(message, hint)
        self.pause = pause


def denied(action: Action, message: str, hint: str) -> RegistryFailure:
    return PushDenied(message, hint) if action == "push" else PullDenied(message, hint)

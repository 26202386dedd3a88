"""Where an adapter goes: an image in a registry, or a folder (the user's volume)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kaito.api.workspace import DataDestination


@dataclass(frozen=True, slots=True)
class Destination:
    """Exactly one of `image` and `folder` is given. `secret` holds the registry's credentials."""

    image: str | None = None
    folder: str = ""
    secret: str = ""

    @property
    def results(self) -> str:
        """The trainer's results folder: the user's own where the output is a folder."""
        return "results" if self.image is not None else self.folder

    @property
    def credentials_argv(self) -> tuple[str, ...]:
        return ("--credentials", f"secrets/{self.secret}") if self.secret else ()


def destination_of(output: DataDestination) -> Destination:
    if output.image:
        return Destination(image=output.image, secret=output.image_push_secret or "")
    return Destination(folder=host_folder(output.volume_source, "/mnt/results"))


def host_folder(volume: Mapping[str, Any] | None, in_pod: str) -> str:
    """The folder of this machine that a volume stands for (its `hostPath`), else the path where a Pod mounts it."""
    host_path = (volume or {}).get("hostPath") or {}
    return str(host_path.get("path") or in_pod)

"""What validation is told of the world, and what it finds. The rules themselves are in the `rules_*` modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from kaito.api.documents import FieldError
from kaito.api.paths import Path, format_path
from kaito.api.references import placeholders

Nodes = Literal["auto", "nodeclaim", "nodepool", "existing", "local"]


class KnownModel(Protocol):
    """What the rules ask of a base model. 0: not known, and the rule that asks does not apply."""

    @property
    def bytes(self) -> int: ...
    @property
    def context(self) -> int: ...
    @property
    def tunable(self) -> bool: ...


class KnownSku(Protocol):
    """What the rules ask of a machine type. `gpu_memory_bytes` is of one GPU."""

    @property
    def gpus(self) -> int: ...
    @property
    def gpu_memory_bytes(self) -> int: ...
    @property
    def compute_capability(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class ValidationContext:
    """What the rules need from outside. All of it is given: validation itself looks nothing up.

    `nodes`: who gets the nodes (`local`: rules about nodes do not apply; `auto`: see `nodes_of`). `find_preset`
    answers None for a name that is no base model, `nearest_presets` with names like it; `find_sku` answers None for
    a machine type that is not known, `nearest_skus` with those like it; `mig_slice_bytes` answers None for a MIG
    profile that does not exist. `configs`: the ConfigMaps at hand, name -> key -> text; with `configs_complete` a
    ConfigMap that is not among them does not exist. `configs_checked_apart`: those whose own faults are reported
    elsewhere, with the ConfigMap. `secrets` None: not known which there are.
    """

    nodes: Nodes = "nodeclaim"
    find_preset: Callable[[str], KnownModel | None] | None = None
    nearest_presets: Callable[[str], Sequence[str]] | None = None
    find_sku: Callable[[str], KnownSku | None] | None = None
    nearest_skus: Callable[[str], Sequence[str]] | None = None
    mig_slice_bytes: Callable[[str], int | None] | None = None
    cloud: str = "azure"
    configs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    configs_complete: bool = True
    configs_checked_apart: frozenset[str] = frozenset()
    secrets: frozenset[str] | None = None
    allow_hosts: Sequence[str] = ()
    node_classes: frozenset[str] = frozenset()
    gates: frozenset[str] = frozenset()


@dataclass(slots=True)
class Findings:
    """Errors and warnings, each with its path. `line_of` knows the document; without one everything is on line 1."""

    line_of: Callable[[Path], int] = lambda _: 1
    found: list[tuple[Path, FieldError]] = field(default_factory=list)
    warnings: list[FieldError] = field(default_factory=list)

    @property
    def errors(self) -> list[FieldError]:
        return [error for _, error in self.found]

    def error(self, path: Path, message: str) -> None:
        self.found.append((path, FieldError(format_path(path), message, self.line_of(path))))

    def warn(self, path: Path, message: str) -> None:
        self.warnings.append(FieldError(format_path(path), message, self.line_of(path)))

    def check(self, path: Path, value: str, problem: str) -> bool:
        """Record `problem` (if any) of a written value. A placeholder was reported as such: it is no second problem."""
        if problem and not placeholders(value):
            self.error(path, problem)
        return not problem

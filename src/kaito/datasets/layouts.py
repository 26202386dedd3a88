"""The columns of each format, by our names of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kaito.datasets.rows import shown


@dataclass(frozen=True, slots=True)
class Layout:
    """A row has this format with all of `needed` and any of `optional`."""

    format: str
    needed: tuple[str, ...]
    optional: frozenset[str] = frozenset()

    @property
    def columns(self) -> frozenset[str]:
        return self.optional.union(self.needed)

    def used(self, present: frozenset[str]) -> frozenset[str]:
        return present & self.columns


_BESIDE_A_CONVERSATION = frozenset(("system",))
_BESIDE_AN_INSTRUCTION = frozenset(("input", "context", "system"))
LAYOUTS = (
    Layout("messages", ("messages",), _BESIDE_A_CONVERSATION),
    Layout("messages", ("conversations",), _BESIDE_A_CONVERSATION),
    Layout("messages", ("conversation",), _BESIDE_A_CONVERSATION),
    Layout("prompt-completion", ("prompt", "completion")),
    Layout("prompt-completion", ("prompt", "response")),
    Layout("alpaca", ("instruction", "output"), _BESIDE_AN_INSTRUCTION),
    Layout("instruction-response", ("instruction", "response"), _BESIDE_AN_INSTRUCTION),
    Layout("instruction-response", ("instruction", "completion"), _BESIDE_AN_INSTRUCTION),
    Layout("context-response", ("context", "response"), _BESIDE_A_CONVERSATION),
    Layout("text", ("text",)),
)
STANDARD = tuple(dict.fromkeys(name for layout in LAYOUTS for name in (*layout.needed, *sorted(layout.optional))))
"""Every column's name."""
CONVERSATIONS = ("messages", "conversations", "conversation")
"""Names under which data have their `messages`; a configuration says `messages`."""
DECIDING = frozenset(name for layout in LAYOUTS for name in layout.needed)
"""The columns that a format cannot do without."""
RECOGNISED = (
    "'messages' or 'conversations' (a list of {role, content} or of {from, value}), 'prompt' and 'completion', "
    "'instruction' and 'output' (Alpaca), 'context' and 'response', or 'text'"
)


def write_mapping(columns: Mapping[str, str]) -> str:
    """`DatasetConfig.column_mapping` as a person writes it in a Workspace, where it counts before a ConfigMap's."""
    ours = {"messages" if name in CONVERSATIONS else name: column for name, column in columns.items()}
    pairs = ", ".join(f"{name}: {_quote(column)}" for name, column in ours.items())
    return f"tuning.parameters.DatasetConfig.column_mapping: {{{pairs}}}"


def _quote(name: str) -> str:
    column = shown(name)
    plain = column.replace("_", "").replace("-", "").isalnum() and column.isascii() and not column[0].isdigit()
    return column if plain else '"' + column.replace("\\", "\\\\").replace('"', '\\"') + '"'

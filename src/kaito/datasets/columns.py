"""Which format a row's columns make. Their names decide; what stands in them is for `formats` to read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kaito.datasets.layouts import DECIDING, LAYOUTS, STANDARD, Layout, write_mapping
from kaito.datasets.refusals import refuse_other_kinds, unrecognised
from kaito.datasets.rows import RowError


@dataclass(frozen=True, slots=True)
class Columns:
    """Where the standard columns are. `named`: standard name -> the data's, as far as the configuration says so.

    What is named decides the format: another one that the row fits as well is not taken.
    """

    named: Mapping[str, str] = field(default_factory=dict)
    _names: tuple[tuple[str, str], ...] = field(init=False, repr=False, compare=False)
    decide: bool = field(init=False, repr=False, compare=False)
    """Whether a column is named that a format cannot do without."""
    _chosen: dict[frozenset[str], Layout] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        taken = set(self.named.values())
        names = [(name, self.named.get(name, name)) for name in STANDARD if name in self.named or name not in taken]
        object.__setattr__(self, "_names", tuple(names))
        object.__setattr__(self, "decide", not DECIDING.isdisjoint(self.named))

    def find(self, value: Mapping[str, Any]) -> tuple[Layout, dict[str, str]]:
        """The format, and our name -> the data's of the columns that make the row: those that the format needs, and
        those beside them that hold something. Raises RowError where no format fits, or more than one."""
        if not self.decide:
            refuse_other_kinds(value)
        found = {name: column for name, column in self._names if not is_blank(value.get(column))}
        present = frozenset(found)
        layout = self._chosen.get(present)
        if layout is None:
            layout = self._choose(present)
            if layout is None:
                return self._explain(value, found)
            self._chosen[present] = layout  # at most one entry for each set of standard columns
        return layout, {name: found[name] for name in found if name in layout.columns}

    def _explain(self, value: Mapping[str, Any], found: Mapping[str, str]) -> tuple[Layout, dict[str, str]]:
        """The format of a row that has the columns and nothing in one of them: reading it says which."""
        layout = self._choose(frozenset(name for name, column in self._names if value.get(column) is not None))
        if layout is None:
            raise unrecognised(value, found, self.named)
        return layout, self._columns_of(layout)

    def _choose(self, present: frozenset[str]) -> Layout | None:
        fitting = [layout for layout in LAYOUTS if present.issuperset(layout.needed)]
        if self.decide:
            fitting = [layout for layout in fitting if not self.named.keys().isdisjoint(layout.needed)]
            fitting = [layout for layout in fitting if self._names_whole(layout)] or fitting
        fitting = [one for one in fitting if not any(one.used(present) < other.used(present) for other in fitting)]
        if not fitting:
            return None
        left = sorted(present - fitting[0].used(present))
        if len(fitting) > 1:
            formats = " and ".join(f"{one.format} ({', '.join(one.needed)})" for one in fitting)
            say = " or ".join(write_mapping(self._columns_of(layout)) for layout in fitting)
            remedy = f"say which: set {say}{self._to_keep(fitting[0], left)}"
            raise RowError(f"fits more than one format: {formats}", "columns", remedy)
        if left and not self._names_whole(fitting[0]):
            beside = ", ".join(f"'{name}'" for name in left)
            rule = f"{fitting[0].format} ({', '.join(fitting[0].needed)}), and {beside} beside it"
            remedy = f"to leave that out set {write_mapping(self._columns_of(fitting[0]))}"
            raise RowError(rule, "columns", remedy + self._to_keep(fitting[0], left))
        return fitting[0]

    def _to_keep(self, layout: Layout, left: list[str]) -> str:
        """How a prompt and its completion become an instruction, beside which a context or system text is read."""
        if layout.format != "prompt-completion" or not {"system", "context", "input", "response"}.issuperset(left):
            return ""
        task, answer = self._columns_of(layout).values()
        return f"; to train on all of it {write_mapping({'instruction': task, 'output': answer})}"

    def _names_whole(self, layout: Layout) -> bool:
        return all(name in self.named for name in layout.needed)

    def _columns_of(self, layout: Layout) -> dict[str, str]:
        return {name: self.named.get(name, name) for name in layout.needed}


def is_blank(value: object) -> bool:
    """Whether a column holds nothing: null, a text of white space, an empty list."""
    return value is None or (isinstance(value, str) and (not value or value.isspace())) or value == []

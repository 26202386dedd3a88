"""Rows of any kind, for property tests: columns that are ours and others, with anything in them."""

from __future__ import annotations

import json

from hypothesis import strategies as st

from kaito.datasets.layouts import STANDARD

NAMES = (*STANDARD, "question", "answer", "chosen", "rejected", "label", "tools", "images", "id", "Prompt", "wei rd")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
MESSAGE = st.dictionaries(
    st.sampled_from(("role", "content", "from", "value", "weight", "tool_calls", "name", "type", "text")),
    JSON | st.sampled_from(("user", "assistant", "system", "human", "gpt", "tool")),
    max_size=4,
)
CELLS = JSON | st.lists(MESSAGE, max_size=3) | st.lists(MESSAGE, max_size=3).map(json.dumps)

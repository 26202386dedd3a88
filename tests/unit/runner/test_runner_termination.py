"""The termination message fits its bounds whatever it is told."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from kaito.runner.termination import STEP_LIMIT, TEXT_LIMIT, TOTAL_LIMIT, JobEnd, build_termination

texts = st.text(max_size=3000) | st.text(alphabet='\x00"\\\ud800é😀', max_size=3000)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=500),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=20), inner, max_size=5),
    max_leaves=20,
)
results = st.dictionaries(st.text(max_size=70), st.dictionaries(st.text(max_size=40), values, max_size=8), max_size=12)


def size(value: object) -> int:
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace"))


@settings(deadline=None, max_examples=60)
@given(step=texts, reason=texts, message=texts, hint=texts, results=results)
def test_it_is_whole_json_within_every_bound(step: str, reason: str, message: str, hint: str, results: dict) -> None:
    written = build_termination(JobEnd(1, step, reason, message, hint, results))
    assert len(written) <= TOTAL_LIMIT
    value = json.loads(written)
    assert set(value) == {"step", "reason", "message", "hint", "results"}
    assert size(value["message"]) + size(value["hint"]) <= TEXT_LIMIT
    for name, result in value["results"].items():
        assert size({name: result}) <= STEP_LIMIT


def test_what_fits_is_told_in_full() -> None:
    results = {
        "fetch": {"files": 2, "bytes": 100, "digest": "sha256:" + "a" * 64},
        "preflight": {"rows": 9, "first": []},
    }
    end = JobEnd(3, "preflight", "DataInvalid", "no answer in data/a.jsonl:7", "Add one.", results)
    assert json.loads(build_termination(end)) == {
        "step": "preflight",
        "reason": "DataInvalid",
        "message": "no answer in data/a.jsonl:7",
        "hint": "Add one.",
        "results": results,
    }


def test_the_largest_fields_are_dropped_whole_and_the_small_ones_stay() -> None:
    result = {"rows": 9, "first": ["x" * 500], "tokens": {"p50": 1}, "notes": "y" * 400}
    value = json.loads(build_termination(JobEnd(0, "preflight", "Completed", "done", "", {"preflight": result})))
    assert value["results"] == {"preflight": {"rows": 9, "tokens": {"p50": 1}, "notes": "y" * 400}}


def test_a_long_message_keeps_its_beginning_and_leaves_room_for_the_hint() -> None:
    value = json.loads(build_termination(JobEnd(1, "tune", "InternalError", "m" * 5000, "h" * 300, {})))
    assert value["hint"] == "h" * 300
    assert value["message"].startswith("m" * 600)
    assert value["message"].endswith("…")

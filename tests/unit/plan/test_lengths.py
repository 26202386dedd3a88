"""`max_length`: what a plan makes of the data, the context and the memory, before and after the rows are counted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kaito.api.training import parse_training_config
from kaito.contract import Observed, Plan, Setting
from kaito.plan import plan
from kaito.plan.lengths import default_length
from kaito.plan.settings import Basis
from tests.unit.plan.test_plan_tuning import DATA, FOUND, GIB, changed, identities, workspace

LONG = replace(DATA, tokens_p50=100, tokens_p95=180, tokens_p99=213, tokens_max=3000, truncated=7)


def with_data(data: Any = LONG, **over: Any) -> Observed:
    return replace(FOUND, data=data, **over)


def length(planned: Plan) -> Setting:
    return planned.settings["TrainingArguments.max_length"]


@pytest.mark.parametrize(
    ("basis", "expected", "why"),
    [
        (Basis("lora"), 2048, "provisional: until the rows are counted"),
        (Basis("lora", context=1024), 1024, "the model's context; provisional: until the rows are counted"),
        (Basis("lora", rows=100), 2048, "default"),
        (Basis("lora", context=4096, tokens_p99=213, tokens_max=3000), 256, "p99 of the data is 213"),
        (Basis("lora", context=4096, tokens_p99=256, tokens_max=400), 256, "p99 of the data is 256"),
        (Basis("lora", context=4096, tokens_p99=213, tokens_max=260), 320, "the longest row has 260 tokens"),
        (Basis("lora", context=8192, tokens_p99=5000, tokens_max=9000), 5056, "p99 of the data is 5000"),
        (Basis("lora", context=1024, tokens_p99=5000, tokens_max=9000), 1024, "the model's context"),
    ],
)
def test_the_default_follows_the_data_up_to_the_models_context(basis: Basis, expected: int, why: str) -> None:
    assert default_length(basis) == (expected, why)


def test_counting_the_rows_changes_the_training_and_runs_nothing_of_check_again() -> None:
    before, after = plan(workspace(), with_data(None)), plan(workspace(), with_data())
    assert (length(before).value, length(after)) == (2048, Setting(256, "p99 of the data is 213"))
    found = changed(identities(with_data(None)), identities(with_data()))
    assert not found & {"resolve", "fetch", "preflight", "login"}
    assert "tune" in found


@pytest.mark.parametrize("said", [None, 4096])
def test_what_check_renders_by_is_the_same_before_and_after_the_facts(said: int | None) -> None:
    parameters = {"parameters": {"TrainingArguments": {"max_length": said}}} if said else {}
    folder = {"preset": {"name": "/models/mine"}, **parameters}  # of a folder the context is not known beforehand
    short = replace(FOUND.model, context=1024) if FOUND.model is not None else None
    known, unknown = with_data(model=short), with_data(None, model=None)
    assert identities(known, **folder)["preflight"] == identities(unknown, **folder)["preflight"]
    text = plan(workspace(**folder), known).jobs[0].files["training_config.resolved.yaml"]
    config = parse_training_config(text).config
    assert config is not None
    assert config.training.max_length == 1024


def test_another_max_length_is_checked_anew() -> None:
    assert "preflight" in changed(identities(with_data()), identities(with_data(), **saying(max_length=300)))


def test_shorter_rows_leave_room_for_more_of_them_at_once() -> None:
    small = replace(FOUND.device, memory_bytes=9 * GIB) if FOUND.device is not None else None
    micro = "TrainingArguments.per_device_train_batch_size"
    before, after = (plan(workspace(), with_data(data, device=small)).settings[micro].value for data in (None, LONG))
    assert after > before


def saying(**arguments: Any) -> dict[str, Any]:
    return {"parameters": {"TrainingArguments": arguments}}


def test_what_the_user_said_stands_up_to_the_context() -> None:
    assert length(plan(workspace(**saying(max_length=777)), with_data())) == Setting(777, "tuning.parameters")
    over = plan(workspace(**saying(max_length=200_000)), with_data())
    assert length(over).value == 131_072
    assert any("beyond the model's context" in warning for warning in over.warnings)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (None, "max_length 256 cuts at most 1 % of 15,000 rows; the longest has 3,000 tokens"),
        (2048, "max_length 2048 cuts 7 of 15,000 rows"),
        (190, "max_length 190 cuts 7 of 15,000 rows"),
    ],
)
def test_a_plan_says_how_many_rows_are_cut(said: int | None, words: str) -> None:
    planned = plan(workspace(**(saying(max_length=said) if said else {})), with_data())
    assert sum(words in warning for warning in planned.warnings) == 1


def test_where_a_long_row_is_an_error_no_default_is_shorter_than_the_longest() -> None:
    parameters = {"parameters": {"DatasetConfig": {"long_rows": "error"}}}
    assert length(plan(workspace(**parameters), with_data())) == Setting(3008, "the longest row has 3000 tokens")


@pytest.mark.parametrize("said", [None, 4096])
def test_where_a_long_row_is_an_error_only_a_limit_that_was_set_is_checked(said: int | None) -> None:
    parameters = {"DatasetConfig": {"long_rows": "error"}, "TrainingArguments": {"max_length": said}}
    for observed in (with_data(), with_data(None, model=None)):
        text = plan(workspace(parameters=parameters), observed).jobs[0].files["training_config.resolved.yaml"]
        config = parse_training_config(text).config
        assert config is not None
        assert config.training.max_length == said, "without one the model's context is the limit"


def test_rows_that_are_left_out_are_counted() -> None:
    parameters = {"DatasetConfig": {"long_rows": "drop"}, "TrainingArguments": {"max_length": 600}}
    rows = replace(LONG, truncated=0, dropped=7)
    (warning,) = (w for w in plan(workspace(parameters=parameters), with_data(rows)).warnings if "rows;" in w)
    assert warning.startswith("max_length 600 leaves out 7 of 15,000 rows")


def test_rows_that_are_left_out_are_not_called_cut() -> None:
    parameters = {"parameters": {"DatasetConfig": {"long_rows": "drop"}}}
    (warning,) = (word for word in plan(workspace(**parameters), with_data()).warnings if "rows" in word)
    assert warning.startswith("max_length 256 leaves out at most 1 % of 15,000 rows")


def test_where_nothing_is_cut_nothing_is_said() -> None:
    whole = replace(LONG, tokens_max=230, truncated=0)
    assert not any("cuts" in warning for warning in plan(workspace(), with_data(whole)).warnings)


def test_long_rows_on_a_small_gpu_are_first_recomputed_and_only_then_cut() -> None:
    long = replace(LONG, tokens_p50=3000, tokens_p95=9000, tokens_p99=16_000, tokens_max=30_000)
    small = replace(FOUND.device, memory_bytes=6 * GIB) if FOUND.device is not None else None
    planned = plan(workspace(), with_data(long, device=small))
    assert planned.refusal is None
    assert planned.estimate is not None
    assert planned.estimate.micro_batch == 1
    assert 512 <= length(planned).value < 16_000
    assert length(planned).value % 64 == 0
    assert length(planned).source == "what the memory holds; p99 of the data is 16000"
    assert any("cuts more than 5 %" in warning for warning in planned.warnings)


def test_gradient_checkpointing_is_turned_on_where_one_row_does_not_fit_without_it() -> None:
    facts = replace(FOUND.model, parameters=2_000_000_000, bytes=4_000_000_000) if FOUND.model is not None else None
    rows = replace(LONG, tokens_p99=4096, tokens_max=4096)
    device = replace(FOUND.device, memory_bytes=16 * GIB) if FOUND.device is not None else None
    planned = plan(workspace(preset={"name": "/models/mine"}), with_data(rows, model=facts, device=device))
    checkpointing = planned.settings["TrainingArguments.gradient_checkpointing"]
    assert checkpointing == Setting(True, "one row does not fit the memory without it")
    assert length(planned).value == 4096
    said = workspace(preset={"name": "/models/mine"}, **saying(gradient_checkpointing=False))
    kept = plan(said, with_data(rows, model=facts, device=device)).settings["TrainingArguments.gradient_checkpointing"]
    assert kept == Setting(False, "tuning.parameters")

"""What is said of a Workspace that takes the name of one that has run."""

from __future__ import annotations

from typing import Any

import pytest

from kaito.client.changes import describe_changes
from kaito.contract import Asked
from kaito.local.desired import Desired


def desired(config: str = "", sources: dict[str, str] | None = None, **tuning: Any) -> Desired:
    workspace = {"tuning": {"method": "lora", "config": "c", **tuning}}
    return Desired(workspace, {"c": {"training_config.yaml": config}}, (), Asked(sources=sources or {}))


def training(rate: float) -> str:
    return f"training_config:\n  TrainingArguments:\n    learning_rate: {rate}\n"


def inline(rate: float) -> dict[str, Any]:
    return {"TrainingArguments": {"learning_rate": rate}}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (desired(training(0.003)), desired(training(0.002)), "learning_rate 0.003 -> 0.002"),
        (desired(training(0.003)), desired(training(0.003), parameters=inline(0.002)), "learning_rate 0.003 -> 0.002"),
        (desired(), desired(training(0.002)), "learning_rate unset -> 0.002"),
        (desired(training(0.002)), desired(parameters=inline(0.002)), ""),
        (desired(output={"image": "a:1"}), desired(output={"image": "a:2"}), "output.image a:1 -> a:2"),
        (desired(input={"urls": ["https://x/a?sig=1"]}), desired(input={"urls": ["https://x/a?sig=2"]}), "input.urls"),
        (desired(sources={"/data": "sha256:1"}), desired(sources={"/data": "sha256:2"}), "the files in /data"),
        (desired(a=1, b=1, c=1, d=1, e=1, f=1), desired(), "a 1 -> unset, b 1 -> unset, c 1 -> unset, d 1 -> unset, "
         "e 1 -> unset and 1 more"),
    ],
)  # fmt: skip
def test_each_changed_field_is_named_with_what_it_was_and_is(before: Desired, after: Desired, said: str) -> None:
    assert describe_changes(before, after) == said
    assert describe_changes(after, after) == ""

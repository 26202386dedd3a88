"""Tokens and passwords that stand in settings without effect."""

from __future__ import annotations

from kaito.contract import Observed
from kaito.plan import plan
from tests.unit.plan.test_plan_tuning import LAPTOP, PHI, workspace


def test_a_token_and_a_proxys_password_are_in_no_setting_and_in_no_file_of_a_job() -> None:
    asked = workspace(
        parameters={
            "TrainingArguments": {"hub_token": "hf_SECRET"},
            "ModelConfig": {"proxies": {"https": "http://user:SECRET@proxy:1"}},
        }
    )
    planned = plan(asked, Observed(device=LAPTOP, model=PHI))
    assert "TrainingArguments.learning_rate" in planned.settings
    assert "SECRET" not in repr(planned)

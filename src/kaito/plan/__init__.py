"""Decisions. Pure: a Workspace, the catalog and observed facts in; a Plan, a status, the next attempt out.

No file, clock, network or log: time comes in as a value. Begin with `tuning`.
"""

from __future__ import annotations

from kaito.api.workspace import Workspace
from kaito.contract import Observed, Plan
from kaito.plan.attempts import Attempt, Done, Failed, Runs, Start, Wait, next_attempt, request_of
from kaito.plan.inference import plan_inference
from kaito.plan.inputs import hash_inputs
from kaito.plan.status import PHASES, failure_of, phase_of, status, steps_of
from kaito.plan.tuning import plan_tuning

__all__ = [
    "PHASES",
    "Attempt",
    "Done",
    "Failed",
    "Runs",
    "Start",
    "Wait",
    "failure_of",
    "hash_inputs",
    "next_attempt",
    "phase_of",
    "plan",
    "request_of",
    "status",
    "steps_of",
]


def plan(workspace: Workspace, observed: Observed) -> Plan:
    """Everything that an engine must make true for a valid Workspace, or why it must not try."""
    if workspace.tuning is not None:
        return plan_tuning(workspace, observed)
    return plan_inference(workspace, observed)

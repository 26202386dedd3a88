"""The Python API over the engines: load and check documents, plan, apply, run, look, stop. CLI and page stand on it."""

from __future__ import annotations

from kaito.client.check import Loaded, load, missing_folder_lines
from kaito.client.documents import DocumentSet
from kaito.client.local import (
    AlreadyRunning,
    Applied,
    Engine,
    Key,
    LocalClient,
    NotFound,
    Unreadable,
    View,
    read_events,
    stop_signals,
)
from kaito.client.logs import follow_log, log_steps, read_log
from kaito.client.output import document_json, document_yaml, list_json, plan_json, plan_yaml
from kaito.client.plans import plan_documents
from kaito.plan import PHASES

__all__ = [
    "PHASES",
    "AlreadyRunning",
    "Applied",
    "DocumentSet",
    "Engine",
    "Key",
    "Loaded",
    "LocalClient",
    "NotFound",
    "Unreadable",
    "View",
    "connect",
    "document_json",
    "document_yaml",
    "follow_log",
    "list_json",
    "load",
    "log_steps",
    "missing_folder_lines",
    "plan_documents",
    "plan_json",
    "plan_yaml",
    "read_events",
    "read_log",
    "stop_signals",
]


def connect() -> LocalClient:
    """The engine that commands talk to: this machine."""
    return LocalClient()

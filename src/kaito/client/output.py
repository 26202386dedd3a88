"""What `-o json` and `-o yaml` print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import StringIO
from typing import Any

from kaito.client.local import View
from kaito.contract import Plan, to_json


def document_json(seen: View) -> str:
    """One Workspace with its status."""
    return json.dumps(seen.document(), indent=2, ensure_ascii=False)


def document_yaml(seen: View) -> str:
    return _yaml(seen.document())


def list_json(found: Sequence[View]) -> str:
    """A Kubernetes `List`."""
    items = [seen.document() for seen in found]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items}, indent=2, ensure_ascii=False)


def plan_json(plans: Sequence[Plan]) -> str:
    """One plan an element."""
    return json.dumps([to_json(plan) for plan in plans], indent=2, ensure_ascii=False) + "\n"


def plan_yaml(plans: Sequence[Plan]) -> str:
    return "---\n".join(_yaml(to_json(plan)) for plan in plans)


def _yaml(value: Any) -> str:
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment] # declared as None
    yaml.allow_unicode = True
    yaml.width = 4096
    text = StringIO()
    yaml.dump(value, text)
    return text.getvalue()

"""The Workspaces of the first documents, with their placeholders filled in, are planned as what they ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

from kaito.api.documents import load_documents
from kaito.api.workspace import parse_workspace
from kaito.contract import Device, Observed
from kaito.plan import plan

SEEDS = Path(__file__).parents[2] / "fixtures" / "seeds"
FILLED = {
    "ACR_REPO_HERE": "myregistry",
    "IMAGE_NAME_HERE": "adapters/mine",
    "ACR_REGISTRY_SECRET_HERE": "registry-secret",
    "IMAGE_PULL_SECRETS_HERE": "pull-secret",
}


@pytest.mark.parametrize("seed", sorted(SEEDS.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_is_planned_for_the_nodes_that_it_names(seed: Path, tmp_path: Path) -> None:
    text = seed.read_text()
    for placeholder, value in FILLED.items():
        text = text.replace(placeholder, value)
    file = tmp_path / seed.name
    file.write_text(text)
    (document,) = load_documents([file])
    workspace = parse_workspace(document).workspace
    assert workspace is not None
    planned = plan(workspace, Observed())
    assert planned.refusal is None
    assert planned.nodes is not None
    assert planned.nodes.instance_type == workspace.resource.instance_type
    if workspace.tuning is not None:
        assert [job.name for job in planned.jobs] == ["check", "tune", "push"]
        assert planned.estimate is not None
        assert planned.estimate.micro_batch >= 1
    else:
        assert planned.service is not None
        assert [adapter["name"] for adapter in planned.service.adapters] == ["myadapter"]
        assert planned.service.image == "serving", "a V100 is too old for vLLM"


def test_serving_is_refused_on_this_machine_in_words() -> None:
    (document,) = load_documents([SEEDS / "002-inference-phi-3-adapter.yaml"])
    workspace = parse_workspace(document).workspace
    assert workspace is not None
    refusal = plan(workspace, Observed(device=Device("cpu", "a laptop", 2, 16 << 30))).refusal
    assert refusal is not None
    assert refusal.reason == "ServingNotSupported"

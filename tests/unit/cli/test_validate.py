"""`kaito validate` on real files: KAITO's own documents, exit codes, JSON, and two hundred damaged files."""

from __future__ import annotations

import copy
import json
import random
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner, Result

from kaito.api.documents import parse_documents
from kaito.api.workspace import Workspace, parse_workspace
from kaito.cli import app
from tests.unit.api.workspaces import TUNING, changed

FIXTURES = Path(__file__).parents[2] / "fixtures"
SEEDS = sorted((FIXTURES / "seeds").glob("*.yaml"))
FILLED = {
    "ACR_REPO_HERE": "myregistry",
    "IMAGE_NAME_HERE": "adapters/mine",
    "ACR_REGISTRY_SECRET_HERE": "push-secret",
    "IMAGE_PULL_SECRETS_HERE": "pull-secret",
}


def run(*arguments: str | Path, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, ["validate", *map(str, arguments)], input=stdin)


def problems(*arguments: str | Path) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(run(*arguments, "-o", "json").stdout)
    return entries


def fill(text: str) -> str:
    for placeholder, value in FILLED.items():
        text = text.replace(placeholder, value)
    return text


# --- the documents of KAITO that users start from -------------------------------------------------------------------


def test_there_is_a_fixture_for_every_workspace():
    assert {seed.name[:3] for seed in SEEDS} == {"000", "001", "002", "003", "004"}
    assert len(SEEDS) == 6


@pytest.mark.parametrize("seed", SEEDS, ids=lambda path: path.stem)
def test_a_seed_with_its_placeholders_filled_in_passes(seed: Path, tmp_path: Path):
    file = tmp_path / seed.name
    file.write_text(fill(seed.read_text()))
    result = run("-f", file)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""


@pytest.mark.parametrize("seed", SEEDS, ids=lambda path: path.stem)
def test_a_seed_as_printed_names_each_placeholder_and_nothing_else(seed: Path):
    text = seed.read_text()
    expected = {name for name in FILLED if re.search(rf"\b{name}\b", text)}
    result = run("-f", seed)
    named = {name for name in FILLED if re.search(rf"\b{name}\b", result.stdout)}
    assert named == expected
    assert result.exit_code == (1 if expected else 0)
    for line in result.stdout.splitlines() if expected else ():
        assert "placeholder" in line
        number = int(line.removeprefix(f"{seed}:").partition(":")[0])
        assert "_HERE" in text.splitlines()[number - 1]


@pytest.mark.parametrize("seed", SEEDS, ids=lambda path: path.stem)
def test_a_seed_reads_field_for_field(seed: Path):
    (document,) = parse_documents(seed.read_text())
    workspace = parse_workspace(document).workspace
    assert isinstance(workspace, Workspace)
    assert workspace.model_dump(mode="json", by_alias=True, exclude_none=True) == document.value


# --- the command ----------------------------------------------------------------------------------------------------


def write(path: Path, *workspaces: dict[str, Any]) -> Path:
    with path.open("w", encoding="utf-8") as file:
        YAML(typ="rt", pure=True).dump_all(workspaces, file)
    return path


def test_a_problem_is_one_line_with_file_line_and_field(tmp_path: Path):
    file = write(tmp_path / "w.yaml", changed(TUNING, {"tuning.method": "lore"}))
    result = run("-f", file)
    line = file.read_text().splitlines().index("  method: lore") + 1
    assert result.stdout == f"{file}:{line}: tuning.method: expected lora or qlora, got 'lore'; did you mean lora?\n"
    assert result.exit_code == 1


def test_json_has_one_entry_a_file_and_object(tmp_path: Path):
    good = write(tmp_path / "good.yaml", TUNING, changed(TUNING, {"metadata.name": "other"}))
    bad = write(tmp_path / "bad.yaml", changed(TUNING, {"tuning.method": "lore"}))
    entries = problems("-f", good, "-f", bad)
    assert [(Path(entry["file"]).name, entry["kind"], entry["name"]) for entry in entries] == [
        ("good.yaml", "Workspace", "tune-phi"),
        ("good.yaml", "Workspace", "other"),
        ("bad.yaml", "Workspace", "tune-phi"),
    ]
    assert [len(entry["problems"]) for entry in entries] == [0, 0, 1]
    assert set(entries[2]["problems"][0]) == {"line", "field", "message"}


def test_files_do_not_see_each_other(tmp_path: Path):
    config = (FIXTURES / "configmaps" / "qlora-params-template.yaml").read_text()
    apart = write(tmp_path / "a.yaml", changed(TUNING, {"tuning.config": "qlora-params-template"}))
    (tmp_path / "b.yaml").write_text(config)
    assert "not among the given documents" in run("-f", tmp_path).stderr
    apart.write_text(apart.read_text() + "---\n" + config)
    assert "not among the given documents" not in run("-f", apart).stderr


def test_standard_input_is_read():
    result = run("-f", "-", stdin="kind: InferenceSet\napiVersion: kaito.sh/v1beta1\n")
    assert result.stdout == "-:1: kind: InferenceSet is not supported; only Workspace is\n"
    assert result.exit_code == 1


def test_warnings_go_to_stderr_and_change_nothing(tmp_path: Path):
    result = run("-f", FIXTURES / "configmaps" / "lora-params-template.yaml")
    assert result.exit_code == 0
    assert len(result.stderr.splitlines()) == 1
    assert re.search(r"lora-params-template.yaml:\d+: training_config.DataCollator.mlm: warning: ", result.stderr)


def test_an_update_is_checked_against_the_old_file(tmp_path: Path):
    old = write(tmp_path / "old.yaml", TUNING)
    new = write(tmp_path / "new.yaml", changed(TUNING, {"tuning.method": "lora"}))
    (entry,) = problems("-f", new, "--old", old)
    assert [problem["field"] for problem in entry["problems"]] == ["tuning.method"]
    assert problems("-f", old, "--old", old)[0]["problems"] == []
    (entry,) = problems("-f", write(tmp_path / "x.yaml", changed(TUNING, {"metadata.name": "x"})), "--old", old)
    assert entry["problems"][0]["field"] == "metadata.name"


@pytest.mark.parametrize(("nodes", "code"), [("existing", 1), ("nodeclaim", 0), ("nodepool", 0)])
def test_nodes_says_which_rules_apply(nodes: str, code: int, tmp_path: Path):
    assert run("-f", write(tmp_path / "w.yaml", TUNING), "--nodes", nodes).exit_code == code


def test_a_private_host_is_allowed_by_flag_or_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = write(tmp_path / "w.yaml", changed(TUNING, {"tuning.input.urls": ["http://127.0.0.1:8080/d.jsonl"]}))
    assert run("-f", file).exit_code == 1
    assert run("-f", file, "--allow-host", "127.0.0.1").exit_code == 0
    monkeypatch.setenv("KAITO_ALLOW_HOSTS", "example.com, 127.*")
    assert run("-f", file).exit_code == 0


def test_a_missing_file_is_a_problem_of_that_file(tmp_path: Path):
    (entry,) = problems("-f", tmp_path / "nothing.yaml")
    assert "No such file" in entry["problems"][0]["message"]


def test_nothing_heavy_is_imported():
    code = (
        "import sys\nfrom kaito.cli import app\n"
        f"app(['validate', '-f', {str(SEEDS[0])!r}, '-f', {str(FIXTURES / 'configmaps')!r}], standalone_mode=False)\n"
    )
    probe = f"try:\n    exec({code!r})\nfinally:\n    print(*sys.modules, file=sys.stderr)\n"
    ended = subprocess.run(
        [sys.executable, "-c", "import sys\n" + probe], capture_output=True, text=True, timeout=60, check=False
    )
    loaded = set(ended.stderr.splitlines()[-1].split())
    assert "kaito.api.validation" in loaded
    assert not loaded & {
        "torch",
        "transformers",
        "peft",
        "numpy",
        "pyarrow",
        "httpx",
        "lightkube",
        "starlette",
        "jinja2",
    }


# --- two hundred damaged files --------------------------------------------------------------------------------------

JUNK: list[Any] = [
    None,
    True,
    -1,
    10**30,
    1.5,
    "",
    " ",
    "ü\u202e",
    "a" * 3000,
    [],
    [[]],
    {},
    {"a": {"b": []}},
    ["x", 1],
]


def full_workspace() -> str:
    """A valid file that uses most of what there is: parameters, annotations, a ConfigMap beside it."""
    workspace = changed(
        TUNING,
        {
            "tuning.config": "everything",
            "metadata.annotations[kaito.sh/node-image-family]": "ubuntu",
            "tuning.input.imagePullSecrets": ["pull"],
            "tuning.evaluation": {"minImprovement": 0.1},
            "tuning.parameters": {
                "LoraConfig": {"r": 8, "target_modules": ["q_proj"], "rank_pattern": {"a": 4}},
                "TrainingArguments": {"learning_rate": 0.0002, "save_strategy": "no", "evaluation_strategy": "epoch"},
                "DatasetConfig": {"column_mapping": {"prompt": "question"}},
            },
            "resource.labelSelector.matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}],
        },
    )
    text = StringIO()
    YAML(typ="rt", pure=True).dump(workspace, text)
    return text.getvalue() + "---\n" + (FIXTURES / "configmaps" / "everything.yaml").read_text(encoding="utf-8")


def containers(value: Any) -> list[Any]:
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return ([value] if inner else []) + [found for item in inner for found in containers(item)]


def damage_value(text: str, chance: random.Random) -> bytes:
    """Delete, rename, retype, duplicate or insert something at a random place of the values."""
    documents = [document.value for document in parse_documents(text)]
    for _ in range(chance.randint(1, 4)):
        target = chance.choice(containers(chance.choice(documents)))
        key = chance.choice(list(target) if isinstance(target, dict) else range(len(target)))
        how = chance.choice(["delete", "rename", "retype", "duplicate", "insert"])
        if how == "delete":
            del target[key]
        elif how == "rename" and isinstance(target, dict):
            target[chance.choice([str(key)[1:], str(key) + "s", str(key).upper(), "", "a.b[0]", "ключ"])] = target.pop(
                key
            )
        elif how == "duplicate" and isinstance(target, list):
            target.append(copy.deepcopy(target[key]))
        elif how == "insert" and isinstance(target, dict):
            target[f"extra{chance.random():.3f}"] = copy.deepcopy(chance.choice(JUNK))
        else:
            target[key] = copy.deepcopy(chance.choice(JUNK))
        documents = [document for document in documents if document] or [{"kind": "Workspace"}]
    return "---\n".join(json.dumps(document, ensure_ascii=False, indent=1) + "\n" for document in documents).encode()


PIECES = [
    *(b"", b"\t", b"\n", b": ", b"- ", b"{", b"]", b'"', b"'", b"|", b">", b"#", b"%", b"? "),
    *(b"&a ", b"*a", b"!!x ", b"<<: ", b"---\n", b"\x00", b"\xff\xfe", "é".encode()),
]


def damage_text(text: str, chance: random.Random) -> bytes:
    """Cut, repeat or overwrite a piece of the text, or change the indentation of a line."""
    damaged = bytearray(text.encode())
    for _ in range(chance.randint(1, 5)):
        start = chance.randrange(len(damaged))
        end = min(len(damaged), start + chance.choice([1, 1, 2, 10, 200]))
        piece = chance.choice([*PIECES, bytes(damaged[start:end]) * 2])
        damaged[start:end] = piece
        damaged = damaged or bytearray(b" ")
    return bytes(damaged)


def test_the_file_that_is_damaged_is_valid(tmp_path: Path):
    file = tmp_path / "w.yaml"
    file.write_text(full_workspace(), encoding="utf-8")
    assert run("-f", file).exit_code == 0


@pytest.mark.parametrize("seed", range(200))
def test_a_damaged_file_never_makes_a_traceback(seed: int, tmp_path: Path):
    chance = random.Random(seed)
    text = full_workspace()
    damaged = (damage_value if seed % 2 else damage_text)(text, chance)
    file = tmp_path / "w.yaml"
    file.write_bytes(damaged)
    result = run("-f", file, "-o", "json")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (0, 1)
    lines = damaged.count(b"\n") + 1
    entries = json.loads(result.stdout)
    assert result.exit_code == any(entry["problems"] for entry in entries)
    for problem in (problem for entry in entries for problem in entry["problems"]):
        assert 1 <= problem["line"] <= lines
        assert problem["field"]
        assert problem["message"]
        assert "\n" not in problem["field"]
    for warning in result.stderr.splitlines():
        assert re.match(r".*w\.yaml:\d+: .+: warning: .+", warning)

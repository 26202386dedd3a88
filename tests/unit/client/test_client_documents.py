"""A set of files: what belongs together, relative paths, and Secrets that are not what they say."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from kaito.api.documents import load_documents
from kaito.client.documents import gather, with_absolute_paths


def write(path: Path, *documents: dict[str, object]) -> Path:
    path.write_text("\n---\n".join(json.dumps(document) for document in documents))
    return path


def test_secrets_are_decoded_and_plain_text_wins() -> None:
    encoded = base64.b64encode(b"from data").decode()
    secret = {
        "kind": "Secret",
        "metadata": {"name": "s"},
        "data": {"a": encoded, "b": encoded},
        "stringData": {"b": "plain"},
    }
    from kaito.api.documents import parse_documents

    found, problems = gather(parse_documents(json.dumps(secret)))
    assert found.secrets == {"s": {"a": b"from data", "b": b"plain"}}
    assert problems == []


def test_a_secret_that_is_not_base64_is_a_problem_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("kind: Secret\nmetadata: {name: s}\ndata:\n  token: not base64!\n")
    _, problems = gather(load_documents([file]))
    assert [(error.field, error.line) for _, error in problems] == [("data.token", 4)]
    assert "not base64!" not in problems[0][1].message


def test_a_relative_host_path_is_relative_to_the_file_that_says_it(tmp_path: Path) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    volume = {"volumeSource": {"hostPath": {"path": "data", "type": "Directory"}}}
    workspace = {"kind": "Workspace", "metadata": {"name": "w"}, "tuning": {"input": volume, "output": {"image": "a"}}}
    (document,) = load_documents([write(folder / "w.yaml", workspace)])
    made = with_absolute_paths(document)
    assert made["tuning"]["input"]["volumeSource"]["hostPath"] == {"path": str(folder / "data"), "type": "Directory"}
    assert made["tuning"]["output"] == {"image": "a"}
    assert document.value["tuning"]["input"] == volume, "the document itself is left as typed"


def test_a_base_model_in_a_folder_beside_the_file_is_found_from_anywhere(tmp_path: Path) -> None:
    workspace = {"kind": "Workspace", "metadata": {"name": "w"}, "tuning": {"preset": {"name": "./model"}}}
    (document,) = load_documents([write(tmp_path / "w.yaml", workspace)])
    assert with_absolute_paths(document)["tuning"]["preset"] == {"name": str(tmp_path / "model")}
    hub = {**workspace, "tuning": {"preset": {"name": "org/model"}}}
    (document,) = load_documents([write(tmp_path / "h.yaml", hub)])
    assert with_absolute_paths(document)["tuning"]["preset"] == {"name": "org/model"}

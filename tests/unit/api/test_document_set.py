"""Documents of one set see each other: ConfigMaps with their Workspaces, kinds that are not ours, names given twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kaito.api.document_set import CheckedDocument, check_set
from kaito.api.documents import load_documents, parse_documents
from tests.unit.api.workspaces import CONTEXT

CONFIG_MAPS = Path(__file__).parents[2] / "fixtures" / "configmaps"

WORKSPACE = """\
apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata: {name: tune-phi}
resource: {instanceType: Standard_NC24ads_A100_v4, labelSelector: {matchLabels: {a: b}}}
tuning:
  preset: {name: phi-3-mini-128k-instruct}
  method: qlora
  config: mine
  input: {urls: ["https://example.com/data.parquet"]}
  output: {image: "a.b/c:1", imagePushSecret: push}
"""


def config_map(text: str, name: str = "mine", key: str = "training_config.yaml") -> str:
    indented = "".join(f"    {line}\n" for line in text.splitlines())
    return f"---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata:\n  {key}: |\n{indented}"


def check(text: str, *, complete: bool = False) -> list[CheckedDocument]:
    return check_set(parse_documents(text, file="f.yaml"), replace(CONTEXT, configs_complete=complete))


QUANTISED = "training_config:\n  QuantizationConfig: {load_in_4bit: true}\n"


def test_a_workspace_with_its_config_map_is_valid():
    workspace, config = check(WORKSPACE + config_map(QUANTISED))
    assert workspace.errors == config.errors == ()


def test_a_problem_in_a_config_map_is_reported_there_with_its_line_in_the_file():
    workspace, config = check(WORKSPACE + config_map("training_config:\n  LoraConfig:\n    rank: 8\n"))
    (error,) = config.errors
    assert workspace.errors == ()
    assert error.field == "training_config.LoraConfig.rank"
    assert error.line == len(WORKSPACE.splitlines()) + 9
    assert (WORKSPACE + config_map("training_config:\n  LoraConfig:\n    rank: 8\n")).splitlines()[
        error.line - 1
    ].strip() == "rank: 8"


def test_a_named_config_map_that_is_not_in_the_file_is_a_warning_K1():
    (workspace,) = check(WORKSPACE)
    assert workspace.errors == ()
    assert "not among the given documents" in workspace.warnings[0].message
    (workspace,) = check(WORKSPACE, complete=True)
    assert workspace.errors[0].field == "tuning.config"


def test_a_config_map_of_another_namespace_does_not_count_K1():
    (workspace, _) = check(WORKSPACE + config_map(QUANTISED).replace("{name: mine}", "{name: mine, namespace: other}"))
    assert workspace.warnings


@pytest.mark.parametrize(
    ("method", "text", "words"),
    [
        pytest.param(
            "qlora",
            "training_config:\n  QuantizationConfig: {load_in_4bit: true, load_in_8bit: true}",
            "cannot both",
            id="K7",
        ),
        pytest.param("lora", QUANTISED, "method lora", id="K8"),
        pytest.param("LoRA", QUANTISED.replace("4bit", "8bit"), "load_in_8bit must not be true", id="K8-8bit"),
        pytest.param("qlora", "training_config:\n  QuantizationConfig: {load_in_4bit: false}", "method qlora", id="K9"),
        pytest.param("qlora", "training_config: {}", "method qlora", id="K9-missing"),
    ],
)
def test_method_and_configuration_must_agree(method: str, text: str, words: str):
    workspace, config = check(WORKSPACE.replace("method: qlora", f"method: {method}") + config_map(text))
    (error,) = workspace.errors
    assert config.errors == ()
    assert error.field == "tuning.config"
    assert error.line == 8
    assert words in error.message


def test_inline_parameters_mend_a_config_map_K9():
    inline = WORKSPACE + "  parameters: {QuantizationConfig: {load_in_8bit: true}}\n"
    workspace, _ = check(inline + config_map("training_config: {}"))
    assert workspace.errors == ()


def test_a_config_map_without_its_key_is_named_K2():
    workspace, config = check(WORKSPACE + config_map(QUANTISED, key="training-config.yaml"))
    assert config.errors == ()
    assert "has no key training_config.yaml" in workspace.errors[0].message


@pytest.mark.parametrize(
    ("text", "field", "line"),
    [
        pytest.param("training_config: [", "data[training_config.yaml]", 7, id="K3"),
        pytest.param("training_config: 3", "training_config", 7, id="K4"),
        pytest.param("training_config:\n  Lora: {}", "training_config.Lora", 8, id="K5"),
        pytest.param("training_config:\n  3: {}", "training_config.3", 8, id="K5-key"),
        pytest.param(
            "training_config:\n  QuantizationConfig: {load_in_4bit: 4}",
            "training_config.QuantizationConfig.load_in_4bit",
            8,
            id="K6",
        ),
        pytest.param(
            "training_config:\n  TrainingArguments: {output_dir: [x]}",
            "training_config.TrainingArguments.output_dir",
            8,
            id="K10",
        ),
        pytest.param(
            "training_config:\n  TrainingArguments: {output_dir: ../x}",
            "training_config.TrainingArguments.output_dir",
            8,
            id="K11",
        ),
    ],
)
def test_a_training_configuration_is_checked_without_a_workspace(text: str, field: str, line: int):
    (config,) = check(config_map(text))
    (error,) = config.errors
    assert (error.field, error.line) == (field, line)


SERVING = WORKSPACE.partition("tuning:")[0] + "inference: {preset: {name: phi-3-mini-128k-instruct}, config: mine}\n"


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        pytest.param("vllm: {", "data[inference_config.yaml]", "not valid YAML", id="F3"),
        pytest.param("vllm: {a: {b: c}}", "vllm.a", "expected one value", id="F3-nested"),
        pytest.param("vllm: [1]", "vllm", "expected a mapping", id="F3-list"),
        pytest.param("vllm: {max-model-len: auto}", "vllm.max-model-len", "whole number", id="F4"),
    ],
)
def test_an_inference_configuration_is_checked(text: str, field: str, words: str):
    workspace, config = check(SERVING + config_map(text, key="inference_config.yaml"))
    (error,) = config.errors
    assert workspace.errors == ()
    assert error.field == field
    assert words in error.message


def test_a_longer_context_than_the_models_is_an_error_F5():
    workspace, _ = check(SERVING + config_map("vllm: {max-model-len: 4097}", key="inference_config.yaml"))
    assert "4096 tokens" in workspace.errors[0].message
    workspace, _ = check(SERVING + config_map("vllm: {max-model-len: 4096}", key="inference_config.yaml"))
    assert workspace.errors == ()


def test_an_inference_config_map_without_its_key_is_named_F2():
    workspace, _ = check(SERVING + config_map("x: 1"))
    assert "inference_config.yaml" in workspace.errors[0].message


# --- KAITO's own ConfigMaps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_kaitos_shipped_config_map_passes_with_one_warning(method: str):
    documents = load_documents([CONFIG_MAPS / f"{method}-params-template.yaml"])
    workspace = parse_documents(WORKSPACE.replace("qlora", method).replace("mine", f"{method}-params-template"))
    checked_workspace, config = check_set([*workspace, *documents], CONTEXT)
    assert checked_workspace.errors == checked_workspace.warnings == config.errors == ()
    (warning,) = config.warnings
    assert warning.field == "training_config.DataCollator.mlm"


def test_every_config_map_of_the_fixtures_passes():
    documents = load_documents([CONFIG_MAPS])
    assert len(documents) >= 4
    assert [error for item in check_set(documents, CONTEXT) for error in item.errors] == []


# --- other kinds ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["InferenceSet", "RAGEngine", "ModelMirror", "MultiRoleInference"])
def test_kaitos_other_kinds_are_named_as_not_supported(kind: str):
    (item,) = check(f"apiVersion: kaito.sh/v1beta1\nkind: {kind}\nmetadata: {{name: a}}\n")
    (error,) = item.errors
    assert (error.field, error.line) == ("kind", 2)
    assert kind in error.message
    assert "not supported" in error.message


@pytest.mark.parametrize("kind", ["workspace", "Worksapce", "Configmap"])
def test_a_misspelt_kind_names_the_right_one(kind: str):
    (item,) = check(f"apiVersion: v1\nkind: {kind}\n")
    assert "did you mean" in item.errors[0].message


def test_other_kinds_are_left_to_kubernetes():
    (item,) = check("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n")
    assert item.errors == ()
    assert "not checked" in item.warnings[0].message


@pytest.mark.parametrize("text", ["a: 1", "3", "[]", "kind: 3"])
def test_a_document_without_a_kind_is_an_error(text: str):
    (item,) = check(text)
    assert item.errors


def test_a_name_given_twice_is_an_error():
    _, second = check(config_map(QUANTISED) + config_map(QUANTISED))
    assert second.errors[0].field == "metadata.name"
    assert "line 2" in second.errors[0].message


def test_a_value_of_a_config_map_must_be_text():
    head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"
    (item,) = check(head + "data:\n  training_config.yaml:\n    training_config: {}\n")
    (error,) = item.errors
    assert (error.field, error.line) == ("data[training_config.yaml]", 5)
    assert "KEY: |" in error.message


# --- one place for two adapters -------------------------------------------------------------------------------------

OTHER = WORKSPACE.replace("tune-phi", "other")
CONFIGS = config_map(QUANTISED)


def output(text: str, value: str) -> str:
    return text.replace('output: {image: "a.b/c:1", imagePushSecret: push}', f"output: {value}")


@pytest.mark.parametrize(
    ("value", "also", "field"),
    [
        (
            "{volumeSource: {hostPath: {path: ./out}}}",
            "{volumeSource: {hostPath: {path: out/}}}",
            "tuning.output.volumeSource.hostPath.path",
        ),
        (
            "{volumeSource: {persistentVolumeClaim: {claimName: c}}}",
            "{volumeSource: {persistentVolumeClaim: {claimName: c}}}",
            "tuning.output.volumeSource.persistentVolumeClaim.claimName",
        ),
    ],
)
def test_two_adapters_in_one_folder_are_an_error_that_names_both_lines(value: str, also: str, field: str):
    first, second, _ = check(output(WORKSPACE, value) + "---\n" + output(OTHER, also) + CONFIGS)
    assert first.errors == ()
    (error,) = second.errors
    assert error.field == field
    assert error.line == 21
    assert "the Workspace tune-phi (line 10) has the same" in error.message


def test_two_adapters_of_one_image_are_a_warning():
    first, second, _ = check(WORKSPACE + "---\n" + OTHER + CONFIGS)
    assert first.warnings == first.errors == second.errors == ()
    (warning,) = second.warnings
    assert (warning.field, warning.line) == ("tuning.output.image", 21)


@pytest.mark.parametrize(
    ("value", "also"),
    [
        ("{volumeSource: {hostPath: {path: a}}}", "{volumeSource: {hostPath: {path: b}}}"),
        ("{volumeSource: {emptyDir: {}}}", "{volumeSource: {emptyDir: {}}}"),
        ('{image: "a.b/c", imagePushSecret: push}', '{image: "a.b/c:2", imagePushSecret: push}'),
    ],
)
def test_each_adapter_in_a_place_of_its_own_is_no_finding(value: str, also: str):
    checked = check(output(WORKSPACE, value) + "---\n" + output(OTHER, also) + CONFIGS)
    assert [finding for item in checked for finding in (*item.errors, *item.warnings)] == []


def test_a_folder_counts_from_the_file_that_names_it(tmp_path: Path):
    text = output(WORKSPACE, "{volumeSource: {hostPath: {path: out}}}").replace("  config: mine\n", "")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "w.yaml").write_text(text.replace("tune-phi", folder))
    documents = load_documents([tmp_path / "a", tmp_path / "b"])
    assert [item.errors for item in check_set(documents, CONTEXT)] == [(), ()]

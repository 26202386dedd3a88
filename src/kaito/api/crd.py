"""CustomResourceDefinitions from the models: `kaito crds` prints them, and nothing else says what the CRD has.

The schema keeps to what API servers from 1.20 on accept: no $ref, no unions but int-or-string, no null types, boolean
exclusive bounds, no CEL.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from kaito.api.schema import members
from kaito.api.workspace import DEFAULT_INSTANCE_TYPE, GROUP, ONLY_V1BETA1, Workspace

Schema = dict[str, Any]

_ANY: Schema = {"x-kubernetes-preserve-unknown-fields": True}
_STANDARD = {
    "apiVersion": "The version of this schema; the server may convert it.",
    "kind": "The kind of this object.",
}
# What the API server itself demands; all else is said by validation, with better words.
_REQUIRED: Mapping[tuple[str, ...], list[str]] = {
    ("resource",): ["labelSelector"],
    ("tuning",): ["input", "output"],
}
_DEFAULTS: Mapping[tuple[str, ...], Any] = {
    ("resource", "count"): 1,
    ("inference", "preset", "accessMode"): "public",
    ("tuning", "preset", "accessMode"): "public",
}
_STATUS_ONLY_V1BETA1 = (("status", "state"), ("status", "targetNodeCount"), ("status", "performance"))


def crds() -> list[dict[str, Any]]:
    """The CRDs, as plain values. v1beta1 is stored; both versions are served, without conversion."""
    plural = "workspaces"
    return [
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{plural}.{GROUP}"},
            "spec": {
                "group": GROUP,
                "names": {
                    "kind": "Workspace",
                    "listKind": "WorkspaceList",
                    "plural": plural,
                    "singular": "workspace",
                    "shortNames": ["wk", "wks"],
                    "categories": ["workspace"],
                },
                "scope": "Namespaced",
                "versions": [_version("v1alpha1", stored=False), _version("v1beta1", stored=True)],
            },
        }
    ]


def _version(name: str, *, stored: bool) -> dict[str, Any]:
    return {
        "name": name,
        "served": True,
        "storage": stored,
        "subresources": {"status": {}},
        "additionalPrinterColumns": _columns(is_beta=stored),
        "schema": {"openAPIV3Schema": _workspace_schema(is_beta=stored)},
    }


def _columns(*, is_beta: bool) -> list[dict[str, Any]]:
    def column(name: str, path: str, kind: str = "string") -> dict[str, Any]:
        return {"name": name, "type": kind, "jsonPath": path}

    def condition(name: str, kind: str) -> dict[str, Any]:
        return column(name, f'.status.conditions[?(@.type=="{kind}")].status')

    beta = [
        column("TargetNodeCount", ".status.targetNodeCount", "integer"),
        column("State", ".status.state"),
    ]
    return [
        column("Instance", ".resource.instanceType"),
        condition("ResourceReady", "ResourceReady"),
        condition("InferenceReady", "InferenceReady"),
        condition("JobStarted", "JobStarted"),
        condition("WorkspaceReady", "WorkspaceSucceeded"),
        *(beta if is_beta else []),
        column("Progress", ".status.tuning.progress.text"),
        column("Loss", ".status.tuning.progress.loss", "number"),
        column("Age", ".metadata.creationTimestamp", "date"),
    ]


# --- the schema -----------------------------------------------------------------------------------------------------


def _workspace_schema(*, is_beta: bool) -> Schema:
    schema = _model_schema(Workspace)
    properties = schema["properties"]
    properties["metadata"] = {"type": "object"}
    for key, description in _STANDARD.items():
        properties[key] = {"type": "string", "description": description}
    schema.pop("required", None)
    for required_in, keys in _REQUIRED.items():
        _at(schema, required_in)["required"] = keys
    conditions = _at(schema, ("status", "conditions"))
    conditions.update({"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]})
    for path, value in _DEFAULTS.items():
        _at(schema, path)["default"] = value
    for section in _at(schema, ("tuning", "parameters"))["properties"].values():
        section.update(_ANY)  # older names pass, so that validation can say what they are read as
    if not is_beta:
        _at(schema, ("resource", "instanceType"))["default"] = DEFAULT_INSTANCE_TYPE
        removed: list[tuple[str, ...]] = [*ONLY_V1BETA1, *_STATUS_ONLY_V1BETA1]
        for path in removed:
            del _at(schema, path[:-1])["properties"][path[-1]]
    return schema


def _at(schema: Schema, path: tuple[str, ...]) -> Schema:
    for key in path:
        schema = schema["properties"][key]
    return schema


def _model_schema(model: type[BaseModel]) -> Schema:
    """One model, with everything in it, as a structural schema."""
    document = model.model_json_schema(by_alias=True)
    return _structural(document, document.get("$defs", {}), model)


def _structural(schema: Mapping[str, Any], definitions: Mapping[str, Any], annotation: Any) -> Schema:
    """JSON Schema -> Kubernetes' structural schema. `annotation` leads to the descriptions in the source."""
    if "$ref" in schema:
        return _structural(definitions[schema["$ref"].rsplit("/", 1)[-1]], definitions, annotation)
    if "anyOf" in schema:
        return _union(schema, definitions, annotation)
    kept = {key: schema[key] for key in _KEPT if key in schema}
    if "no" in schema.get("enum", ()):
        return dict(_ANY)  # kubectl reads an unquoted `no` as false
    if "const" in schema:
        kept["enum"] = [schema["const"]]
    for bound, limit in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if bound in schema:
            kept[limit], kept[bound] = schema[bound], True
    kind = schema.get("type")
    if kind == "array":
        kept["items"] = _structural(schema.get("items", {}), definitions, _item(annotation, list))
        return kept
    if kind == "object":
        return kept | _object(schema, definitions, annotation)
    return kept if kind is not None else {**_ANY, **kept}


_KEPT = ("type", "enum", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "pattern", "format")


def _union(schema: Mapping[str, Any], definitions: Mapping[str, Any], annotation: Any) -> Schema:
    """`X | None` is X; a whole number or string is Kubernetes' int-or-string; any other union is not described."""
    options = [option for option in schema["anyOf"] if option.get("type") != "null"]
    if len(options) == 1:
        one = {**options[0], **{key: schema[key] for key in ("format",) if key in schema}}
        return _structural(one, definitions, annotation)
    kinds = {option.get("type") for option in options}
    if kinds == {"integer", "string"}:
        return {"x-kubernetes-int-or-string": True}
    return dict(_ANY)


def _object(schema: Mapping[str, Any], definitions: Mapping[str, Any], annotation: Any) -> Schema:
    if "properties" not in schema:
        values = schema.get("additionalProperties")
        if isinstance(values, Mapping) and values:
            return {"additionalProperties": _structural(values, definitions, _item(annotation, dict))}
        return dict(_ANY)
    model = _model(annotation)
    described = descriptions(model) if model is not None else {}
    properties: dict[str, Any] = {}
    for name, inner in schema["properties"].items():
        field = _annotation(model, name)
        properties[name] = _structural(inner, definitions, field)
        text = described.get(name) or _summary(_model(field))
        if text:
            properties[name] = {"description": text, **properties[name]}
    result: Schema = {"properties": properties}
    if schema.get("required"):
        result["required"] = list(schema["required"])
    return result


# --- descriptions from the source -----------------------------------------------------------------------------------


def descriptions(model: type[BaseModel]) -> dict[str, str]:
    """Key -> the string that stands under the field in the source."""
    texts = _source_descriptions(model.__module__).get(model.__name__, {})
    return {info.alias or name: texts[name] for name, info in model.model_fields.items() if name in texts}


@cache
def _source_descriptions(module: str) -> dict[str, dict[str, str]]:
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    found: dict[str, dict[str, str]] = {}
    for definition in tree.body:
        if not isinstance(definition, ast.ClassDef):
            continue
        texts = found.setdefault(definition.name, {})
        for statement, following in zip(definition.body, definition.body[1:], strict=False):
            if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
                continue
            text = following.value if isinstance(following, ast.Expr) else None
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                texts[statement.target.id] = inspect.cleandoc(text.value)
    return found


def _summary(model: type[BaseModel] | None) -> str:
    return inspect.cleandoc(model.__doc__).split("\n\n")[0] if model is not None and model.__doc__ else ""


def _model(annotation: Any) -> type[BaseModel] | None:
    for member in members(annotation):
        if isinstance(member, type) and issubclass(member, BaseModel):
            return member
        if get_origin(member) is list:
            return None
    return None


def _item(annotation: Any, kind: type) -> Any:
    for member in members(annotation):
        if get_origin(member) is kind:
            return get_args(member)[-1]
    return None


def _annotation(model: type[BaseModel] | None, key: str) -> Any:
    if model is None:
        return None
    return next((info.annotation for name, info in model.model_fields.items() if key in (info.alias, name)), None)

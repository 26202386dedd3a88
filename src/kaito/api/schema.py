"""Values that a person typed -> pydantic models, and pydantic's complaints -> field errors that a person can act on."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from kaito.api.documents import FieldError
from kaito.api.paths import Key, Path, format_path

Model = TypeVar("Model", bound=BaseModel)


class Typed(BaseModel):
    """Base of everything a person types: an unknown key is an error, and no number is infinite.

    A string under a field describes it; `kaito.api.crd` reads those from the source. (pydantic's own way to collect
    them parses the source at every import: 50 ms.)
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        validate_by_name=True,
        validate_by_alias=True,
        defer_build=True,
    )


def _refuse_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a boolean is no number")  # pydantic makes an error of no other exception
    return value


Integer = Annotated[int, BeforeValidator(_refuse_boolean)]
Number = Annotated[float, BeforeValidator(_refuse_boolean)]


def validate(
    model: type[Model], value: Any, line_of: Callable[[Path], int], at: Path = ()
) -> tuple[Model | None, list[FieldError]]:
    """`value` as `model`, or all that is wrong with it. `line_of` takes the path below `at`; errors name the whole."""
    try:
        return model.model_validate(value, by_alias=True, by_name=False), []
    except ValidationError as error:
        complaints = error.errors(include_url=False, include_context=True)
    errors: dict[Path, FieldError] = {}
    for complaint in complaints:
        path = _path_in(value, complaint["loc"], missing=complaint["type"] == "missing")
        message = _message(model, value, path, complaint)
        errors.setdefault(path, FieldError(format_path((*at, *path)), message, line_of(path)))
    return None, list(errors.values())


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that a misspelt one most likely stands for, whatever the case of its letters."""
    by_lower = {name.lower(): name for name in known}
    match = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.55)
    return by_lower[match[0]] if match else None


def unknown_key(word: str, known: Sequence[str]) -> str:
    """The message for a key that nobody knows: names the nearest valid key, or all where none is near."""
    near = nearest(word, known)
    if near is not None:
        return f'unknown key; did you mean "{near}"?'
    shown = ", ".join(sorted(known)) if len(known) <= 12 else "no known key is similar"
    return f"unknown key; valid here: {shown}" if len(known) <= 12 else f"unknown key; {shown}"


def _path_in(value: Any, location: Sequence[Key], *, missing: bool) -> Path:
    """Pydantic's location without the names of union members, which are not in the value."""
    path: list[Key] = []
    for position, key in enumerate(location):
        if _has(value, key):
            value = value[key]
        elif missing and position == len(location) - 1:
            pass
        else:
            break
        path.append(key)
    return tuple(path)


def _has(value: Any, key: Key) -> bool:
    if isinstance(value, list):
        return isinstance(key, int) and 0 <= key < len(value)
    return isinstance(value, Mapping) and key in value


def _message(model: type[BaseModel], value: Any, path: Path, complaint: Mapping[str, Any]) -> str:
    parent, found = _owner(model, path)
    if complaint["type"] == "extra_forbidden":
        return unknown_key(str(path[-1]) if path else "", known_keys(parent) if parent is not None else [])
    if complaint["type"] == "missing":
        return "missing; it must be given"
    got = _value_at(value, path)
    bound = _bound(complaint)
    if bound:
        return f"{bound}, got {_show(got, path)}"
    if complaint["type"] == "value_error" and "error" in complaint.get("ctx", {}) and not isinstance(got, bool):
        return str(complaint["ctx"]["error"])
    expected = describe(found) if found is not None else "a mapping"
    near = nearest(got, _choices(found)) if isinstance(got, str) and found is not None else None
    return f"expected {expected}, got {_show(got, path)}" + (f"; did you mean {near}?" if near else "")


def _choices(annotation: Any) -> list[str]:
    """The words that a value may be."""
    literals = [member for member in members(annotation) if get_origin(member) is Literal]
    return [word for literal in literals for word in get_args(literal) if isinstance(word, str)]


def known_keys(model: type[BaseModel]) -> list[str]:
    """The keys that a person may write in a model."""
    return [info.alias or name for name, info in model.model_fields.items()]


def _owner(model: type[BaseModel], path: Path) -> tuple[type[BaseModel] | None, Any]:
    """The model that has the path's last key as a field, and the annotation at the path."""
    owner: type[BaseModel] | None = None
    annotation: Any = model
    for key in path:
        inner = _model_of(annotation)
        if inner is not None and isinstance(key, str):
            owner = inner
            info = _field(inner, key)
            annotation = (
                Annotated[(info.annotation, *info.metadata)] if info and info.metadata else info and info.annotation
            )
        elif isinstance(key, int):
            annotation = _item_of(annotation, list)
        else:
            annotation = _item_of(annotation, dict)
    return owner, annotation


def _field(model: type[BaseModel], key: str) -> FieldInfo | None:
    for name, info in model.model_fields.items():
        if key == (info.alias or name):
            return info
    return None


def members(annotation: Any) -> list[Any]:
    """The alternatives of an annotation, without None."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (typing.Union, types.UnionType):
        return [inner for part in get_args(annotation) for inner in members(part) if inner is not type(None)]
    return [annotation]


def _model_of(annotation: Any) -> type[BaseModel] | None:
    for member in members(annotation):
        if isinstance(member, type) and issubclass(member, BaseModel):
            return member
    return None


def _item_of(annotation: Any, kind: type) -> Any:
    for member in members(annotation):
        if get_origin(member) is kind:
            return get_args(member)[-1]
    return None


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a string", type(None): "null"}


def describe(annotation: Any) -> str:
    """An annotation in words: `a list of strings`, `one of lora, qlora`."""
    parts = list(dict.fromkeys(_describe_member(member) for member in members(annotation)))
    return " or ".join(parts)


def _describe_member(member: Any) -> str:
    origin = get_origin(member)
    if origin is Literal:
        values = [str(value).lower() if isinstance(value, bool) else str(value) for value in get_args(member)]
        return values[0] if len(values) == 1 else "one of " + ", ".join(values)
    if origin in (list, tuple):
        item = describe(get_args(member)[0])
        return "a list of " + {"a string": "strings", "a whole number": "whole numbers"}.get(item, item)
    if origin is dict or member is dict or (isinstance(member, type) and issubclass(member, BaseModel)):
        return "a mapping"
    return _WORDS.get(member, "another value")


def _bound(complaint: Mapping[str, Any]) -> str:
    limits: Mapping[str, Any] = complaint.get("ctx", {})
    for kind, words in (
        ("gt", "must be greater than"),
        ("ge", "must be at least"),
        ("lt", "must be less than"),
        ("le", "must be at most"),
        ("min_length", "must have a length of at least"),
        ("max_length", "must have a length of at most"),
    ):
        if kind in limits:
            return f"{words} {limits[kind]:g}"
    return "must be finite" if complaint["type"] == "finite_number" else ""


def _value_at(value: Any, path: Path) -> Any:
    for key in path:
        value = value[key]
    return value


def _show(value: Any, path: Path) -> str:
    return "another value" if path and "token" in str(path[-1]).split("_") else show(value)


def show(value: Any) -> str:
    """A value as it is written in YAML, shortened; lists and mappings by their kind alone."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:60] + "…"

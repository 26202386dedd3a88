"""YAML text -> documents of plain values that know the line of every field. Knows nothing of what they mean.

Values are resolved by YAML 1.2's core schema (`no` is a string, `2e-4` a number), keys are strings, a duplicate key
is an error. Size, depth and the growth by aliases are bounded, so no input is expensive to read.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from kaito.api.paths import Key, Path, format_path, parse_path

MAX_BYTES = 4 * 2**20
MAX_NODES = 100_000
MAX_DEPTH = 64
NO_LINE = 0
STDIN = "-"
SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True, slots=True)
class FieldError:
    """One problem (or warning): the field's path, what is wrong and what to do, and the line (from 1) in its file.

    `line` is NO_LINE where there is no text: a file that cannot be read, a folder.
    """

    field: str
    message: str
    line: int = 1

    def place_in(self, file: str) -> str:
        """`FILE:LINE`, or `FILE` alone."""
        return f"{file}:{self.line}" if self.line != NO_LINE else file


@dataclass(frozen=True, slots=True)
class Node:
    """A value with its line. `children` follow the value's keys or positions; an alias shares its anchor's node."""

    value: Any
    line: int
    children: dict[Key, Node] = field(default_factory=dict)
    text_line: int | None = None
    """Of a literal block (`key: |`): the line on which its text begins."""
    size: int = 1


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML document of a file (`index` from 0). `errors` are of its text; `value` is None where that is no YAML."""

    file: str
    index: int
    root: Node
    errors: tuple[FieldError, ...] = ()

    @property
    def value(self) -> Any:
        return self.root.value

    @property
    def kind(self) -> str:
        return self._text(("kind",))

    @property
    def api_version(self) -> str:
        return self._text(("apiVersion",))

    @property
    def name(self) -> str:
        return self._text(("metadata", "name"))

    @property
    def namespace(self) -> str:
        """The namespace that the document names, or ""."""
        return self._text(("metadata", "namespace"))

    def line_of(self, path: str | Path) -> int:
        """The line of a field, or of its nearest parent that the document has."""
        keys = parse_path(path) if isinstance(path, str) else path
        return self._nearest(keys)[0].line

    def line_in_text(self, path: str | Path, line: int) -> int:
        """The file's line for `line` of the text held by a field: exact for a literal block, else the field's own."""
        keys = parse_path(path) if isinstance(path, str) else path
        node, found = self._nearest(keys)
        return node.text_line + line - 1 if found and node.text_line is not None else node.line

    def _nearest(self, path: Path) -> tuple[Node, bool]:
        node = self.root
        for key in path:
            child = node.children.get(key)
            if child is None:
                return node, False
            node = child
        return node, True

    def _text(self, path: Path) -> str:
        node, found = self._nearest(path)
        return node.value if found and isinstance(node.value, str) else ""


# --- reading --------------------------------------------------------------------------------------------------------


def load_documents(sources: Iterable[str | FilePath]) -> list[Document]:
    """All documents of files, folders (their *.yaml, *.yml, *.json, not deeper) and `-` (standard input), in order.

    What cannot be read or parsed becomes a Document with errors. Items of a `kind: List` count as documents.
    """
    documents: list[Document] = []
    for source in sources:
        files = _files_of(source)
        found = [document for file in files for document in _load_file(file)]
        documents += found or [_unreadable(str(source), FieldError("document", "holds no document", NO_LINE))]
    return documents


def parse_documents(text: str | bytes, *, file: str = "") -> list[Document]:
    """All documents of one text. A syntax error ends it: what came before is kept, the last Document has the error."""
    decoded = _decode(text)
    if isinstance(decoded, FieldError):
        return [_unreadable(file, decoded)]
    documents: list[Document] = []
    composer = _Composer(decoded)
    try:
        for root in composer.documents():
            duplicates = tuple(composer.duplicates)
            for node in _items_of(root):
                documents.append(Document(file, len(documents), node, duplicates))
                duplicates = ()
    except _YamlProblem as problem:
        documents.append(Document(file, len(documents), Node(None, problem.error.line), (problem.error,)))
    return documents


def _files_of(source: str | FilePath) -> list[str]:
    if str(source) == STDIN:
        return [STDIN]
    path = FilePath(source)
    if not path.is_dir():
        return [str(path)]
    found = sorted(str(entry) for entry in path.iterdir() if entry.suffix in SUFFIXES and entry.is_file())
    return found or [str(path)]


def _load_file(file: str) -> list[Document]:
    try:
        if file == STDIN:
            content = sys.stdin.buffer.read(MAX_BYTES + 1)
        elif FilePath(file).is_dir():
            message = f"the folder has no {', '.join('*' + suffix for suffix in SUFFIXES)} file"
            return [_unreadable(file, FieldError("document", message, NO_LINE))]
        else:
            with FilePath(file).open("rb") as stream:
                content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        return [_unreadable(file, FieldError("document", f"cannot be read: {error.strerror}", NO_LINE))]
    return parse_documents(content, file=file)


def _unreadable(file: str, error: FieldError) -> Document:
    return Document(file, 0, Node(None, error.line), (error,))


def _decode(text: str | bytes) -> str | FieldError:
    if len(text) > MAX_BYTES:
        return FieldError("document", f"larger than {MAX_BYTES // 2**20} MiB, which no Kubernetes object may be")
    if isinstance(text, str):
        return text.removeprefix("\ufeff")
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        return FieldError("document", f"not UTF-8 text (byte {text[error.start]:#04x}); save the file as UTF-8", line)


def _items_of(root: Node) -> Iterator[Node]:
    if root.value is None and not root.children:
        return
    items = root.children.get("items") if isinstance(root.value, dict) else None
    if items is not None and root.value.get("kind") == "List" and isinstance(items.value, list):
        yield from (items.children[position] for position in range(len(items.value)))
        return
    yield root


# --- from YAML events to nodes --------------------------------------------------------------------------------------

_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_NULLS = ("", "~", "null", "Null", "NULL")
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_MAX_DIGITS = 400
_TAG = "tag:yaml.org,2002:"
_KNOWN_TAGS = {_TAG + name for name in ("str", "int", "float", "bool", "null")}


class _YamlProblem(Exception):
    def __init__(self, message: str, line: int, path: Path = ()) -> None:
        super().__init__(message)
        self.error = FieldError(format_path(path), message, line)


class _Composer:
    """Builds nodes from the parser's events, with an explicit depth so that no nesting exhausts the stack."""

    def __init__(self, text: str) -> None:
        from ruamel.yaml import YAML

        self._text = text
        self._events: Iterator[Any] = iter(YAML(typ="safe", pure=True).parse(text))
        self._anchors: dict[str, Node | None] = {}
        self._nodes = 0
        self.duplicates: list[FieldError] = []

    def documents(self) -> Iterator[Node]:
        while (event := self._next()) is not None:
            if type(event).__name__ != "DocumentStartEvent":
                continue
            self._anchors.clear()
            self._nodes = 0
            self.duplicates.clear()
            yield self._compose(self._next(), ())

    def _next(self) -> Any:
        from ruamel.yaml.error import MarkedYAMLError, YAMLError
        from ruamel.yaml.reader import ReaderError

        try:
            return next(self._events, None)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark is not None else 1
            last = len(self._text.splitlines()) or 1  # the parser is past the end when something is left open
            raise _YamlProblem(_syntax_message(error), min(line, last)) from error
        except ReaderError as error:
            line = self._text.count("\n", 0, error.position) + 1
            message = f"not text: the character U+{error.character:04X} is not allowed in YAML"
            raise _YamlProblem(message, line) from error
        except (YAMLError, ValueError, IndexError, OverflowError) as error:
            # The scanner meets some damaged escapes and directives with Python's own errors.
            raise _YamlProblem(f"not valid YAML: {error}", 1) from error

    def _compose(self, event: Any, path: Path) -> Node:
        line = event.start_mark.line + 1
        if len(path) > MAX_DEPTH:
            raise _YamlProblem(f"nested deeper than {MAX_DEPTH} levels", line, path[:8])
        kind = type(event).__name__
        if kind == "AliasEvent":
            node = self._anchors.get(event.anchor)
            if node is None:
                what = "refers to itself" if event.anchor in self._anchors else "has no anchor before it"
                raise _YamlProblem(f"the alias *{event.anchor} {what}", line, path)
            self._count(node.size, line, path)
            return Node(node.value, line, node.children, node.text_line, node.size)
        self._count(1, line, path)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        if kind == "ScalarEvent":
            node = self._scalar(event, line, path)
        elif kind == "SequenceStartEvent":
            node = self._sequence(line, path)
        else:
            node = self._mapping(line, path)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _count(self, size: int, line: int, path: Path) -> None:
        self._nodes += size
        if self._nodes > MAX_NODES:
            raise _YamlProblem(f"holds more than {MAX_NODES:,} values once its aliases are expanded", line, path)

    def _scalar(self, event: Any, line: int, path: Path) -> Node:
        tag = str(event.tag) if event.tag is not None else ""
        if tag and tag != "!" and tag not in _KNOWN_TAGS:
            raise _YamlProblem(f"the tag {tag} means nothing here; write plain values", line, path)
        name = tag.removeprefix(_TAG)
        value: Any = event.value
        if name in ("int", "float", "bool", "null") or (not tag and event.implicit[0]):
            value = _resolve(event.value, line, path)
        literal = event.style == "|"
        return Node(value, line, text_line=line + 1 if literal else None)

    def _sequence(self, line: int, path: Path) -> Node:
        children: dict[Key, Node] = {}
        while type(event := self._next()).__name__ != "SequenceEndEvent":
            children[len(children)] = self._compose(event, (*path, len(children)))
        size = 1 + sum(child.size for child in children.values())
        return Node([child.value for child in children.values()], line, children, size=size)

    def _mapping(self, line: int, path: Path) -> Node:
        children: dict[Key, Node] = {}
        merged: dict[Key, Node] = {}
        while type(event := self._next()).__name__ != "MappingEndEvent":
            key_line = event.start_mark.line + 1
            key = self._key(event, key_line, path)
            here = (*path, key)
            child = self._compose(self._next(), here)
            if key == "<<" and event.implicit[0]:
                merged = {**_merge_sources(child, key_line, here), **merged}
                continue
            if key in children:
                message = f"the key appears twice (first on line {children[key].line}); keep one of them"
                self.duplicates.append(FieldError(format_path(here), message, key_line))
                continue
            children[key] = Node(child.value, key_line, child.children, child.text_line, child.size)
        children = {**merged, **children} if merged else children
        size = 1 + sum(child.size for child in children.values())
        return Node({key: child.value for key, child in children.items()}, line, children, size=size)

    def _key(self, event: Any, line: int, path: Path) -> str:
        if type(event).__name__ == "AliasEvent":
            node = self._anchors.get(event.anchor)
            if node is not None and isinstance(node.value, str):
                return node.value
        elif type(event).__name__ == "ScalarEvent":
            if event.anchor is not None:
                self._anchors[event.anchor] = Node(event.value, line)
            return str(event.value)
        raise _YamlProblem("a key must be a word, not a list or a mapping", line, path)


def _merge_sources(node: Node, line: int, path: Path) -> dict[Key, Node]:
    sources: Sequence[Node] = list(node.children.values()) if isinstance(node.value, list) else [node]
    merged: dict[Key, Node] = {}
    for source in sources:
        if not isinstance(source.value, dict):
            raise _YamlProblem("`<<` merges mappings, and this is none", line, path)
        merged = {**source.children, **merged}
    return merged


def _resolve(text: str, line: int, path: Path) -> Any:
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if len(text) > _MAX_DIGITS and (_INTEGER.fullmatch(text) or _FLOAT.fullmatch(text)):
        raise _YamlProblem(f"a number of {len(text):,} characters", line, path)
    if _INTEGER.fullmatch(text):
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if _FLOAT.fullmatch(text) or _INFINITE.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def _syntax_message(error: Any) -> str:
    problem = str(error.problem or error.context or "cannot be parsed")
    hint = "; indent with spaces, not tabs" if "\\t" in problem else ""
    where = f" ({error.context})" if error.problem and error.context else ""
    return f"not valid YAML: {problem}{where}{hint}"

"""Whether a chat template looks at what is said, or only puts it in its place.

A template that never looks renders every conversation with the same roles alike, but for the words. Each content is a
string that notices when something else is done to it than to be placed, trimmed or tested for being there; and what
Python would do behind its back (filters, calls, `%`) is noticed too. When in doubt, it was looked at. A template that
looks for a text in a content (`'</think>' in content`) is told that it is not there, and the text is remembered.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import jinja2.nodes
import jinja2.runtime
import jinja2.sandbox
import jinja2.visitor

from kaito.datasets.templates import ENVIRONMENT, ChatTemplate, Message


@dataclass(frozen=True, slots=True)
class Assumed:
    """What was taken to be so of each content: the texts that are not in it, the characters not at its ends."""

    absent: frozenset[str]
    trimmed: frozenset[str]

    def holds_for(self, content: str) -> bool:
        if any(text in content for text in self.absent):
            return False
        if not self.trimmed:
            return True
        inner = content.strip()
        return self.trimmed.isdisjoint((content[0], content[-1], inner[0], inner[-1]))


class Watch:
    """What was done to contents. `looked`: something that depends on what they say, beyond what was assumed."""

    def __init__(self) -> None:
        self.looked = False
        self.absent: set[str] = set()
        self.trimmed: set[str] = set()

    @property
    def assumed(self) -> Assumed:
        return Assumed(frozenset(self.absent), frozenset(self.trimmed))


class Watched(str):
    """A content with more in it than white space, or (`_whole` is False) a longer text that holds one."""

    _watch: Watch
    _whole: bool

    def __new__(cls, text: str, watch: Watch, *, whole: bool = False) -> Watched:
        made = super().__new__(cls, text)
        made._watch, made._whole = watch, whole
        return made

    def __add__(self, other: str) -> Watched:
        return Watched(str.__add__(self, other), self._watch)

    def __radd__(self, other: str) -> Watched:
        return Watched(str.__add__(other, self), self._watch)

    def __str__(self) -> Watched:
        return self

    def __bool__(self) -> bool:
        return True

    def _lacks(self, sought: object) -> bool:
        """Whether the content may be taken for one in which `sought` does not occur."""
        if not self._whole or type(sought) is not str or not sought:
            self._watch.looked = True
            return False
        self._watch.absent.add(sought)
        return True


def _looking(name: str) -> Callable[..., Any]:
    def look(self: Watched, *args: Any, **kwargs: Any) -> Any:
        self._watch.looked = True
        return getattr(str, name)(self, *args, **kwargs)

    return look


def _seeking(name: str, found: Callable[[Watched], Any]) -> Callable[..., Any]:
    """A method whose first argument is a text to be found; `found`: what it gives where that is not there."""

    def seek(self: Watched, sought: Any = None, *args: Any) -> Any:
        return found(self) if self._lacks(sought) else getattr(str, name)(self, sought, *args)

    return seek


def _trimming(name: str) -> Callable[..., Watched]:
    def trim(self: Watched, characters: str | None = None) -> Watched:
        if characters is not None and self._whole and type(characters) is str:
            self._watch.trimmed.update(characters)
        elif characters is not None:
            self._watch.looked = True
        return Watched(getattr(str, name)(self, characters), self._watch, whole=self._whole)

    return trim


_PLACED = frozenset(("__add__", "__str__"))
_OF_EVERY_OBJECT = frozenset(dir(object)) - frozenset(
    ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__", "__format__", "__repr__")
)
for _name in frozenset(dir(str)) - _PLACED - _OF_EVERY_OBJECT - {"__getnewargs__"}:
    setattr(Watched, _name, _looking(_name))
for _name in ("strip", "lstrip", "rstrip"):
    setattr(Watched, _name, _trimming(_name))
for _name in ("__contains__", "startswith", "endswith"):
    setattr(Watched, _name, _seeking(_name, lambda _: False))
Watched.split = _seeking("split", lambda content: [content])  # type: ignore[method-assign]  # str's is not this one's
Watched.replace = _seeking("replace", lambda content: content)  # type: ignore[method-assign]

# These reach a content only by its own methods, by other filters and tests, or not at all.
_FILTERS = frozenset(("trim", "default", "d", "string", "length", "count", "list", "first", "last"))
_FILTERS_OF_LISTS = frozenset(("map", "select", "reject", "selectattr", "rejectattr"))
_TESTS = frozenset(("defined", "undefined", "none", "string", "mapping", "iterable", "sequence", "number", "boolean"))
_EQUALITY = frozenset(("true", "false", "==", "eq", "equalto", "!=", "ne"))
_JOIN = "join_watched"
_SURROUNDINGS = ("_loop_vars", "_block_vars")  # jinja2 hands them to functions that ask for a context: none here does
_TAKERS = (_JOIN, "dict", "namespace", "raise_exception")


class WatchedTemplate(ChatTemplate):
    """The same chat template; `watch` tells what it does to contents. `may_look_unseen`: it is written so that nobody
    could tell."""

    def __init__(self, template: ChatTemplate) -> None:
        self.watch = Watch()
        super().__init__(template.text, template.origin, template.special_tokens)
        self.may_look_unseen = self.watch.looked

    def forget(self) -> None:
        """Begin anew: `watch` tells of what is rendered from now on."""
        self.watch.looked = self.may_look_unseen
        self.watch.absent.clear()
        self.watch.trimmed.clear()

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        return str.__str__(super().render(messages, add_generation_prompt=add_generation_prompt))  # no longer watched

    def _copy(self, message: Message) -> dict[str, Any]:
        return {**message, "content": Watched(message["content"], self.watch, whole=True)}

    def _compile(self) -> jinja2.Template:
        environment = _WatchingEnvironment(**ENVIRONMENT)
        self._equip(environment)
        functions: Any
        for functions, harmless in (
            (environment.filters, _FILTERS | _FILTERS_OF_LISTS),
            (environment.tests, _TESTS | _EQUALITY),
        ):
            for name in functions.keys() - harmless:
                functions[name] = _reporting(functions[name], self.watch)
        environment.globals[_JOIN] = _join
        environment.concat = _concat  # type: ignore[method-assign]  # declared as "".join
        takers = frozenset(id(environment.globals[name]) for name in _TAKERS)
        environment.extend(watch=self.watch, takers=takers)
        return environment.from_string(environment.parse_watched(self.text))


class _WatchingEnvironment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Notices calls, `%`, `~` and `in`. `takers`: the ids of functions that may be given contents."""

    intercepted_binops = frozenset(("%",))
    watch: Watch
    takers: frozenset[int]

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        takes = isinstance(__obj, jinja2.runtime.Macro) or id(__obj) in __self.takers
        given = (value for name, value in kwargs.items() if name not in _SURROUNDINGS)
        if not takes and any(map(_may_hold, (*args, *given))):
            __self.watch.looked = True
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if _may_hold(left) or _may_hold(right):
            self.watch.looked = True
        return super().call_binop(context, operator, left, right)

    def parse_watched(self, text: str) -> jinja2.nodes.Template:
        """The template with `~` as a call; `watch.looked` where an `in` could search for a content in a text."""
        parsed = self.parse(text)
        if parsed.find(jinja2.nodes.EvalContextModifier) is not None:  # autoescape, which replaces characters
            self.watch.looked = True
        for compared in parsed.find_all(jinja2.nodes.Compare):
            for operand in compared.ops:
                sought = isinstance(compared.expr, jinja2.nodes.Const) and len(compared.ops) == 1
                listed = isinstance(operand.expr, (jinja2.nodes.List, jinja2.nodes.Tuple))
                if operand.op in ("in", "notin") and not (sought or listed):
                    self.watch.looked = True
        rewritten = _Joined().visit(parsed)
        if not isinstance(rewritten, jinja2.nodes.Template):
            raise TypeError(f"a template became a {type(rewritten).__name__}")
        return rewritten


class _Joined(jinja2.visitor.NodeTransformer):
    def visit_Concat(self, node: jinja2.nodes.Concat) -> jinja2.nodes.Node:
        self.generic_visit(node)
        name = jinja2.nodes.Name(_JOIN, "load", lineno=node.lineno)
        call = jinja2.nodes.Call(name, node.nodes, [], None, None, lineno=node.lineno)
        if node.environment is not None:
            call.set_environment(node.environment)
        return call


def _join(*parts: object) -> str:
    return _concat(map(str, parts))


def _concat(parts: Iterable[str]) -> str:
    """`"".join`, which would lose sight of the watched ones."""
    listed = list(parts)
    text = "".join(listed)
    watched = next((part for part in listed if isinstance(part, Watched)), None)
    return text if watched is None else Watched(text, watched._watch)


def _reporting(function: Callable[..., Any], watch: Watch) -> Callable[..., Any]:
    """A filter or test that reports when it gets what may hold a watched content."""
    surroundings = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def reporting(*args: Any, **kwargs: Any) -> Any:
        if any(map(_may_hold, (*args[surroundings:], *kwargs.values()))):
            watch.looked = True
        return function(*args, **kwargs)

    return reporting


def _may_hold(value: object) -> bool:
    if isinstance(value, Watched):
        return True
    if (
        value is None
        or type(value) in (str, int, float, bool)
        or isinstance(value, (jinja2.Undefined, jinja2.runtime.Macro))
    ):
        return False
    if isinstance(value, Mapping):
        return any(map(_may_hold, value.values()))
    return not isinstance(value, Sequence) or any(map(_may_hold, value))

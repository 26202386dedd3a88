"""Chat templates: where they come from, and rendering in a sandbox. The environment is the one that Transformers gives
a template (filters, globals, whitespace rules), so that a text is the same here, in training and in serving."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from kaito.datasets.rows import RowError
from kaito.failure import ConfigFailure, ModelFailure

Message = Mapping[str, Any]


class ChatTemplate:
    """A compiled chat template. `origin` is where its text comes from, for messages."""

    def __init__(self, text: str, origin: str, special_tokens: Mapping[str, str]) -> None:
        self.text = text
        self.origin = origin
        self.special_tokens = dict(special_tokens)
        self._generation_marks: tuple[str, str] | None = None
        try:
            self._template = self._compile()
        except jinja2.TemplateError as error:
            line = getattr(error, "lineno", None)
            where = f" line {line}" if line else ""
            raise ConfigFailure(
                f"chat template of {origin}{where}: {error.message}", "correct it, or set ModelConfig.chat_template"
            ) from error

    @property
    def has_generation_marks(self) -> bool:
        """Whether the template itself says, by `{% generation %}`, what the assistant writes."""
        return "endgeneration" in self.text

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """The text of a conversation. Raises RowError where the template refuses it."""
        try:
            return self._template.render(
                messages=[self._copy(message) for message in messages],
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self.special_tokens,
            )
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, ArithmeticError, RecursionError) as error:
            # What a template says may quote the row; only what stands in the template itself is shown.
            said = str(error)
            why = f": {said}" if said and said in self.text else f" ({type(error).__name__})"
            remedy = "mend the conversation, or choose another ModelConfig.chat_template"
            raise RowError(f"the chat template of {self.origin} refuses it{why}", "messages", remedy) from error

    def render_generations(self, messages: Sequence[Message], marks: tuple[str, str]) -> str:
        """The text with `marks` around what stands in `{% generation %}` blocks."""
        self._generation_marks = marks
        try:
            return self.render(messages)
        finally:
            self._generation_marks = None

    def _copy(self, message: Message) -> dict[str, Any]:
        return dict(message)

    def _compile(self) -> jinja2.Template:
        return self._equip(jinja2.sandbox.ImmutableSandboxedEnvironment(**ENVIRONMENT)).from_string(self.text)

    def _equip(self, environment: jinja2.Environment) -> jinja2.Environment:
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        environment.globals["dict"] = _PlainDict()
        environment.globals["namespace"] = _PlainNamespace
        environment.extend(mark_generation=self._mark_generation)
        return environment

    def _mark_generation(self, body: str) -> str:
        if self._generation_marks is None:
            return body
        opening, closing = self._generation_marks
        return opening + body + closing


def load_template(model_folder: Path, setting: str | None, special_tokens: Mapping[str, str]) -> ChatTemplate | None:
    """The chat template to use: the user's `ModelConfig.chat_template`, else the model's own, else None.

    The setting is the text of a template, or the name of one of ours (also by KAITO's path
    `/workspace/chat_templates/NAME.jinja`).
    """
    if setting:
        if any(character in setting for character in "{}\n"):
            return ChatTemplate(setting, "ModelConfig.chat_template", special_tokens)
        return ChatTemplate(read_shipped(setting), setting, special_tokens)
    own = model_folder / "chat_template.jinja"
    if own.is_file():
        return ChatTemplate(_read_text(own), own.name, special_tokens)
    config = read_json(model_folder / "tokenizer_config.json").get("chat_template")
    if isinstance(config, list):
        named = {entry.get("name"): entry.get("template") for entry in config if isinstance(entry, dict)}
        config = named.get("default")
    if isinstance(config, str) and config:
        return ChatTemplate(config, "tokenizer_config.json", special_tokens)
    return None


def shipped_names() -> list[str]:
    """Names of the chat templates in this package."""
    return sorted(
        item.name.removesuffix(".jinja") for item in _shipped_folder().iterdir() if item.name != "__init__.py"
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of the model's folder, {} where the file is missing. Raises ModelFailure where it is broken."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelFailure(f"{path.name} of the model cannot be read: {error}", "fetch the model again") from error
    return value if isinstance(value, dict) else {}


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ModelFailure(f"{path.name} of the model cannot be read: {error}", "fetch the model again") from error


def _shipped_folder() -> Any:
    return resources.files("kaito.datasets") / "chat_templates"


def read_shipped(setting: str) -> str:
    """The text of one of our templates, by its name or by KAITO's path. Raises ConfigFailure."""
    name = setting.removeprefix("/workspace/chat_templates/").removesuffix(".jinja")
    if name not in shipped_names():
        hint = f"shipped templates: {', '.join(shipped_names())}; or write the template's text into the setting"
        raise ConfigFailure(f"ModelConfig.chat_template: no template is called {setting!r}", hint)
    return str((_shipped_folder() / f"{name}.jinja").read_text(encoding="utf-8"))


class _Generation(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}`: renders its body."""

    tags = {"generation"}  # noqa: RUF012  jinja2 declares it so

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)

    def _render(self, caller: Callable[[], str]) -> str:
        mark: Callable[[str], str] = self.environment.mark_generation  # type: ignore[attr-defined]  # set by extend()
        return mark(caller())


ENVIRONMENT: dict[str, Any] = {
    "trim_blocks": True,
    "lstrip_blocks": True,
    "extensions": [_Generation, jinja2.ext.loopcontrols],
}


class _PlainDict:
    """`dict(…)` for templates, without the class's other attributes."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)


class _PlainNamespace(jinja2.utils.Namespace):
    """`namespace(…)` that refuses names by which a template could leave the sandbox."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        own, rest = args[0], args[1:]
        values = dict(*rest, **kwargs)
        for name in values:
            _refuse_private(name)
        jinja2.utils.Namespace.__init__(own, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _refuse_private(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError("a namespace's names may not start with an underscore")


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

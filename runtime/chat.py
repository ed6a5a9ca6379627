"""Render a conversation with the model's chat template, in jinja2's sandbox: a template is data of the model's folder.

The environment offers what templates are written against (transformers' `apply_chat_template`): `raise_exception`,
`strftime_now`, a `tojson` that escapes no HTML, loop controls and the `{% generation %}` mark, which prints its body.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import meta

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.arguments import plain_data
from edgeskip.runtime.templates.limits import TemplateLimitError, TemplateLimits, TemplateMeter
from edgeskip.runtime.templates.sandbox import LimitedEnvironment

Message = Mapping[str, object]  # {"role": "user", "content": "…"}
TEMPLATE_NAME = "chat_template.jinja"
LIMITS = TemplateLimits()
_TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_TOKEN_NAME = re.compile("[A-Za-z][A-Za-z0-9_]*_token")
# Keys of tokenizer_config.json under which transformers looks for tokens with names of a model's own.
_TABLES = ("model_specific_special_tokens", "extra_special_tokens")
# For all commands: not every one of them has the option.
_WITHOUT = "edgeskip run --raw (chat=False) does without it"
# What `chat_kwargs` cannot set: the conversation itself, and the tokens of the vocabulary.
_GIVEN = frozenset({"messages", "add_generation_prompt", "continue_final_message", "self", *_TOKEN_NAMES})


class ChatTemplate:
    """A template and the special tokens it may name. It is compiled when it is first used, so that a damaged one is in
    nobody's way who does without it."""

    def __init__(
        self, source: str, special_tokens: Mapping[str, str] | None = None, *, origin: str | Path | None = None
    ) -> None:
        self._source = source
        self._special_tokens = dict(special_tokens or {})
        self._origin = f"{origin}: " if origin is not None else ""
        self._lock = threading.Lock()
        self._environment = LimitedEnvironment(LIMITS)

    @cached_property
    def _template(self) -> jinja2.Template:
        try:
            return self._environment.compile_limited(self._source)
        except TemplateLimitError as error:
            raise self._over(error) from None
        except Exception as error:  # jinja2's own, and what Python's compiler makes of the code that jinja2 generates
            what = f"the chat template is damaged ({self._origin}{_short(error)})"
            raise EdgeSkipError(f"{what}: {_WITHOUT}") from error

    def _over(self, error: TemplateLimitError) -> EdgeSkipError:
        return TemplateLimitError(f"{self._origin}the chat template {error}, and was stopped: {_WITHOUT}")

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        chat_kwargs: Mapping[str, object] | None = None,
    ) -> str:
        """Return the prompt for `messages`, special tokens included: encode it without adding any.

        Args:
            chat_kwargs: Values for names that the template reads, as `apply_chat_template` takes them.

        Raises:
            EdgeSkipError: If the template is damaged, rejects the messages, or does not read one of `chat_kwargs`.
        """
        template = self._template
        values = {
            "messages": [dict(message) for message in messages],
            "tools": None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **self._special_tokens,
        } | self._checked_options(chat_kwargs or {})
        with self._lock:
            self._environment.meter = TemplateMeter(LIMITS, values)
            try:
                return template.render(values)
            except TemplateLimitError as error:
                raise self._over(error) from None
            except Exception as error:  # whatever the code raises that jinja2 made of the template
                raise EdgeSkipError(f"the chat template refuses these messages ({_short(error)})") from error
            finally:
                self._environment.meter = TemplateMeter(LIMITS, {})  # what was made is free again

    @cached_property
    def _given(self) -> frozenset[str]:
        return _GIVEN.union(self._special_tokens)

    @cached_property
    def options(self) -> tuple[str, ...]:
        """The names that `chat_kwargs` may set, sorted: what the template reads apart from what it always gets."""
        tree = self._template.environment.parse(self._source)
        given = self._given.union(self._environment.globals)
        return tuple(sorted(meta.find_undeclared_variables(tree) - given))

    def check_constants(self) -> None:
        """Raise a TemplateLimitError if jinja2 without limits (transformers) must not even compile the template."""
        template = self._template
        with self._lock:
            try:
                template.environment.check_constants(self._source)  # type: ignore[attr-defined]
            except TemplateLimitError as error:
                raise self._over(error) from None
            except RecursionError as error:
                raise TemplateLimitError(f"{self._origin}the chat template is nested too deep") from error

    def _checked_options(self, options: Mapping[str, object]) -> dict[str, object]:
        if not isinstance(options, Mapping):
            raise EdgeSkipError(f"chat_kwargs must be a dict of names and values, not {type(options).__name__}")
        for name in options:
            if name in self._given:
                raise EdgeSkipError(f"{name} is given by EdgeSkip, not by an option of the chat template: leave it out")
            if name not in self.options:
                known = f"its options are {', '.join(self.options)}" if self.options else "it has no options"
                raise EdgeSkipError(f"the chat template does not read {name!r:.60}: {known}")
        return {name: plain_data(value, f"the chat option {name}") for name, value in options.items()}


class NamedTemplates(ChatTemplate):
    """Templates for tools or documents, say, and none that is for every conversation: transformers refuses as well."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__("")
        self._names = tuple(names)

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        chat_kwargs: Mapping[str, object] | None = None,
    ) -> str:
        """Raise EdgeSkipError: there is no template for a plain conversation."""
        raise EdgeSkipError(
            f"the model's chat templates are for {', '.join(self._names)} only, none is called default: {_WITHOUT}"
        )


def read_chat_template(
    folder: Path, tokenizer_config: Mapping[str, Any], *, shown_as: str | None = None
) -> ChatTemplate | None:
    """Return the folder's template: `chat_template.jinja`, else the one in `tokenizer_config.json`; None if missing.

    `shown_as` is what messages call it if the folder is a temporary one.
    """
    path = folder / TEMPLATE_NAME
    source: Any = tokenizer_config.get("chat_template")
    origin = folder / "tokenizer_config.json"
    if path.is_file():
        origin = path
        try:
            with path.open(encoding="utf-8") as file:
                source = file.read(LIMITS.source + 1)  # a longer one is refused when it is used
        except UnicodeDecodeError as error:
            raise EdgeSkipError(f"{shown_as or path} is damaged ({error}): export again") from None
    if isinstance(source, list):  # several named templates
        named = [entry for entry in source if isinstance(entry, dict)]
        source = next((entry.get("template") for entry in named if entry.get("name") == "default"), None)
        names = [str(entry.get("name")) for entry in named if isinstance(entry.get("template"), str)]
        if source is None and names:
            return NamedTemplates(names)
    if not isinstance(source, str):
        return None
    return ChatTemplate(source, _named_tokens(tokenizer_config), origin=shown_as or origin)


def _named_tokens(tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    """Name → special token of all that a template may name: the usual roles and a model's own (`image_token`, say).

    Only names that end in `_token`, so that none takes the place of the conversation or of a function.
    """
    entries = dict(tokenizer_config)
    for table in _TABLES:
        if isinstance(named := tokenizer_config.get(table), dict):
            entries |= named
    texts = {name: token_text(entry) for name, entry in entries.items() if _TOKEN_NAME.fullmatch(name)}
    return {name: text for name, text in texts.items() if text is not None}


def token_text(entry: Any) -> str | None:
    """Return a special token of `tokenizer_config.json`, which is a string or an object with `content`."""
    text = entry.get("content") if isinstance(entry, dict) else entry
    return text if isinstance(text, str) else None


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}…"

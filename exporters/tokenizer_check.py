"""The tokenizer of an artifact against `AutoTokenizer` on the model's own folder: ids, chat template, and back to text.

What is expected is made here, with transformers; what the artifact gives comes from the process that runs it, by the
runtime's own ways (`edgeskip.runtime.probe`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from edgeskip.core.errors import EdgeSkipError
from edgeskip.exporters.tricky_texts import CONVERSATIONS, DECOMPOSED, TEXTS, around
from edgeskip.runtime.chat import ChatTemplate
from edgeskip.runtime.templates.limits import TemplateLimitError

if TYPE_CHECKING:
    from edgeskip.models.readers.loaded_tokenizer import LoadedTokenizer
    from edgeskip.models.source import ModelSource

MOST_TOKENS = 48  # special and added ones that are tried in texts: the named ones, the first and the last of the others
_SHOWN = 40  # characters of a text in a message
_CALL = re.compile(r"strftime_now\s*\(([^)]*)\)")
# A literal with directives of strftime(3) that are the same all day.
_DATE = re.compile(r"""\s*(['"])([^%'"]|%[-_0^#]?[aAbBCdDeFgGhjmntuUVwWxyY%])*\1\s*""")


def _none(text: str) -> bool:
    return False


@dataclass(frozen=True)
class TokenizerPolicy:
    """How an artifact's tokenizer is compared.

    Attributes:
        skips: Whether a text is left out: its target is known to read it in its own way.
        advice: What to do about a difference.
    """

    skips: Callable[[str], bool] = _none
    advice: str = "report this; --no-check writes the model anyway"


EXACT_TOKENIZER = TokenizerPolicy()


@dataclass(frozen=True)
class TextCase:
    """A text, whether special tokens are added around it, and the ids that transformers gives it."""

    text: str
    add_special_tokens: bool
    ids: tuple[int, ...]


@dataclass(frozen=True)
class ChatCase:
    """A conversation, whether the assistant's turn is opened, and transformers' rendering of it: text and ids."""

    messages: tuple[dict[str, str], ...]
    add_generation_prompt: bool
    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class TokenizerCases:
    """What an artifact's tokenizer must do. `decoded`: ids and their text, special tokens left out.

    `day`: the only one on which `chats` are right; None if they name no date.
    """

    texts: tuple[TextCase, ...]
    chats: tuple[ChatCase, ...]
    decoded: tuple[tuple[tuple[int, ...], str], ...]
    day: date | None = None

    def questions(self) -> dict[str, Any]:
        """Return the questions for the artifact's process."""
        return {
            "texts": [[case.text, case.add_special_tokens] for case in self.texts],
            "chats": [[list(case.messages), case.add_generation_prompt] for case in self.chats],
            "ids": [list(ids) for ids, _ in self.decoded],
        }


def tokenizer_cases(source: ModelSource, skip: Callable[[str], bool] = _none) -> TokenizerCases:
    """Return the cases of a model's tokenizer; texts that `skip` names are left out.

    Raises:
        EdgeSkipError: If a conversation gives a token that is beyond the model's embedding.
    """
    loaded = source.checkpoint.tokenizer.loaded
    rows = source.decoder.config.vocab_size
    tokens = _tried_tokens(loaded)
    today = date.today()
    chats, dated = _chats(loaded)
    for case in chats:
        _check_inside(case.ids, rows, loaded, source)
    texts = [*TEXTS, *DECOMPOSED, *(text for token in tokens for text in around(token)), *(case.text for case in chats)]
    wanted = list(dict.fromkeys(text for text in texts if not skip(text)))
    cases = [
        TextCase(text, add, tuple(loaded.encode(text, add_special_tokens=add)))
        for text in wanted
        for add in (False, True)
    ]
    inside = [case for case in cases if all(0 <= index < rows for index in case.ids)]
    decoded = {case.ids: loaded.decode(list(case.ids)) for case in inside if not case.add_special_tokens}
    kept = tuple(case for case in chats if not skip(case.text))
    return TokenizerCases(tuple(inside), kept, tuple(decoded.items()), today if dated else None)


def check_tokenizer(cases: TokenizerCases, found: Mapping[str, Any], name: str, advice: str) -> None:
    """Raise EdgeSkipError at the first difference between an artifact's answers and what transformers gives.

    `name` is the artifact's in messages, `advice` what to do.
    """
    for text_case, ids in zip(cases.texts, found["texts"], strict=True):
        added = "with" if text_case.add_special_tokens else "without"
        _compare(text_case.ids, ids, f"{_short(text_case.text)} ({added} special tokens)", name, advice)
    overnight = cases.day is not None and cases.day != date.today()
    for chat, (text, ids) in () if overnight else zip(cases.chats, found["chats"], strict=True):
        roles = ", ".join(message["role"] for message in chat.messages)
        if text is None:
            raise EdgeSkipError(f"{name}: its chat template refuses a conversation ({roles}) that transformers renders")
        _compare(chat.ids, ids, f"the chat template's {_short(text)} (roles {roles})", name, advice)
    for (_, wanted), text in zip(cases.decoded, found["decoded"], strict=True):
        if text != wanted:
            pairs = zip(wanted, text, strict=False)
            at = next((n for n, (ours, theirs) in enumerate(pairs) if ours != theirs), min(len(wanted), len(text)))
            raise EdgeSkipError(
                f"{name}: tokens that transformers shows as {_short(wanted)} come out as {_short(text)}, which differs "
                f"from character {at}: {advice}"
            )


def _compare(wanted: Sequence[int], ids: Sequence[int], text: str, name: str, advice: str) -> None:
    if list(wanted) == list(ids):
        return
    pairs = zip(wanted, ids, strict=False)
    at = next((n for n, (ours, theirs) in enumerate(pairs) if ours != theirs), min(len(wanted), len(ids)))
    raise EdgeSkipError(
        f"{name}: the tokens of {text} differ from transformers' at position {at} "
        f"({_around(wanted, at)} wanted, {_around(ids, at)} found): {advice}"
    )


def _around(ids: Sequence[int], at: int) -> str:
    part = [str(index) for index in ids[at : at + 3]]
    return " ".join(part) + (" …" if len(ids) > at + 3 else "") if part else "no more"


def _short(text: str) -> str:
    return ascii(text) if len(ascii(text)) < _SHOWN else ascii(text[:_SHOWN]) + "…"


def _tried_tokens(loaded: LoadedTokenizer) -> list[str]:
    named = [str(token) for token in loaded.auto.all_special_tokens]
    added = [token.content for _, token in sorted(loaded.backend.get_added_tokens_decoder().items())]
    half = MOST_TOKENS // 2
    others = added if len(added) <= MOST_TOKENS else [*added[:half], *added[-half:]]
    return list(dict.fromkeys([*named[:MOST_TOKENS], *others]))


def _chats(loaded: LoadedTokenizer) -> tuple[list[ChatCase], bool]:
    """Return the conversations that the model's template takes, and whether it depends on the date.

    None without a template, with named ones and no default, and if it depends on the time of day, which differs between
    the two renderings.
    """
    auto, cases = loaded.auto, []
    template = auto.chat_template
    if not template or (isinstance(template, dict) and "default" not in template):
        return [], False
    source = template["default"] if isinstance(template, dict) else template
    forms = _CALL.findall(source)
    if not all(map(_DATE.fullmatch, forms)):
        return [], False
    limited = ChatTemplate(source, {name: str(token) for name, token in auto.special_tokens_map.items()})
    try:
        limited.check_constants()  # jinja2 computes them while it compiles
    except EdgeSkipError:
        return [], False  # `edgeskip run` reports it as well
    for messages, opened in CONVERSATIONS:
        # transformers has no limits of time and memory: it renders only what is known to end.
        try:
            limited.render(messages, add_generation_prompt=opened)
        except TemplateLimitError:
            continue  # `edgeskip run` reports it as well
        except EdgeSkipError:
            pass
        try:
            text = auto.apply_chat_template([*messages], tokenize=False, add_generation_prompt=opened)
        except Exception:  # jinja2's errors, and whatever the template's expressions raise: it takes no such messages
            continue
        ids = tuple(loaded.encode(text, add_special_tokens=False))
        cases.append(ChatCase(tuple(messages), opened, str(text), ids))
    return cases, bool(forms)


def _check_inside(ids: Sequence[int], rows: int, loaded: LoadedTokenizer, source: ModelSource) -> None:
    beyond = next((index for index in ids if not 0 <= index < rows), None)
    if beyond is not None:
        token = loaded.backend.id_to_token(beyond)
        raise EdgeSkipError(
            f"{source.checkpoint.tokenizer.file}: its chat template uses the token {token!r} with id {beyond}, but the "
            f"model's embedding ends at {rows - 1}: resize the embedding when training, or use the tokenizer it was "
            "trained with"
        )

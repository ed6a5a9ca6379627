"""From a prompt as users write it, text or a conversation, to token ids: one rule for all callers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.arguments import check_messages, check_text
from edgeskip.runtime.chat import ChatTemplate
from edgeskip.runtime.detokenizer import Tokenizer


def encode_text(
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    prompt: str,
    *,
    chat: bool | None = None,
    system: str | None = None,
    chat_kwargs: Mapping[str, object] | None = None,
) -> list[int]:
    """Return the token ids of one user message if `chat` (None = if the model has a template), else of the text itself.

    Raises:
        EdgeSkipError: If the prompt is empty or not text, or there is a system message or an option of the chat
            template without a chat.
    """
    if not check_text(prompt, "the prompt"):
        raise EdgeSkipError("the prompt is empty: give some text")
    if template is not None if chat is None else chat:
        messages = [{"role": "user", "content": prompt}]
        return encode_messages(tokenizer, template, messages, system, chat_kwargs=chat_kwargs)
    if system is not None or chat_kwargs:
        what = "a system message needs" if system is not None else f"the option {next(iter(chat_kwargs or ()))} is for"
        if template is None:
            raise EdgeSkipError(f"{what} a chat template, and this model has none: write the whole prompt as text")
        raise EdgeSkipError(f"{what} the chat template: leave --raw (chat=False) out")
    return list(tokenizer.encode(prompt, add_special_tokens=True))


def encode_messages(
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    messages: Sequence[object],
    system: str | None = None,
    *,
    chat_kwargs: Mapping[str, object] | None = None,
) -> list[int]:
    """Return the token ids of a conversation, `system` before it, rendered with the template variables `chat_kwargs`.

    Raises:
        EdgeSkipError: If the model has no template, or `messages` are invalid.
    """
    if template is None:
        raise EdgeSkipError("this model has no chat template: pass the text with --raw (chat=False)")
    checked = check_messages(messages)
    if not any(message.get("content") or message.get("tool_calls") for message in checked):
        raise EdgeSkipError("the prompt is empty: give some text")
    if system is not None:
        checked.insert(0, {"role": "system", "content": check_text(system, "the system message")})
    return list(tokenizer.encode(template.render(checked, chat_kwargs=chat_kwargs), add_special_tokens=False))

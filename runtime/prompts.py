"""From a prompt as a user writes it, text or a conversation, to token ids: one rule for every place that needs them."""

from __future__ import annotations

from collections.abc import Sequence

from edgeskip.errors import EdgeSkipError
from edgeskip.runtime.chat import ChatTemplate, Message
from edgeskip.runtime.text import Tokenizer


def encode_text(
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    prompt: str,
    *,
    chat: bool | None = None,
    system: str | None = None,
) -> list[int]:
    """Token ids of one user message where `chat` (None = where the model has a template), else of the text itself.

    EdgeSkipError for an empty prompt, and for a system message without a chat.
    """
    if not prompt:
        raise EdgeSkipError("the prompt is empty: give some text")
    if template is not None if chat is None else chat:
        return encode_messages(tokenizer, template, [{"role": "user", "content": prompt}], system)
    if system is not None:
        raise EdgeSkipError("a system message needs the chat template: leave --raw (chat=False) out")
    return list(tokenizer.encode(prompt, add_special_tokens=True))


def encode_messages(
    tokenizer: Tokenizer, template: ChatTemplate | None, messages: Sequence[Message], system: str | None = None
) -> list[int]:
    """Token ids of a conversation, `system` before it; EdgeSkipError where the model has no template."""
    if template is None:
        raise EdgeSkipError("this model has no chat template: pass the text with --raw (chat=False)")
    if not any(message.get("content") for message in messages):
        raise EdgeSkipError("the prompt is empty: give some text")
    if system is not None:
        messages = [{"role": "system", "content": system}, *messages]
    return list(tokenizer.encode(template.render(messages), add_special_tokens=False))

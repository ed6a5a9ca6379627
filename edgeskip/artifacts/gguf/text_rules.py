"""What transformers does with text and llama.cpp has no key for, as a GGUF of EdgeSkip says it for the runtime."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class TextRules(BaseModel):
    """How the runtime treats text around llama.cpp's own tokenizer; the manifest's `text`.

    `added` are the ids of tokens that are found in a text before anything else, `special` those of them that show no
    text, `end_tokens` those that end a text (() = what llama.cpp ends at). `names` are the special tokens that a chat
    template may name. `compose`: text between added tokens is brought into Unicode NFC. `space`: it gets a space in
    front unless it starts with one, only at the text's start ("first") or after every added token as well ("always");
    None if llama.cpp does by itself as the tokenizer does. `strip`: one space at an answer's start is not the text's,
    or all that its first token has.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    added: tuple[int, ...] = ()
    special: tuple[int, ...] = ()
    end_tokens: tuple[int, ...] = ()
    names: dict[str, str] = {}
    compose: bool = False
    space: Literal["first", "always"] | None = None
    strip: Literal["one", "all"] | None = None

"""Text in and out for a GGUF file: llama.cpp's own tokenizer over the open model, its chat template, its end tokens."""

from __future__ import annotations

import ctypes
import re
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from edgeskip.artifacts.gguf.text_rules import TextRules
from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.chat import ChatTemplate, NamedTemplates
from edgeskip.runtime.engines.llamacpp.library import llama
from edgeskip.runtime.engines.llamacpp.model import LlamaModel
from edgeskip.runtime.large_stack import with_stack_for

_SENTENCEPIECE = 1  # llama_vocab_type
_SPACE_PREFIXED = (_SENTENCEPIECE, 4)  # and Unigram
_NO_VOCABULARY = 0
_NAMED = "tokenizer.chat_template."  # before the name of a template that is not for every conversation
_SPACES = (" ", "▁")  # as a text and as SentencePiece writes it
_TOO_LONG = -(2**31)


class GgufTokenizer:
    """The vocabulary of an open model, a `Tokenizer`. Its rules are those of the llama.cpp that runs the model, and for
    what llama.cpp has none those that a file of EdgeSkip brings along."""

    def __init__(self, model: LlamaModel, rules: TextRules | None = None) -> None:
        self._model = model
        self.rules = rules
        self._type = int(llama().llama_vocab_type(model.vocab))
        if self._type == _NO_VOCABULARY:
            raise EdgeSkipError(f"{model.path} has no vocabulary: use a file that carries its tokenizer")
        self._buffer: Any = ctypes.create_string_buffer(64)
        self._pieces: dict[int, bytes] = {}

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the token ids of `text`, in which control tokens may be written.

        `add_special_tokens` adds BOS (and EOS) if the file says so. Raises EdgeSkipError if the vocabulary has neither
        a character nor its bytes.
        """
        rules = self.rules
        if rules is None or not (rules.compose or rules.space):
            return self._tokenize(text, add_special_tokens=add_special_tokens)
        ids: list[int] = []
        position = 0
        for match in self._added_tokens.finditer(text):
            ids += self._segment(text[position : match.start()], first=position == 0)
            ids.append(self._added_ids[match[0]])
            position = match.end()
        ids += self._segment(text[position:], first=position == 0)
        return self._surrounded(ids) if add_special_tokens else ids

    def _segment(self, text: str, *, first: bool) -> list[int]:
        """Return the token ids of a text without added tokens; `first`: nothing stands before it."""
        rules = self.rules
        assert rules is not None
        if not text:
            return []
        if rules.compose:
            text = unicodedata.normalize("NFC", text)
        spaced = text[0] in _SPACES
        if rules.space == "first" and first and not spaced:
            text = " " + text  # the file asks llama.cpp for none
        elif rules.space == "always" and spaced:
            text = text[1:]  # llama.cpp puts one in front of every text
            if not text:
                space = self._ids.get(_SPACES[1])
                return [] if space is None else [space]
        return self._tokenize(text, add_special_tokens=False)

    def _surrounded(self, ids: list[int]) -> list[int]:
        """Return the ids with BOS and EOS as the file says."""
        library, vocab, metadata = llama(), self._model.vocab, self._model.metadata
        before = [library.llama_vocab_bos(vocab)] if metadata.get("tokenizer.ggml.add_bos_token") == "true" else []
        after = [library.llama_vocab_eos(vocab)] if metadata.get("tokenizer.ggml.add_eos_token") == "true" else []
        return [*before, *ids, *after]

    def _tokenize(self, text: str, *, add_special_tokens: bool) -> list[int]:
        self._check_writable(text)
        data = text.encode("utf-8", "replace")
        size = len(data) + 8
        library, vocab = llama(), self._model.vocab
        while True:
            tokens = (ctypes.c_int32 * size)()
            count = with_stack_for(
                len(data), library.llama_tokenize, vocab, data, len(data), tokens, size, add_special_tokens, True
            )
            if count >= 0:
                return tokens[:count]
            if count == _TOO_LONG:
                raise EdgeSkipError("the text is too long for llama.cpp's tokenizer: shorten it")
            size = -count

    def token_id(self, token: str) -> int | None:
        """Return the id of a token given as the vocabulary writes it."""
        return self._ids.get(token)

    def is_special(self, token: int) -> bool:
        """Return whether a token marks structure and shows no text."""
        if self.rules is not None:
            return token in self._special
        return 0 <= token < self._model.vocab_size and bool(llama().llama_vocab_is_control(self._model.vocab, token))

    @property
    def strips_first_space(self) -> bool:
        """Whether a text's first token carries a space that is not the text's (SentencePiece's dummy prefix)."""
        if self.rules is not None:
            return self.rules.strip is not None
        stated = self._model.metadata.get("tokenizer.ggml.add_space_prefix")
        return self._type in _SPACE_PREFIXED if stated is None else stated == "true"

    by_pieces = True

    def first_piece(self, token: int) -> bytes:
        """Return what one token is as the first of a text, in bytes."""
        piece = self.piece(token)
        return piece.lstrip(b" ") if self.rules is not None and self.rules.strip == "all" else piece.removeprefix(b" ")

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, special ones left out."""
        return b"".join(map(self.piece, tokens)).decode("utf-8", "replace")

    def piece(self, token: int) -> bytes:
        """Return what one token adds to the text, in bytes; empty for special tokens and ids outside the vocabulary."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._piece(token)
        return piece

    def text_of(self, token: int) -> str | None:
        """Return the token as the vocabulary writes it; None for ids outside it (llama.cpp's -1 is "no token")."""
        if not 0 <= token < self._model.vocab_size:
            return None
        text: bytes = llama().llama_vocab_get_text(self._model.vocab, token)
        return text.decode("utf-8", "replace")

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """Every token that ends a text or a turn: as the file says, else what llama.cpp calls end-of-generation."""
        if self.rules is not None and self.rules.end_tokens:
            return frozenset(self.rules.end_tokens)
        is_end, vocab = llama().llama_vocab_is_eog, self._model.vocab
        return frozenset(token for token in range(self._model.vocab_size) if is_end(vocab, token))

    @cached_property
    def _special(self) -> frozenset[int]:
        return frozenset(self.rules.special if self.rules is not None else ())

    @cached_property
    def _added_ids(self) -> dict[str, int]:
        added = self.rules.added if self.rules is not None else ()
        return {text: token for token in added if (text := self.text_of(token))}

    @cached_property
    def _added_tokens(self) -> re.Pattern[str]:
        """Matches the added tokens, of several at one place the longest."""
        texts = sorted(self._added_ids, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, texts)) or r"(?!)")

    @cached_property
    def _ids(self) -> dict[str, int]:
        texts = map(self.text_of, range(self._model.vocab_size))
        return {text: token for token, text in enumerate(texts) if text is not None}

    @cached_property
    def _missing_bytes(self) -> frozenset[int]:
        """Bytes that SentencePiece's vocabulary has no piece for; llama.cpp ends the process when it needs one."""
        if self._type != _SENTENCEPIECE:
            return frozenset()
        return frozenset(
            byte for byte in range(256) if f"<0x{byte:02X}>" not in self._ids and chr(byte) not in self._ids
        )

    def _check_writable(self, text: str) -> None:
        if not text or not self._missing_bytes:
            return
        ours, theirs = _SPACES  # one may be put in front
        for character in {*text.replace(ours, theirs), theirs}:
            if character not in self._ids and not self._missing_bytes.isdisjoint(character.encode("utf-8", "replace")):
                raise EdgeSkipError(f"this model's vocabulary cannot write {character!r}: leave it out of the text")

    def _piece(self, token: int) -> bytes:
        if not 0 <= token < self._model.vocab_size or (self.rules is not None and self.is_special(token)):
            return b""
        if self.rules is not None and llama().llama_vocab_is_control(self._model.vocab, token):
            return (self.text_of(token) or "").encode()  # llama.cpp goes by the text and would not show it
        while True:
            buffer = self._buffer
            length = llama().llama_token_to_piece(self._model.vocab, token, buffer, len(buffer), 0, False)
            if length >= 0:
                return bytes(buffer[:length])
            self._buffer = ctypes.create_string_buffer(-length)


def gguf_chat_template(model: LlamaModel, tokenizer: GgufTokenizer) -> ChatTemplate | None:
    """Return the file's chat template (`tokenizer.chat_template`); None if it has none."""
    source = model.metadata.get("tokenizer.chat_template")
    if not source:
        names = [key.removeprefix(_NAMED) for key in sorted(model.metadata) if key.startswith(_NAMED)]
        return NamedTemplates(names) if names else None
    library, vocab = llama(), model.vocab
    unknown = model.metadata.get("tokenizer.ggml.unknown_token_id", "-1")
    ids = {
        "bos_token": library.llama_vocab_bos(vocab),
        "eos_token": library.llama_vocab_eos(vocab),
        "pad_token": library.llama_vocab_pad(vocab),
        "unk_token": int(unknown),
    }
    texts = {name: tokenizer.text_of(token) for name, token in ids.items()}
    tokens = {name: text for name, text in texts.items() if text is not None}
    if tokenizer.rules is not None:
        tokens = tokenizer.rules.names
    return ChatTemplate(source, tokens, origin=model.path)

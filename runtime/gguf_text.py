"""Text in and out for a GGUF file: llama.cpp's own tokenizer over the open model, its chat template, its end tokens."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from edgeskip.errors import EdgeSkipError
from edgeskip.runtime.chat import ChatTemplate
from edgeskip.runtime.engines.llamacpp_library import llama
from edgeskip.runtime.engines.llamacpp_model import LlamaModel

_SPACE_PREFIXED = (1, 4)  # llama_vocab_type: SentencePiece's BPE and Unigram
_NO_VOCABULARY = 0
_TOO_LONG = -(2**31)


class GgufTokenizer:
    """The vocabulary of an open model, a `Tokenizer`. Its rules are those of the llama.cpp that runs the model."""

    def __init__(self, model: LlamaModel) -> None:
        self._model = model
        self._type = int(llama().llama_vocab_type(model.vocab))
        if self._type == _NO_VOCABULARY:
            raise EdgeSkipError(f"{model.path} has no vocabulary: use a file that carries its tokenizer")
        self._buffer: Any = ctypes.create_string_buffer(64)
        self._pieces: dict[int, bytes] = {}

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of `text`, control tokens written in it included; `add_special_tokens` adds BOS (and EOS) where
        the file says so."""
        data = text.encode("utf-8", "replace")
        size = len(data) + 8
        while True:
            tokens = (ctypes.c_int32 * size)()
            count = llama().llama_tokenize(self._model.vocab, data, len(data), tokens, size, add_special_tokens, True)
            if count >= 0:
                return tokens[:count]
            if count == _TOO_LONG:
                raise EdgeSkipError("the text is too long for llama.cpp's tokenizer: shorten it")
            size = -count

    def token_id(self, token: str) -> int | None:
        """Id of a token given as the vocabulary writes it."""
        return self._ids.get(token)

    def is_special(self, token: int) -> bool:
        """Whether a token marks structure and shows no text."""
        return 0 <= token < self._model.vocab_size and bool(llama().llama_vocab_is_control(self._model.vocab, token))

    @property
    def strips_first_space(self) -> bool:
        """Whether a text's first token carries a space that is not the text's (SentencePiece's dummy prefix)."""
        stated = self._model.metadata.get("tokenizer.ggml.add_space_prefix")
        return self._type in _SPACE_PREFIXED if stated is None else stated == "true"

    by_pieces = True

    def first_piece(self, token: int) -> bytes:
        """What one token is as the first of a text, in bytes."""
        return self.piece(token).removeprefix(b" ")

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones left out."""
        return b"".join(map(self.piece, tokens)).decode("utf-8", "replace")

    def piece(self, token: int) -> bytes:
        """What one token adds to the text, in bytes; empty for special tokens and ids outside the vocabulary."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._piece(token)
        return piece

    def text_of(self, token: int) -> str | None:
        """The token as the vocabulary writes it; None for ids outside it (llama.cpp has -1 for "no such token")."""
        if not 0 <= token < self._model.vocab_size:
            return None
        text: bytes = llama().llama_vocab_get_text(self._model.vocab, token)
        return text.decode("utf-8", "replace")

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """Every token that ends a text or a turn: what llama.cpp calls end-of-generation."""
        is_end, vocab = llama().llama_vocab_is_eog, self._model.vocab
        return frozenset(token for token in range(self._model.vocab_size) if is_end(vocab, token))

    @cached_property
    def _ids(self) -> dict[str, int]:
        texts = map(self.text_of, range(self._model.vocab_size))
        return {text: token for token, text in enumerate(texts) if text is not None}

    def _piece(self, token: int) -> bytes:
        if not 0 <= token < self._model.vocab_size:
            return b""
        while True:
            buffer = self._buffer
            length = llama().llama_token_to_piece(self._model.vocab, token, buffer, len(buffer), 0, False)
            if length >= 0:
                return bytes(buffer[:length])
            self._buffer = ctypes.create_string_buffer(-length)


def gguf_chat_template(model: LlamaModel, tokenizer: GgufTokenizer) -> ChatTemplate | None:
    """The file's chat template (`tokenizer.chat_template`); None where it has none."""
    source = model.metadata.get("tokenizer.chat_template")
    if not source:
        return None
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
    return ChatTemplate(source, tokens, origin=model.path)

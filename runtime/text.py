"""Text in and out: the artifact's tokenizer, tokens to text as they come, and stop strings.

Token strings are mapped to bytes here and joined by an incremental UTF-8 decoder, so a character that spans tokens
appears once, whole, and a step costs a table look-up. Every decoder of today's decoder-only models is covered:
byte-level BPE, and SentencePiece vocabularies with `▁` for the space and `<0xNN>` byte tokens.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from edgeskip.errors import EdgeSkipError

TOKENIZER_NAME = "tokenizer.json"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Tokenizer(Protocol):
    """What a session needs of a tokenizer, whoever implements it."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of `text`; `add_special_tokens` adds a BOS token where the model has one."""

    def token_id(self, token: str) -> int | None:
        """Id of a token given as its string."""

    def is_special(self, token: int) -> bool:
        """Whether a token marks structure and shows no text."""

    @property
    def strips_first_space(self) -> bool:
        """Whether a text's first token carries a space that is not the text's (SentencePiece's dummy prefix)."""

    def piece(self, token: int) -> bytes:
        """What one token adds to the text, in bytes; empty for special tokens and ids outside the vocabulary."""


class TextTokenizer:
    """The `Tokenizer` in an artifact folder; EdgeSkipError where `tokenizer.json` is missing, damaged or of an unknown
    kind."""

    def __init__(self, folder: Path) -> None:
        import tokenizers

        path = folder / TOKENIZER_NAME
        try:
            source = path.read_text(encoding="utf-8")
            self._decoders = list(_flatten(json.loads(source).get("decoder")))
            self._tokenizer = tokenizers.Tokenizer.from_str(source)
        except FileNotFoundError:
            raise EdgeSkipError(f"{folder} has no {TOKENIZER_NAME}: export again") from None
        except Exception as error:  # tokenizers raises plain Exception
            raise EdgeSkipError(f"{path} is damaged ({str(error).splitlines()[0]}): export again") from error
        kinds = {decoder["type"] for decoder in self._decoders}
        self._byte_level = "ByteLevel" in kinds
        unknown = kinds - {"ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}
        if unknown:
            raise EdgeSkipError(f"{path} has a decoder of type {', '.join(sorted(unknown))}, which is not supported")
        added = self._tokenizer.get_added_tokens_decoder()
        self._added = {token_id: token.content for token_id, token in added.items()}
        self._special = frozenset(token_id for token_id, token in added.items() if token.special)
        self._pieces: dict[int, bytes] = {}

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def token_id(self, token: str) -> int | None:
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def is_special(self, token: int) -> bool:
        return token in self._special

    @property
    def strips_first_space(self) -> bool:
        return any(
            (decoder["type"] == "Strip" and decoder.get("start", 0) > 0)
            or (decoder["type"] == "Metaspace" and decoder.get("prepend_scheme", "always") != "never")
            for decoder in self._decoders
        )

    def piece(self, token: int) -> bytes:
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._piece(token)
        return piece

    def _piece(self, token: int) -> bytes:
        if token in self._special:
            return b""
        if token in self._added:
            return self._added[token].encode()
        text = self._tokenizer.id_to_token(token)
        if text is None:
            return b""
        if self._byte_level:
            return _byte_level_bytes(text)
        for decoder in self._decoders:
            match decoder["type"]:
                case "ByteFallback" if byte := _BYTE_TOKEN.fullmatch(text):
                    return bytes([int(byte[1], 16)])
                case "Replace":
                    text = text.replace(decoder["pattern"]["String"], decoder["content"])
                case "Metaspace":
                    text = text.replace(decoder["replacement"], " ")
        return str(text).encode()


class TextDecoder:
    """Turns tokens into text one at a time; what a token leaves incomplete appears with a later one."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        starts_segment = not len(prompt) or tokenizer.is_special(int(prompt[-1]))
        self._strip = starts_segment and tokenizer.strips_first_space

    def push(self, token: int) -> str:
        """The text that `token` completes, "" while a character is incomplete."""
        piece = self._tokenizer.piece(token)
        if self._strip and piece:
            self._strip = False
            piece = piece.removeprefix(b" ")
        return self._utf8.decode(piece)


class StopStrings:
    """Cuts a stream of text at the first stop string; text that may be the start of one is held back."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        if any(not stop for stop in stops):
            raise EdgeSkipError("a stop string must not be empty")
        self._stops = tuple(stops)
        self._starts = frozenset(stop[0] for stop in stops)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """The part of the text so far that can be shown now; after `found`, nothing more comes."""
        if not self._stops:
            return text
        if self.found:
            return ""
        self._held += text
        if self._starts.isdisjoint(self._held):  # nearly always: no stop string can have begun
            return self.finish()
        starts = [start for start in map(self._held.find, self._stops) if start >= 0]
        if starts:
            self.found = True
            shown, self._held = self._held[: min(starts)], ""
            return shown
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def finish(self) -> str:
        """What is held back, released: nothing follows that could make it a stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


def _flatten(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    if decoder is None:
        return []
    if decoder["type"] == "Sequence":
        return [leaf for part in decoder["decoders"] for leaf in _flatten(part)]
    return [decoder]


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in of every byte: printable Latin-1 bytes are themselves, the rest follow U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


_ALPHABET = _byte_alphabet()


def _byte_level_bytes(text: str) -> bytes:
    try:
        return bytes(_ALPHABET[character] for character in text)
    except KeyError:  # not written in the alphabet: the token is its own text
        return text.encode()

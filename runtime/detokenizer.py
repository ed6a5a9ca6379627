"""Text in and out: the artifact's tokenizer, tokens to text one by one, and stop strings.

Token strings are mapped to bytes here and joined by an incremental UTF-8 decoder, so a character that spans tokens
appears once, whole, and a step costs a table look-up. That covers the decoders of today's decoder-only models:
byte-level BPE, and SentencePiece vocabularies with `▁` for the space and `<0xNN>` byte tokens. Any other decodes
the last tokens together, which costs a little more.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.json_file import read_json
from edgeskip.core.token_numbers import check_token_numbers
from edgeskip.runtime.chat import token_text

TOKENIZER_NAME = "tokenizer.json"
_CONTEXT = 8  # tokens before new ones that may change how these are written
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Tokenizer(Protocol):
    """What a session needs from a tokenizer."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the token ids of `text`; `add_special_tokens` adds a BOS token if the model has one."""

    def token_id(self, token: str) -> int | None:
        """Return the id of a token given as its string."""

    def is_special(self, token: int) -> bool:
        """Return whether a token marks structure and shows no text."""

    @property
    def strips_first_space(self) -> bool:
        """Whether a text's first token carries a space that is not the text's (SentencePiece's dummy prefix)."""

    def piece(self, token: int) -> bytes:
        """Return what one token adds to the text, in bytes; empty for special tokens and ids outside the vocabulary."""

    def first_piece(self, token: int) -> bytes:
        """Return what one token is as the first of a text, in bytes; only if `strips_first_space`."""

    @property
    def by_pieces(self) -> bool:
        """Whether a text is its tokens' pieces one after another; otherwise only `decode` knows it."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, special ones left out; only if not `by_pieces`."""


@contextmanager
def _refused(what: str) -> Iterator[None]:
    """Turn a panic of the tokenizers library, which is not an Exception, into an EdgeSkipError.."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        line = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise EdgeSkipError(f"the tokenizer cannot {what} this text ({line}): is {TOKENIZER_NAME} damaged?") from None


class TextTokenizer:
    """The `Tokenizer` in an artifact folder.

    Raises:
        EdgeSkipError: If `tokenizer.json` is missing, damaged or of an unknown kind.
    """

    def __init__(self, folder: Path) -> None:
        import tokenizers

        path = folder / TOKENIZER_NAME
        try:
            source = path.read_text(encoding="utf-8")
            content = json.loads(source)
            check_token_numbers(content)
            self._decoders = list(_flatten(content.get("decoder")))
            self._tokenizer = tokenizers.Tokenizer.from_str(source)
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
            self._tokenizer.encode_special_tokens = _splits_special_tokens(folder)
        except FileNotFoundError:
            raise EdgeSkipError(f"{folder} has no {TOKENIZER_NAME}: export again") from None
        except Exception as error:  # tokenizers raises plain Exception
            raise EdgeSkipError(f"{path} is damaged ({str(error).splitlines()[0]}): export again") from error
        kinds = [decoder["type"] for decoder in self._decoders]
        self._byte_level = kinds == ["ByteLevel"]
        self._metaspace = kinds == ["Metaspace"]
        self._by_pieces = self._byte_level or self._metaspace or _joins_pieces(self._decoders)
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = frozenset(token_id for token_id, token in added.items() if token.special)
        self._pieces: dict[int, bytes] = {}

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        with _refused("encode"):
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def token_id(self, token: str) -> int | None:
        try:
            found: int | None = self._tokenizer.token_to_id(token)
        except UnicodeEncodeError:  # half a surrogate pair, which no vocabulary has
            return None
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

    @property
    def by_pieces(self) -> bool:
        return self._by_pieces

    def decode(self, tokens: Sequence[int]) -> str:
        with _refused("decode"):
            text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text

    def first_piece(self, token: int) -> bytes:
        if self._metaspace:  # the tokenizers library leaves all of the first token's out
            text = self._tokenizer.id_to_token(token) or ""
            return str(text).replace(self._decoders[0]["replacement"], "").encode()
        return self.piece(token).removeprefix(b" ")

    def piece(self, token: int) -> bytes:
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._piece(token)
        return piece

    def _piece(self, token: int) -> bytes:
        if token in self._special:
            return b""
        text = self._tokenizer.id_to_token(token)
        if text is None:
            return b""
        if not self._by_pieces:
            return self.decode([token]).encode()
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
        self._whole = None if tokenizer.by_pieces else _WholeDecoder(tokenizer, prompt)

    def push(self, token: int) -> str:
        """Return the text that `token` completes; "" while a character is incomplete."""
        if self._whole is not None:
            return self._whole.push(token)
        if self._strip and not self._tokenizer.is_special(token):
            self._strip = False
            return self._utf8.decode(self._tokenizer.first_piece(token))
        return self._utf8.decode(self._tokenizer.piece(token))


class _WholeDecoder:
    """Text of tokens by decoding the last few together: what they show beyond those shown before is new."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._tokens = [int(token) for token in prompt[-_CONTEXT:]]
        self._start, self._shown = 0, len(self._tokens)

    def push(self, token: int) -> str:
        self._tokens.append(token)
        before = self._tokenizer.decode(self._tokens[self._start : self._shown])
        after = self._tokenizer.decode(self._tokens[self._start :])
        if len(after) <= len(before) or after.endswith("\ufffd"):
            return ""
        self._start, self._shown = max(self._shown - _CONTEXT, 0), len(self._tokens)
        return after[len(before) :]


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
        """Return the part of the text so far that can be shown now; after `found`, nothing more comes."""
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
        """Return the text held back; nothing follows that could make it a stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest suffix of `text` that is a prefix of `stop`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


def _splits_special_tokens(folder: Path) -> bool:
    """Return whether, by tokenizer_config.json, special tokens written in a text are split like other text."""
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # `opening` says what is wrong with it
        return False
    return isinstance(settings, dict) and settings.get("split_special_tokens") is True


def _joins_pieces(decoders: Sequence[dict[str, Any]]) -> bool:
    """Return whether, under these decoders, a text is its tokens' texts one after another, except for a first space."""
    kinds = [decoder["type"] for decoder in decoders]
    if not kinds or set(kinds) - {"Replace", "ByteFallback", "Fuse", "Strip"}:
        return False
    if any(decoder["type"] == "Replace" and "String" not in decoder["pattern"] for decoder in decoders):
        return False
    strips = [decoder for decoder in decoders if decoder["type"] == "Strip"]
    last = ("Fuse", "Strip") if strips else ()
    plain = all((strip["content"], strip["start"], strip["stop"]) == (" ", 1, 0) for strip in strips)
    return plain and len(strips) < 2 and tuple(kinds[-2:])[: len(last)] == last


def _flatten(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    if decoder is None:
        return []
    if decoder["type"] == "Sequence":
        return [leaf for part in decoder["decoders"] for leaf in _flatten(part)]
    return [decoder]


def _byte_alphabet() -> dict[str, int]:
    """Return GPT-2's printable character of every byte: itself for printable Latin-1, else one from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


_ALPHABET = _byte_alphabet()


def _byte_level_bytes(text: str) -> bytes:
    try:
        return bytes(_ALPHABET[character] for character in text)
    except KeyError:  # not written in the alphabet: the token is its own text
        return text.encode()


def read_config(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of the artifact's folder; {} if there is no such file."""
    try:
        content = read_json(path, "damaged", "export again", finite=False)
    except FileNotFoundError:
        return {}
    if not isinstance(content, dict):
        raise EdgeSkipError(f"{path} is damaged (not a JSON object): export again")
    return content


def end_tokens_of(folder: Path, tokenizer_config: dict[str, Any], tokenizer: TextTokenizer) -> frozenset[int]:
    """Return every token that ends a text, by generation_config.json, config.json and the tokenizer: models differ."""
    ends: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        entry = read_config(folder / name).get("eos_token_id")
        ends.update(token for token in (entry if isinstance(entry, list) else [entry]) if isinstance(token, int))
    eos = token_text(tokenizer_config.get("eos_token"))
    if eos is not None and (token := tokenizer.token_id(eos)) is not None:
        ends.add(token)
    return frozenset(ends)

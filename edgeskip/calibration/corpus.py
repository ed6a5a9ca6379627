"""The text that calibration reads: files of the user's, or what ships with EdgeSkip, cut into windows of tokens."""

from __future__ import annotations

import hashlib
import importlib.resources
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.json_file import parse_json
from edgeskip.core.text_files import decode_text, read_bounded
from edgeskip.profiles.schema import CorpusFile

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SELF = "self"  # the corpus made of the model's own continuations of PROMPTS
PROMPTS = "prompts.txt"
TEXT = "text.txt"


@dataclass(frozen=True)
class Corpus:
    """Documents and where they come from.

    `field` is the one read from .jsonl files. With `continued` the documents are prompts, and the text to measure
    is these and what the model itself writes after them.
    """

    documents: tuple[str, ...]
    files: tuple[CorpusFile, ...]
    field: str | None = None
    continued: bool = False


def corpus_named(names: Sequence[str | Path], field: str | None = None) -> Corpus:
    """Return the corpus of the command line: files, SELF, or nothing for the default that ships with EdgeSkip."""
    if SELF in names:
        if len(names) > 1:
            raise EdgeSkipError(f"--corpus {SELF} cannot be combined with files: give one or the other")
        return _shipped(PROMPTS, continued=True)
    if names:
        return read_corpus([Path(name) for name in names], field)
    return _shipped(TEXT)


def read_corpus(paths: Sequence[Path], field: str | None = None) -> Corpus:
    """Read .jsonl files (one document per record, from `field`) and text files (one document each).

    Without `field` a record's `text`, or else its only string, is read. EdgeSkipError for a file that is missing,
    not UTF-8, not JSON lines or without the field, or if there is no text at all.
    """
    documents: list[str] = []
    files: list[CorpusFile] = []
    for path in paths:
        try:
            data = read_bounded(path)
            text = decode_text(data, path)
        except FileNotFoundError:
            raise EdgeSkipError(f"corpus file {path} does not exist; name a text or .jsonl file") from None
        except OSError as error:
            raise EdgeSkipError(f"cannot read the corpus file {path}: {error.strerror}") from None
        documents += _records(path, text, field) if path.suffix == ".jsonl" else [text]
        files.append(_file(path.name, data))
    documents = [document for document in documents if document.strip()]
    if not documents:
        raise EdgeSkipError(f"the corpus is empty: {', '.join(map(str, paths))} holds no text")
    return Corpus(tuple(documents), tuple(files), field)


def ids_of(corpus: Corpus, tokenizer: Tokenizer) -> list[int]:
    """Return the token ids of all documents laid end to end, without special tokens."""
    ids: list[int] = []
    for document in corpus.documents:
        ids += tokenizer.encode(document + "\n\n", add_special_tokens=False).ids
    return ids


def check_ids(ids: Sequence[int], rows: int, tokenizer: Tokenizer) -> None:
    """Raise EdgeSkipError if a token has no row in the model's embedding: it was added after training."""
    beyond = max(ids, default=0)
    if beyond >= rows:
        raise EdgeSkipError(
            f"the text has the token {tokenizer.id_to_token(beyond)!r} with id {beyond}, the model's embedding ends "
            f"at {rows - 1}: take it out of the text, or use the tokenizer that the model was trained with"
        )


def start_tokens(tokenizer: Tokenizer) -> list[int]:
    """Return what the tokenizer puts before every text, BOS or nothing."""
    return list(tokenizer.encode("").ids)


def cut(ids: Sequence[int], start: list[int], *, context: int, tokens: int, seed: int) -> list[list[int]]:
    """Return windows of exactly `context` token ids from those of a corpus, together about `tokens` (at least one
    window).

    Where the ids give more windows than wanted, `seed` draws some, so that they come from all over the corpus. A model
    whose tokenizer starts a text with special tokens (`start`: BOS) gets them at the start of every window.
    Raises EdgeSkipError if the ids do not fill one window.
    """
    body = context - len(start)
    if body < 1:
        raise EdgeSkipError(f"--context {context} is too short: give at least {len(start) + 1}")
    available = len(ids) // body
    if available == 0:
        raise EdgeSkipError(
            f"the corpus has {len(ids)} tokens, fewer than one window of {context}: "
            f"add text, or use  --context {len(ids) + len(start)}  or less"
        )
    wanted = min(max(tokens // context, 1), available)
    chosen = sorted(random.Random(seed).sample(range(available), wanted))
    return [[*start, *ids[i * body : (i + 1) * body]] for i in chosen]


def prompts_from(windows: list[list[int]], *, count: int, length: int, seed: int) -> list[list[int]]:
    """`count` prompts of `length` tokens cut from the windows, drawn by `seed`; fewer if there are no more."""
    pieces = [window[i : i + length] for window in windows for i in range(0, len(window) - length + 1, length)]
    return random.Random(seed).sample(pieces, min(count, len(pieces)))


def _shipped(name: str, *, continued: bool = False) -> Corpus:
    """Return a file of this package; its documents stand two empty lines apart."""
    data = importlib.resources.files("edgeskip.calibration").joinpath(name).read_bytes()
    documents = tuple(part.strip() for part in data.decode("utf-8").split("\n\n\n") if part.strip())
    return Corpus(documents, (_file(f"edgeskip:{name}", data),), continued=continued)


def _records(path: Path, text: str, field: str | None) -> list[str]:
    documents = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = parse_json(line, finite=False)
        except ValueError as error:
            raise EdgeSkipError(f"{path}, line {number} is not JSON ({error}): one object per line") from None
        if not isinstance(record, dict):
            raise EdgeSkipError(f"{path}, line {number} is not a JSON object")
        name = field or _only_text_field(path, record)
        value = record.get(name)
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            value = "\n".join(value)
        if not isinstance(value, str):
            raise EdgeSkipError(
                f"{path}, line {number} has no text in the field {name!r}: its fields are {', '.join(record)}"
            )
        documents.append(value)
    return documents


def _only_text_field(path: Path, record: dict[str, Any]) -> str:
    names = [name for name, value in record.items() if isinstance(value, str)]
    if "text" in names:
        return "text"
    if len(names) != 1:
        raise EdgeSkipError(f"{path} has the fields {', '.join(record)}: choose one with --field")
    return names[0]


def _file(name: str, data: bytes) -> CorpusFile:
    return CorpusFile(name=name, sha256=hashlib.sha256(data).hexdigest())

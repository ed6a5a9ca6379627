"""The examples a run learns from: files, or what the model wrote itself, as token ids with the part that has a loss."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeskip.calibration.corpus import check_ids
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.json_file import parse_json
from edgeskip.core.text_files import decode_text, read_bounded
from edgeskip.profiles.schema import CorpusFile
from edgeskip.runtime.chat import ChatTemplate, read_chat_template
from edgeskip.runtime.detokenizer import TextTokenizer

if TYPE_CHECKING:
    from edgeskip.models.source import ModelSource

# Fields that a record may have without being told: prompt and response, or ids written by `self_data`.
_PAIRS = (("prompt", "response"), ("prompt", "completion"), ("question", "answer"))


@dataclass(frozen=True)
class Example:
    """Token ids; only `response` is learned. Plain text is all response, but for its first token."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        return self.prompt + self.response

    @property
    def learned(self) -> int:
        """How many of the tokens are learned: those of the response, but a first one that nothing stands before."""
        return max(len(self.response) - (not self.prompt), 0)

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


class Encoder:
    """Texts → token ids as `edgeskip run` makes them, by the model's own tokenizer and chat template."""

    def __init__(self, source: ModelSource) -> None:

        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            source.write_tokenizer(folder)
            config = folder / "tokenizer_config.json"
            settings = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
            self.tokenizer = TextTokenizer(folder)
            self.fast = source.encoder()  # as transformers wants it
            file = source.checkpoint.tokenizer.file
            self.template: ChatTemplate | None = read_chat_template(folder, settings, shown_as=file)
        self.ends = tuple(source.end_tokens)
        self.vocab_size: int = source.decoder.config.vocab_size

    def prompt(self, text: str) -> tuple[int, ...]:
        """Return a user's message in the chat template; without one, the text itself."""
        if self.template is None:
            return tuple(self.tokenizer.encode(text, add_special_tokens=True))
        rendered = self.template.render([{"role": "user", "content": text}])
        return tuple(self.tokenizer.encode(rendered, add_special_tokens=False))

    def pair(self, prompt: str, response: str) -> Example:
        """Return a message and its answer, which ends as the chat template ends it; without one, with the model's
        first end token."""
        ids = tuple(self.tokenizer.encode(response, add_special_tokens=False))
        return Example(self.prompt(prompt), ids + self._closing)

    @cached_property
    def _closing(self) -> tuple[int, ...]:
        """The end token after an answer: of several that a model has, the one its template uses."""
        if self.template is None:
            return self.ends[:1]
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        rendered = self.template.render(turns, add_generation_prompt=False)
        ids = self.tokenizer.encode(rendered, add_special_tokens=False)
        return tuple(token for token in reversed(ids) if token in self.ends)[:1] or self.ends[:1]

    def windows(self, text: str, context: int) -> Iterator[Example]:
        """Yield a text's windows of at most `context` tokens; a last one of fewer than 2 is left out."""
        ids = self.tokenizer.encode(text, add_special_tokens=True)
        for start in range(0, len(ids), context):
            window = tuple(ids[start : start + context])
            if len(window) > 1:
                yield Example(window[:1], window[1:])


def split_reference(reference: str) -> tuple[Path, tuple[str, ...]]:
    """`FILE#FIELD` or `FILE#PROMPT,RESPONSE` → path and fields, () if none are named."""
    name, mark, fields = reference.rpartition("#")
    if not mark or Path(reference).exists():
        return Path(reference), ()
    named = tuple(field.strip() for field in fields.split(","))
    if not all(named) or len(named) > 2:
        raise EdgeSkipError(f"{reference}: after # name the field of the text, or those of prompt and response")
    return Path(name), named


def read_examples(
    references: Sequence[str],
    encoder: Encoder,
    context: int,
    too_long: Callable[[str, int], None] = lambda name, count: None,
) -> tuple[list[Example], tuple[CorpusFile, ...]]:
    """Return the examples of files `FILE`, `FILE#FIELD` or `FILE#PROMPT,RESPONSE`, and what the files are.

    .jsonl, .tsv and .csv hold records: of prompt and response, where two fields are named or found (prompt and
    response, prompt and completion, question and answer), else of text. Other files are one text each. Texts are cut
    into windows of `context` tokens, and a pair that is longer is left out: `too_long` is told the file's name and how
    many such it had. EdgeSkipError for a file that is missing,
    damaged or without the fields, or if no example is left.
    """
    examples: list[Example] = []
    files: list[CorpusFile] = []
    for reference in references:
        path, fields = split_reference(reference)
        data = _bytes(path)
        files.append(CorpusFile(name=path.name, sha256=hashlib.sha256(data).hexdigest()))
        found = [example for example in _examples(path, data, fields, encoder, context) if example.learned]
        examples += [example for example in found if len(example) <= context]
        if longer := sum(len(example) > context for example in found):
            too_long(path.name, longer)
    for example in examples:
        check_ids(example.ids, encoder.vocab_size, encoder.fast)
    if not examples:
        raise EdgeSkipError(
            f"{', '.join(references)}: no example fits into {context} tokens: raise --context or check the file"
        )
    return examples, tuple(files)


def read_prompts(references: Sequence[str]) -> tuple[list[str], tuple[CorpusFile, ...]]:
    """Return the prompts of files of records (`FILE#FIELD`) or lines, and what the files are."""
    prompts: list[str] = []
    files: list[CorpusFile] = []
    for reference in references:
        path, fields = split_reference(reference)
        data = _bytes(path)
        files.append(CorpusFile(name=path.name, sha256=hashlib.sha256(data).hexdigest()))
        if path.suffix in (".jsonl", ".tsv", ".csv"):
            for where, record in _records(path, data):
                prompts.append(text_of(record, fields[0] if fields else _only_field(record, where), where))
        else:
            prompts += [line for line in _decoded(path, data).splitlines() if line.strip()]
    return prompts, tuple(files)


def read_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place for messages, record) of every line of a .jsonl, .tsv or .csv file.

    Raises EdgeSkipError if it is damaged.
    """
    return _records(path, _bytes(path))


def _examples(path: Path, data: bytes, fields: tuple[str, ...], encoder: Encoder, context: int) -> Iterator[Example]:
    if path.suffix not in (".jsonl", ".tsv", ".csv"):
        yield from encoder.windows(_decoded(path, data), context)
        return
    for where, record in _records(path, data):
        if "response_ids" in record and "prompt_ids" in record and not fields:
            yield Example(_ids(record, "prompt_ids", encoder, where), _ids(record, "response_ids", encoder, where))
            continue
        pair = fields if len(fields) == 2 else next((p for p in _PAIRS if not fields and set(p) <= set(record)), None)
        if pair is not None:
            yield encoder.pair(text_of(record, pair[0], where), text_of(record, pair[1], where))
        else:
            name = fields[0] if fields else _only_field(record, where)
            yield from encoder.windows(text_of(record, name, where), context)


def _bytes(path: Path) -> bytes:
    try:
        return read_bounded(path)
    except FileNotFoundError:
        raise EdgeSkipError(f"data file {path} does not exist; name a text, .jsonl, .tsv or .csv file") from None
    except OSError as error:
        raise EdgeSkipError(f"cannot read the data file {path}: {error.strerror}") from None


def _decoded(path: Path, data: bytes) -> str:
    return decode_text(data, path)


def _records(path: Path, data: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place for messages, record) of every line."""
    text = _decoded(path, data)
    if path.suffix == ".jsonl":
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                record = parse_json(line, finite=False)
            except ValueError as error:
                raise EdgeSkipError(f"{where} is not JSON ({error}): one object per line") from None
            if not isinstance(record, dict):
                raise EdgeSkipError(f"{where} is not a JSON object")
            yield where, record
        return
    # A .tsv has no quoting: a quotation mark is text.
    if path.suffix == ".tsv":
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        for row in reader:
            yield f"{path}, line {reader.line_num}", dict(row)
    except csv.Error as error:
        raise EdgeSkipError(f"{path}, after line {reader.line_num}: {error}") from None


def _ids(record: dict[str, Any], field: str, encoder: Encoder, where: str) -> tuple[int, ...]:
    ids = record[field]
    if not (isinstance(ids, list) and all(type(i) is int and 0 <= i < encoder.vocab_size for i in ids)):
        raise EdgeSkipError(f"{where}: {field} are not token ids of this model, which has {encoder.vocab_size}")
    return tuple(ids)


def text_of(record: dict[str, Any], field: str, where: str) -> str:
    """Return the field's text; the first where it is a list of turns.

    EdgeSkipError, with the place, for one without.
    """
    value = record.get(field)
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        value = value[0]  # turns of a conversation: the first is the prompt
    if not isinstance(value, str):
        names = ", ".join(str(name) for name in record)
        raise EdgeSkipError(f"{where} has no text in the field {field!r}: its fields are {names}")
    return value


def _only_field(record: dict[str, Any], where: str) -> str:
    names = [str(name) for name, value in record.items() if isinstance(value, str)]
    if "text" in names:
        return "text"
    if "prompt" in names:
        return "prompt"
    if len(names) != 1:
        raise EdgeSkipError(
            f"{where} has the fields {', '.join(map(str, record))}: name one, as in FILE#{(names or ['text'])[0]}"
        )
    return names[0]

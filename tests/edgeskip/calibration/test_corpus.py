"""Corpora and windows. Oracle: the files as written here, and the tokenizer itself."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import BOS, tiny_tokenizer

from edgeskip.calibration.corpus import Corpus, corpus_named, cut, ids_of, read_corpus, start_tokens
from edgeskip.core.errors import EdgeSkipError

TOKENIZER = tiny_tokenizer()


def write(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def windows_of(corpus: Corpus, tokenizer: Any, **settings: int) -> list[list[int]]:
    return cut(ids_of(corpus, tokenizer), start_tokens(tokenizer), **settings)


def test_text_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffüber\n".encode())
    corpus = read_corpus([path])
    assert corpus.documents == ("über\n",)
    assert corpus.files[0].name == "a.txt"
    assert corpus.files[0].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_json_lines(tmp_path: Path) -> None:
    """A line separator inside a string (U+2028) is no end of line; a list of strings is one document."""
    path = write(tmp_path / "a.jsonl", {"q": "one\u2028two", "n": 1}, {"q": ["a", "b"]}, {"q": " "})
    assert read_corpus([path], "q").documents == ("one\u2028two", "a\nb")
    text = write(tmp_path / "b.jsonl", {"id": "7", "text": "x"})
    assert read_corpus([text, path][:1]).documents == ("x",)


@pytest.mark.parametrize(
    ("content", "field", "message"),
    [
        (b'{"a": "x", "b": "y"}', "c", "'c': its fields are a, b"),
        (b'{"a": "x", "b": "y"}', None, "--field"),
        (b'{"a": 1}', "a", "no text"),
        (b'{"a": "x"}\nnope', "a", "line 2 is not JSON"),
        (b"[1]", "a", "not a JSON object"),
        (b"\xff\xfe", "a", "not UTF-8"),
        (b"", "a", "empty"),
        (b'{"a": "  "}', "a", "empty"),
    ],
)
def test_bad_files(tmp_path: Path, content: bytes, field: str | None, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(EdgeSkipError, match=message):
        read_corpus([path], field)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(EdgeSkipError, match="corpus file"):
        read_corpus([tmp_path / "a.txt"])
    with pytest.raises(EdgeSkipError, match="cannot read"):
        read_corpus([tmp_path])


def test_windows_cover_the_text_in_order() -> None:
    corpus = Corpus(("The quick brown fox. " * 30, "A model reads tokens. " * 30), ())
    windows = windows_of(corpus, TOKENIZER, context=16, tokens=10**6, seed=0)
    everything = [i for document in corpus.documents for i in TOKENIZER.encode(document + "\n\n").ids]
    assert [i for window in windows for i in window] == everything[: len(everything) // 16 * 16]
    assert {len(window) for window in windows} == {16}


def test_seed_draws_from_all_over() -> None:
    corpus = Corpus(("The quick brown fox. A model reads tokens and writes them. " * 200,), ())
    drawn = [windows_of(corpus, TOKENIZER, context=16, tokens=80, seed=seed) for seed in (0, 0, 1)]
    assert len(drawn[0]) == 5
    assert drawn[0] == drawn[1] != drawn[2]
    every = windows_of(corpus, TOKENIZER, context=16, tokens=10**6, seed=0)
    assert all(window in every for window in drawn[2])


def test_start_token_opens_every_window() -> None:
    """A tokenizer that adds BOS by itself, as Llama's do."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer()
    tokenizer.post_processor = TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    windows = windows_of(Corpus(("abc " * 100,), ()), tokenizer, context=8, tokens=10**6, seed=0)
    assert all(len(window) == 8 and window[0] == 0 and 0 not in window[1:] for window in windows)


def test_shorter_than_a_window() -> None:
    """The message names the number of tokens and a --context that works."""
    corpus = Corpus(("abcdef",), ())
    count = len(TOKENIZER.encode("abcdef\n\n").ids)
    with pytest.raises(EdgeSkipError, match=rf"has {count} tokens.*--context {count}\b"):
        windows_of(corpus, TOKENIZER, context=64, tokens=64, seed=0)
    assert len(windows_of(corpus, TOKENIZER, context=count, tokens=64, seed=0)) == 1


def test_default_ships_with_the_package() -> None:
    corpus = corpus_named([])
    assert sum(map(len, corpus.documents)) > 20_000
    assert corpus.files[0].name.startswith("edgeskip:")

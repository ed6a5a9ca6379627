"""The tokenizer built from a GGUF file, against the original file, transformers, SentencePiece and textbook BPE.

Oracles: the sha256 of the `tokenizer.json` that the SmolLM2 checkpoint is published with; transformers' GPT-2 and
Qwen2 tokenizers built from the same vocabulary; Python's `regex` package with byte-pair encoding as Sennrich et al.
(https://arxiv.org/abs/1508.07909) describe it; the `sentencepiece` package.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import regex
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sentencepiece_models import bpe_model
from tokenizers import Tokenizer

from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.readers.gguf_tokenizer import RULES, build_tokenizer, tokenizer_config

# At huggingface's revision that `models/registry.py` pins, as the repository lists it.
PUBLISHED_TOKENIZER_SHA256 = "9ca9acddb6525a194ec8ac7a87f24fbba7232a9a15ffa1af0c1224fcd888e47c"

# Bytes that SmolLM2's vocabulary cannot spell and valid assigned text can contain.
UNSPELLABLE = "\x04\x06\x13\x14\x16\x1d"

TRICKY = [
    "",
    " ",
    "a",
    "0123456789 1,234.5e-6 0x1F ٣٤ ½ ² Ⅷ 二〇二六",
    "It's we'LL don't 'tis I'd've ’s",
    "def f(x):\n\treturn {k: v**2 for k, v in x.items()}  # ok\r\n\r\n\n",
    "  two  three   four    \t\ttabs \u00a0nbsp\u2003em\u3000wide ",
    "👩‍👩‍👧‍👦 👍🏽 🇫🇷 ❤️ 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "café cafe\u0301 Ångström A\u030angström ẛ̣ ñ",
    "漢字かな交じり文 한국어 ไทย हिन्दी العربية עברית",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|><|im_start|> <|im_end|",
    "<|endoftext|>mid<|endoftext|> <repo_name>x<file_sep>",
    "\x00\x01\x7f\x80\xad\u200b\ufeff\ufffd\U0010ffff",
    "e" * 3000 + " " * 500 + "12" * 700,
    "The quick brown fox jumps over the lazy dog. " * 200,
]

texts = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs", "Cn"], exclude_characters=UNSPELLABLE), max_size=20),
        st.sampled_from(
            [
                " ",
                "  ",
                "\n",
                "\r\n",
                "\t",
                "'s",
                "'LL",
                " 12",
                "3",
                "½",
                "é",
                "e\u0301",
                "👩‍👩‍👧",
                "<|im_end|>",
                "<|",
                "Ġ",
                "▁",
            ]
        ),
    ),
    max_size=12,
).map("".join)

many = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def bytes_as_characters() -> dict[int, str]:
    """GPT-2's table: printable Latin-1 stands for itself, the other bytes for U+0100 and up, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {byte: chr(byte) for byte in printable}
    others = [byte for byte in range(256) if byte not in table]
    return table | {byte: chr(0x100 + n) for n, byte in enumerate(others)}


class TextbookBpe:
    """Byte-pair encoding with nothing clever: merge the earliest-learnt pair until there is none."""

    def __init__(self, metadata: Mapping[str, Any], words: Callable[[str], list[str]], whole_words: bool) -> None:
        tokens = metadata["tokenizer.ggml.tokens"]
        self.ids = {token: index for index, token in enumerate(tokens)}
        self.ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(metadata["tokenizer.ggml.merges"])}
        control = [t for t, kind in zip(tokens, metadata["tokenizer.ggml.token_type"], strict=True) if kind == 3]
        self.control = set(control)
        self.cut = regex.compile("(" + "|".join(regex.escape(t) for t in sorted(control, key=len, reverse=True)) + ")")
        self.words, self.whole_words = words, whole_words
        self.table = bytes_as_characters()

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for span in self.cut.split(text):
            if span in self.control:
                ids.append(self.ids[span])
                continue
            for word in self.words(span):
                ids += self.encode_word("".join(self.table[byte] for byte in word.encode()))
        return ids

    def encode_word(self, word: str) -> list[int]:
        if self.whole_words and word in self.ids:
            return [self.ids[word]]
        symbols = [symbol for symbol in word if symbol in self.ids]
        while len(symbols) > 1:
            pairs = [(self.ranks.get(pair, len(self.ranks)), at) for at, pair in enumerate(zip(symbols, symbols[1:]))]  # noqa: B905, RUF007
            rank, at = min(pairs)
            if rank == len(self.ranks):
                break
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        return [self.ids[symbol] for symbol in symbols]


GPT2_WORDS = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
LLAMA3_WORDS = regex.compile(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN_WORDS = regex.compile(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def smollm_words(text: str) -> list[str]:
    """Every numeric character alone, GPT-2's words in between."""
    return [word for span in regex.split(r"(\p{N})", text) for word in GPT2_WORDS.findall(span)]


@pytest.fixture(scope="module")
def metadata(smollm2_gguf: Path) -> dict[str, Any]:
    """The default model's metadata, as the gguf package reads it."""
    import gguf

    reader = gguf.GGUFReader(smollm2_gguf)
    wanted = ("tokenizer.", "general.architecture", "llama.context_length")
    return {key: field.contents() for key, field in reader.fields.items() if key.startswith(wanted)}


@pytest.fixture(scope="module")
def tokenizer(metadata: dict[str, Any]) -> Tokenizer:
    return build_tokenizer(metadata)


@pytest.fixture(scope="module")
def textbook(metadata: dict[str, Any]) -> TextbookBpe:
    return TextbookBpe(metadata, smollm_words, whole_words=False)


def test_is_the_published_file_to_the_byte(tokenizer: Tokenizer) -> None:
    """Oracle: the sha256 of SmolLM2-135M-Instruct's own tokenizer.json (which writes a merge as one string)."""
    content = json.loads(tokenizer.to_str())
    content["model"]["merges"] = [" ".join(merge) for merge in content["model"]["merges"]]
    written = json.dumps(content, indent=2, ensure_ascii=False).encode()
    assert hashlib.sha256(written).hexdigest() == PUBLISHED_TOKENIZER_SHA256


@pytest.mark.parametrize("text", TRICKY)
def test_tricky_text_is_textbook_bpe(tokenizer: Tokenizer, textbook: TextbookBpe, text: str) -> None:
    assert tokenizer.encode(text).ids == textbook.encode(text)


@many
@given(text=texts)
@example(text=" ½ ²3")
def test_any_text_is_textbook_bpe(tokenizer: Tokenizer, textbook: TextbookBpe, text: str) -> None:
    assert tokenizer.encode(text).ids == textbook.encode(text)


@many
@given(text=texts)
def test_decoding_returns_the_text(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("text", TRICKY)
def test_decoding_returns_tricky_text(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_bytes_outside_the_vocabulary_are_dropped(tokenizer: Tokenizer) -> None:
    """As the published tokenizer and llama.cpp do: the vocabulary has neither such a byte nor an unknown token."""
    assert tokenizer.encode(UNSPELLABLE).ids == []
    assert tokenizer.encode("a\x04b").ids == tokenizer.encode("a").ids + tokenizer.encode("b").ids


def test_control_tokens_vanish_from_decoded_text_when_asked(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("<|im_start|>user\nhi<|im_end|>").ids
    assert ids[0] == 1
    assert ids[-1] == 2
    assert tokenizer.decode(ids) == "user\nhi"


@pytest.mark.parametrize(
    ("pre", "words", "whole_words"),
    [
        ("llama-bpe", LLAMA3_WORDS.findall, True),
        ("smaug-bpe", LLAMA3_WORDS.findall, False),
        ("tekken", TEKKEN_WORDS.findall, True),
        ("gpt-2", GPT2_WORDS.findall, False),
        ("starcoder", smollm_words, False),
    ],
)
def test_other_pre_tokenizers_are_textbook_bpe(
    metadata: dict[str, Any], pre: str, words: Callable[[str], list[str]], whole_words: bool
) -> None:
    """Oracle: the expressions in the published tokenizer.json files, run by the regex package."""
    settled = metadata | {"tokenizer.ggml.pre": pre, "tokenizer.ggml.add_bos_token": False}
    tokenizer, textbook = build_tokenizer(settled), TextbookBpe(settled, words, whole_words)
    for text in TRICKY:
        assert tokenizer.encode(text).ids == textbook.encode(text), text


def default_words(text: str) -> list[str]:
    """llama.cpp's rule for files without a name: each expression cuts what the one before it left."""
    spans = [text]
    for pattern in (r"([\p{P}\$\+<=>\^~\|]+)", None, r"(\p{N}+)", r"([0-9][0-9][0-9])"):
        if pattern is None:
            spans = [word for span in spans for word in GPT2_WORDS.findall(span)]
        else:
            spans = [part for span in spans for part in regex.split(pattern, span) if part]
    return spans


def test_file_that_names_no_pre_tokenizer(metadata: dict[str, Any]) -> None:
    """Oracle: llama.cpp's expressions, run by the regex package."""
    unnamed = {key: value for key, value in metadata.items() if key != "tokenizer.ggml.pre"}
    tokenizer, textbook = build_tokenizer(unnamed), TextbookBpe(unnamed, default_words, whole_words=False)
    for text in TRICKY:
        assert tokenizer.encode(text).ids == textbook.encode(text), text


def transformers_tokenizer(name: str, metadata: Mapping[str, Any], folder: Path) -> Any:
    """A named tokenizer class of transformers, built by its own rules from a vocabulary and merges."""
    import transformers

    vocabulary = {token: index for index, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    merges = metadata["tokenizer.ggml.merges"]
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    specials = [t for t, kind in zip(vocabulary, metadata["tokenizer.ggml.token_type"], strict=True) if kind == 3]
    fast = getattr(transformers, f"{name}Fast")
    # Read from the files where the class does (transformers 4), from memory where it does that (5).
    if "vocab" in inspect.signature(fast.__init__).parameters:
        made = fast(vocab=vocabulary, merges=[tuple(merge.split(" ")) for merge in merges])
    else:
        made = fast(vocab_file=str(folder / "vocab.json"), merges_file=str(folder / "merges.txt"))
    made.add_special_tokens({"additional_special_tokens": specials})
    return made


@pytest.mark.parametrize(("pre", "name"), [("gpt-2", "GPT2Tokenizer"), ("qwen2", "Qwen2Tokenizer")])
def test_equals_transformers_own_class(metadata: dict[str, Any], tmp_path: Path, pre: str, name: str) -> None:
    ours = build_tokenizer(metadata | {"tokenizer.ggml.pre": pre})
    theirs = transformers_tokenizer(name, metadata, tmp_path)
    for text in TRICKY:
        ids = ours.encode(text).ids
        assert ids == theirs(text)["input_ids"], text
        assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids), text


def test_llama3_expression_is_transformers_converters() -> None:
    from transformers.convert_slow_tokenizer import TikTokenConverter

    published = inspect.signature(TikTokenConverter.__init__).parameters["pattern"].default
    assert RULES["llama-bpe"].patterns == (published,)


@pytest.mark.parametrize(
    ("model_type", "pre", "bos"),
    [
        ("llama", "smollm", False),
        ("llama", "llama-bpe", True),
        ("mistral", "tekken", True),
        ("qwen2", "qwen2", False),
        ("qwen3", "qwen2", False),
        ("smollm3", "llama-bpe", False),
    ],
)
def test_transformers_loads_what_is_written(
    metadata: dict[str, Any], tmp_path: Path, model_type: str, pre: str, bos: bool
) -> None:
    """AutoTokenizer must keep the file's rules, whatever class it knows for the model type."""
    from transformers import AutoTokenizer

    metadata = metadata | {"tokenizer.ggml.pre": pre, "tokenizer.ggml.add_bos_token": bos}
    ours = build_tokenizer(metadata)
    ours.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(metadata)), encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in TRICKY:
        ids = ours.encode(text).ids
        assert loaded(text)["input_ids"] == ids, text
        assert loaded.decode(ids) == ours.decode(ids, skip_special_tokens=False)
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id, loaded.unk_token_id) == (1, 2, 2, 0)
    assert len(loaded) == 49152
    assert loaded.model_max_length == 8192
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi 42"}]
    text = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi 42<|im_end|>\n<|im_start|>assistant\n"
    assert loaded.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) == text


def test_beginning_and_end_are_added_where_the_file_says_so(metadata: dict[str, Any]) -> None:
    plain = build_tokenizer(metadata).encode("Hi").ids
    both = build_tokenizer(metadata | {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True})
    assert both.encode("Hi").ids == [1, *plain, 2]
    assert both.encode("Hi", "Hi").ids == [1, *plain, 2, 1, *plain, 2]
    assert both.encode("Hi", add_special_tokens=False).ids == plain
    unsaid = {k: v for k, v in metadata.items() if k != "tokenizer.ggml.add_bos_token"}
    assert build_tokenizer(unsaid).encode("Hi").ids == plain
    assert not tokenizer_config(unsaid)["add_bos_token"]
    llama3 = unsaid | {"tokenizer.ggml.pre": "llama-bpe"}  # llama.cpp adds BOS to this kind
    assert build_tokenizer(llama3).encode("Hi").ids == [1, *plain]
    assert tokenizer_config(llama3)["add_bos_token"]


def test_user_defined_tokens_are_found_and_not_special() -> None:
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": ["a", "b", "ab", "<tool>"],
        "tokenizer.ggml.token_type": [1, 1, 1, 4],
        "tokenizer.ggml.merges": ["a b"],
    }
    tokenizer = build_tokenizer(metadata)
    assert tokenizer.encode("ab<tool>b").ids == [2, 3, 1]
    assert tokenizer.decode([2, 3, 1]) == "ab<tool>b"
    assert tokenizer_config(metadata)["added_tokens_decoder"]["3"]["special"] is False


@pytest.fixture(scope="module")
def sentencepiece_model() -> Any:
    """A SentencePiece BPE model with byte fallback, trained on this file."""
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_proto=bpe_model([Path(__file__).read_text(encoding="utf-8")]))


def sentencepiece_metadata(model: Any) -> dict[str, Any]:
    """What llama.cpp's converter writes for a SentencePiece model."""
    count = range(model.get_piece_size())
    kinds = {2: model.is_unknown, 3: model.is_control, 5: model.is_unused, 6: model.is_byte}
    types = [next((kind for kind, is_one in kinds.items() if is_one(i)), 1) for i in count]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [model.id_to_piece(i) for i in count],
        "tokenizer.ggml.scores": [model.get_score(i) for i in count],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": model.bos_id(),
        "tokenizer.ggml.eos_token_id": model.eos_id(),
        "tokenizer.ggml.unknown_token_id": model.unk_id(),
    }


@many
@given(text=texts)
def test_sentencepiece_vocabulary_encodes_as_sentencepiece(sentencepiece_model: Any, text: str) -> None:
    """Oracle: the sentencepiece package on the model the metadata was taken from."""
    tokenizer = build_tokenizer(sentencepiece_metadata(sentencepiece_model))
    text = text.replace("▁", "_").replace("\x00", "")  # SentencePiece's own space sign comes back as a space
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert ids == sentencepiece_model.encode(text)
    assert tokenizer.decode(ids) == text


def test_sentencepiece_begins_with_bos_and_a_space(sentencepiece_model: Any) -> None:
    metadata = sentencepiece_metadata(sentencepiece_model)
    assert build_tokenizer(metadata).encode("import").tokens[:2] == ["<s>", "▁import"]
    bare = build_tokenizer(metadata | {"tokenizer.ggml.add_space_prefix": False})
    assert bare.encode("import").tokens[1] != "▁import"
    assert bare.decode(bare.encode(" import x").ids) == " import x"


def broken(**changes: Any) -> dict[str, Any]:
    small = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": ["a", "b", "ab"],
        "tokenizer.ggml.merges": ["a b"],
    }
    return small | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (broken(model="bert"), r"kind 'bert'; supported: 'gpt2'.*'llama'"),
        ({}, "kind None"),
        (broken(pre="kimi-k2"), r"pre-tokenizer is 'kimi-k2'; supported: .*smollm"),
        (broken(tokens=None), "no vocabulary"),
        (broken(tokens=["a", "b", "a"]), "'a' twice"),
        (broken(token_type=[1, 1]), "3 tokens but 2 token types"),
        (broken(merges=None), "no merges"),
        (broken(merges=["ab"]), "not two tokens"),
        (broken(merges=["a x"]), "do not fit"),
        (broken(bos_token_id=9, add_bos_token=True), "bos_token_id 9 is outside"),
        (broken(add_bos_token=True), "wants a BOS token"),
        (broken(model="llama", scores=[0.0]), "no score for every piece"),
        (
            broken(model="llama", scores=["a", "b", "c"]),
            r"ggml\.scores is \['a', 'b', 'c'\], expected a list",
        ),
        (broken(model="llama", scores=[0.0, math.nan, 0.0]), "no score for every piece"),
        (broken(model="llama", scores=0.0), r"ggml\.scores is 0\.0, expected a list"),
        (broken(model="llama", scores=[0.0] * 3, add_space_prefix="no"), "add_space_prefix is 'no', expected true"),
        (broken(model=["gpt2"]), r"kind \['gpt2'\]"),
        (broken(pre=["gpt-2"]), r"pre-tokenizer is \['gpt-2'\]"),
        (broken(pre=7), "pre-tokenizer is 7"),
        (broken(tokens=7), r"ggml\.tokens is 7, expected a list of texts"),
        (broken(tokens="abc"), r"ggml\.tokens is 'abc', expected a list of texts"),
        (broken(tokens=[1, 2, 3]), r"ggml\.tokens is \[1, 2, 3\], expected a list of texts"),
        (broken(tokens=[True, False]), "expected a list of texts"),
        (broken(tokens=[]), "no vocabulary"),
        (broken(token_type=3), r"ggml\.token_type is 3, expected a list of whole numbers"),
        (broken(token_type="abc"), "expected a list of whole numbers"),
        (broken(token_type=["1", "1", "1"]), "expected a list of whole numbers"),
        (broken(token_type=[1.0, 1.0, math.nan]), "expected a list of whole numbers"),
        (broken(token_type=[True, True, True]), "expected a list of whole numbers"),
        (broken(merges=7), r"ggml\.merges is 7, expected a list of texts"),
        (broken(merges=[1, 2]), r"ggml\.merges is \[1, 2\], expected a list of texts"),
        (broken(merges="a b"), "expected a list of texts"),
        (broken(bos_token_id="x"), "bos_token_id is 'x', expected the number of a token"),
        (broken(bos_token_id=[0], add_bos_token=True), "bos_token_id is"),
        (broken(bos_token_id=1.5, add_bos_token=True), "bos_token_id is 1.5"),
        (broken(bos_token_id=True, add_bos_token=True), "bos_token_id is True"),
        (broken(eos_token_id=-1, add_eos_token=True), "eos_token_id -1 is outside"),
        (broken(add_bos_token="yes"), "add_bos_token is 'yes', expected true or false"),
        (broken(add_eos_token=[True]), "add_eos_token is"),
    ],
)
def test_bad_metadata_is_one_clear_line(metadata: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgeSkipError, match=message) as caught:
        build_tokenizer(metadata)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer.chat_template": ["a"]}, "chat_template is"),
        ({"tokenizer.chat_template": 7}, "chat_template is 7, expected a text"),
        ({"tokenizer.ggml.padding_token_id": "x"}, "padding_token_id is 'x'"),
        ({"tokenizer.ggml.unknown_token_id": 99}, "unknown_token_id 99 is outside"),
    ],
)
def test_what_only_the_config_reads(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgeSkipError, match=message):
        tokenizer_config(broken() | changes)


def test_a_context_length_that_is_no_number_is_left_out() -> None:
    keys = broken() | {"general.architecture": "llama", "llama.context_length": [1]}
    assert "model_max_length" not in tokenizer_config(keys)

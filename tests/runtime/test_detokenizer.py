"""Tokens to text against `tokenizers`' own decoding, and stop strings against str.find."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.detokenizer import StopStrings, TextDecoder, TextTokenizer

TRICKY = "Hello, wörld!  two  spaces\n\ttabs 1234567 你好世界 😀👩‍👩‍👧 naïve café \u00a0nbsp {}[] x=1;\r\n"


def byte_level(folder: Path) -> TextTokenizer:
    """A byte-level BPE, as of GPT-2, Llama 3, Qwen and SmolLM, trained so little that characters span tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TRICKY], trainer)
    tokenizer.add_tokens([AddedToken("<tool call>", special=False)])
    return save(tokenizer, folder)


def sentencepiece(folder: Path) -> TextTokenizer:
    """A BPE with byte fallback and ▁ for the space, as Llama 2 and Mistral have it."""
    words = ["▁", "▁He", "llo", "▁wor", "ld", ",", "l", "o", "H", "e", "w", "r", "d", "!", "▁▁", "ö"]
    vocab = {"<unk>": 0, "</s>": 1} | {f"<0x{byte:02X}>": byte + 2 for byte in range(256)}
    vocab |= {word: 258 + index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "</s>"])
    return save(tokenizer, folder)


def save(tokenizer: Tokenizer, folder: Path) -> TextTokenizer:
    tokenizer.save(str(folder / "tokenizer.json"))
    return TextTokenizer(folder)


def streamed(tokenizer: TextTokenizer, ids: list[int]) -> str:
    decoder = TextDecoder(tokenizer)
    return "".join(decoder.push(token) for token in ids)


@pytest.mark.parametrize("make", [byte_level, sentencepiece])
def test_streamed_text_is_the_text(tmp_path: Path, make: Any) -> None:
    """Oracle: the text that was encoded, and tokenizers' decode of all tokens at once."""
    tokenizer = make(tmp_path)
    ids = tokenizer.encode(TRICKY, add_special_tokens=False)
    assert streamed(tokenizer, ids) == TRICKY
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).decode(ids) == TRICKY


@pytest.mark.parametrize("make", [byte_level, sentencepiece])
def test_no_piece_holds_half_a_character(tmp_path: Path, make: Any) -> None:
    """By hand: 😀 is four bytes in four tokens; nothing shows until the fourth, then all of it."""
    tokenizer = make(tmp_path)
    ids = tokenizer.encode("é😀", add_special_tokens=False)
    decoder = TextDecoder(tokenizer)
    pieces = [decoder.push(token) for token in ids]
    assert "".join(pieces) == "é😀"
    assert len(ids) > len([piece for piece in pieces if piece])
    assert not any("\ufffd" in piece for piece in pieces)


def test_random_byte_level_tokens_decode_as_tokenizers_does(tmp_path: Path) -> None:
    """Oracle: tokenizers' decode of random ids, invalid UTF-8 included; an unfinished last character is left out."""
    tokenizer = byte_level(tmp_path)
    oracle = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    rng = random.Random(5)
    for _ in range(300):
        ids = [rng.randrange(oracle.get_vocab_size()) for _ in range(rng.randrange(1, 30))]
        ids.append(oracle.token_to_id("A"))  # completes or ends whatever was pending
        assert streamed(tokenizer, ids) == oracle.decode(ids)


def test_special_tokens_are_silent_and_added_ones_are_not(tmp_path: Path) -> None:
    """By hand."""
    tokenizer = byte_level(tmp_path)
    ids = tokenizer.encode("a<|end|><tool call>b", add_special_tokens=False)
    assert tokenizer.token_id("<|end|>") in ids
    assert streamed(tokenizer, ids) == "a<tool call>b"
    assert tokenizer.piece(10**6) == b""


def test_sentencepiece_keeps_the_space_that_continues_a_text(tmp_path: Path) -> None:
    """By hand: after a prompt's word the space is the text's; after an end token, or nothing, it is SentencePiece's."""
    tokenizer = sentencepiece(tmp_path)
    token = tokenizer.token_id("▁He")
    word, end = tokenizer.token_id("ld"), tokenizer.token_id("</s>")
    assert token is not None
    assert word is not None
    assert end is not None
    assert TextDecoder(tokenizer, [word]).push(token) == " He"
    assert TextDecoder(tokenizer, [end]).push(token) == "He"
    assert TextDecoder(tokenizer).push(token) == "He"


def test_bos_is_added_where_the_model_has_one(tmp_path: Path) -> None:
    """By hand."""
    byte_level(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    end = tokenizer.token_to_id("<|end|>")
    tokenizer.post_processor = processors.TemplateProcessing("<|end|> $A", None, [("<|end|>", end)])
    loaded = save(tokenizer, tmp_path)
    assert loaded.encode("a", add_special_tokens=True)[0] == end
    assert end not in loaded.encode("a", add_special_tokens=False)


@given(
    text=st.text(alphabet="ab", max_size=30),
    stops=st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(1, 5), max_size=30),
)
def test_stop_strings_cut_where_find_says(text: str, stops: list[str], cuts: list[int]) -> None:
    """Oracle: str.find over the text shown token by token: the earliest stop whose last character has come."""
    filter_ = StopStrings(stops)
    shown, position, seen = "", 0, ""
    for cut in [*cuts, len(text)]:
        piece = text[position : position + cut]
        position += cut
        seen += piece
        shown += filter_.push(piece)
        starts = [start for stop in stops if (start := seen.find(stop)) >= 0]
        assert filter_.found == bool(starts)
        if starts:
            assert shown == seen[: min(starts)]
            assert filter_.push("more") + filter_.finish() == ""
            return
        assert seen.startswith(shown)
    assert shown + filter_.finish() == seen


def test_only_what_may_begin_a_stop_string_is_held_back() -> None:
    """By hand."""
    stops = StopStrings(["\nUser:"])
    assert [stops.push(piece) for piece in ("Hi", "\n", "Us", "ual\nU")] == ["Hi", "", "", "\nUsual"]
    assert stops.finish() == "\nU"
    with pytest.raises(EdgeSkipError, match="empty"):
        StopStrings([""])


def test_damaged_tokenizers_are_refused(tmp_path: Path) -> None:
    """By hand: missing and cut short."""
    with pytest.raises(EdgeSkipError, match=r"no tokenizer\.json"):
        TextTokenizer(tmp_path)
    byte_level(tmp_path)
    path = tmp_path / "tokenizer.json"
    whole = path.read_text(encoding="utf-8")
    for damaged in (whole[:500], "[]", '{"decoder": {"type": "ByteLevel"}}', ""):
        path.write_text(damaged, encoding="utf-8")
        with pytest.raises(EdgeSkipError, match="damaged"):
            TextTokenizer(tmp_path)


WORDS = [
    "[UNK]",
    "</s>",
    "▁the",
    "▁",
    "▁▁",
    "mill",
    "##s",
    "##ing",
    "run",
    "end</w>",
    ".",
    ",",
    "<pad>",
    "|",
    "'",
    "s",
    "a  b",
]
DECODERS = {
    "WordPiece": decoders.WordPiece(),
    "WordPiece without clean-up": decoders.WordPiece(cleanup=False),
    "CTC": decoders.CTC(),
    "BPE": decoders.BPEDecoder(),
    "Metaspace always": decoders.Metaspace(),
    "Metaspace first": decoders.Metaspace(prepend_scheme="first"),
    "Metaspace never": decoders.Metaspace(prepend_scheme="never"),
    "Replace by a regex": decoders.Replace(Regex("▁+"), " "),
    "regex in a sequence": decoders.Sequence([decoders.Replace(Regex("▁"), " "), decoders.Fuse()]),
    "Strip of every token": decoders.Sequence([decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)]),
    "two replacements": decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Replace("mill", "MILL"), decoders.Fuse()]
    ),
    "ByteLevel and more": decoders.Sequence([decoders.ByteLevel(), decoders.Replace("s", "S")]),
    "none": None,
}


@pytest.mark.parametrize("kind", DECODERS)
def test_every_kind_of_decoder_streams_what_the_library_decodes(kind: str, tmp_path: Path) -> None:
    """Oracle: the tokenizers library over whole texts. Words are followed by a plain one: only a decoder that looks at
    what comes after the last token may hold something back."""
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    if DECODERS[kind] is not None:
        tokenizer.decoder = DECODERS[kind]
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.add_tokens(["a  b"])
    ours = save(tokenizer, tmp_path)
    rng = random.Random(0)
    for _ in range(200):
        ids = [rng.randrange(len(WORDS)) for _ in range(rng.randrange(1, 12))]
        assert streamed(ours, ids) == tokenizer.decode(ids), ids


def test_half_a_surrogate_pair_is_no_token(tmp_path: Path) -> None:
    """By hand: JSON can write one, no vocabulary holds one."""
    assert byte_level(tmp_path).token_id("\ud800") is None

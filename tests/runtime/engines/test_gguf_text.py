"""llama.cpp's tokenizer behind ours against `tokenizers`, and our own rebuilding of a GGUF's vocabulary."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from raw_llamacpp import outcomes
from talking_gguf import byte_level_metadata, talking_gguf
from tiny_models import BOS, END, tiny_tokenizer

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.detokenizer import TextDecoder
from edgeskip.runtime.engines.llamacpp.model import LlamaModel
from edgeskip.runtime.engines.llamacpp.text import GgufTokenizer, gguf_chat_template

TRICKY = (
    "Hello, wörld!  two  spaces\n\ttabs 1234567 你好世界 😀👩‍👩‍👧 naïve café \u00a0nbsp {}[] x=1;\r\n"
    f"{BOS}user\nhi{END}\n don't 'tis WE'LL  \x00 ½ ² end "
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> GgufTokenizer:
    return GgufTokenizer(LlamaModel(talking_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")[0]))


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path) -> GgufTokenizer:
    return GgufTokenizer(LlamaModel(smollm2_gguf))


def sentencepiece_metadata() -> dict[str, Any]:
    """A SentencePiece vocabulary as Llama 2 has it: scores, byte pieces, a dummy space before the text."""
    words = ["▁", "▁He", "▁H", "llo", "ll", "▁wor", "▁w", "or", "ld", "He", *"lloHewrd!,", "▁▁", "ö"]
    words = list(dict.fromkeys(words))
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": None,
        "tokenizer.ggml.merges": None,
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *pieces, *words],
        "tokenizer.ggml.scores": [0.0] * (3 + len(pieces)) + [-float(rank + 1) for rank in range(len(words))],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * len(pieces) + [1] * len(words),
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ unk_token }}",
    }


@pytest.fixture(scope="module")
def spaced(tmp_path_factory: pytest.TempPathFactory) -> GgufTokenizer:
    path = tmp_path_factory.mktemp("gguf") / "spm.gguf"
    return GgufTokenizer(LlamaModel(talking_gguf(path, sentencepiece_metadata())[0]))


def streamed(tokenizer: GgufTokenizer, ids: list[int]) -> str:
    decoder = TextDecoder(tokenizer)
    return "".join(map(decoder.push, ids))


def test_ids_are_those_of_tokenizers(tiny: GgufTokenizer) -> None:
    """Oracle: the `tokenizers` object the file was written from; special tokens in the text are found."""
    oracle = tiny_tokenizer()
    assert tiny.encode(TRICKY, add_special_tokens=False) == oracle.encode(TRICKY).ids
    assert tiny.encode("", add_special_tokens=True) == []
    for token in (BOS, END, "Ġthe", "absent"):
        assert tiny.token_id(token) == oracle.token_to_id(token)


def test_the_real_vocabulary_as_our_exporter_rebuilds_it(smollm2: GgufTokenizer, smollm2_gguf: Path) -> None:
    """Oracle: exporters/families' tokenizer, which is proved against the published one."""
    from gguf import GGUFReader

    from edgeskip.models.readers.gguf_tokenizer import build_tokenizer

    oracle = build_tokenizer({name: field.contents() for name, field in GGUFReader(smollm2_gguf).fields.items()})
    text = TRICKY.replace("\x00", "") + "<|endoftext|> def f(x):\n\treturn 0x1F  # ok"
    ids = smollm2.encode(text, add_special_tokens=False)
    assert ids == oracle.encode(text, add_special_tokens=False).ids
    assert streamed(smollm2, ids) == oracle.decode(ids, skip_special_tokens=True)
    assert streamed(smollm2, ids) == text.replace(BOS, "").replace(END, "").replace("<|endoftext|>", "")


def test_streamed_text_is_the_text(tiny: GgufTokenizer, spaced: GgufTokenizer) -> None:
    """Oracle: the text that was encoded; characters that span tokens included."""
    plain = TRICKY.replace(BOS, "").replace(END, "")
    assert streamed(tiny, tiny.encode(plain, add_special_tokens=False)) == plain
    assert streamed(spaced, spaced.encode("Hello wörld! 😀", add_special_tokens=False)) == "Hello wörld! 😀"


def test_random_tokens_decode_as_tokenizers_does(tiny: GgufTokenizer) -> None:
    """Oracle: `tokenizers`' decode of random ids, invalid UTF-8 and special tokens included."""
    oracle = tiny_tokenizer()
    rng = random.Random(5)
    for _ in range(200):
        ids = [rng.randrange(oracle.get_vocab_size()) for _ in range(rng.randrange(1, 30))]
        ids.append(oracle.token_to_id("A"))  # completes or ends whatever was pending
        assert streamed(tiny, ids) == oracle.decode(ids)


def test_special_tokens_are_silent(tiny: GgufTokenizer) -> None:
    """By hand: control tokens and ids outside the vocabulary show nothing."""
    assert tiny.is_special(0)
    assert tiny.is_special(1)
    assert not tiny.is_special(2)
    for outside in (-1, 10**6):
        assert not tiny.is_special(outside)
        assert tiny.piece(outside) == b""
        assert tiny.text_of(outside) is None
    assert tiny.piece(0) == b""


def test_tokens_that_users_defined_show_their_text(tmp_path: Path) -> None:
    """By hand: type 4 is found in the text as a control token is, and is text; longer than the first buffer."""
    keys = byte_level_metadata()
    long = "<tool call " + "x" * 200 + ">"
    keys["tokenizer.ggml.tokens"] = [*keys["tokenizer.ggml.tokens"], long]
    keys["tokenizer.ggml.token_type"] = [*keys["tokenizer.ggml.token_type"], 4]
    tokenizer = GgufTokenizer(LlamaModel(talking_gguf(tmp_path / "tool.gguf", keys)[0]))
    ids = tokenizer.encode(f"a{long}b", add_special_tokens=False)
    assert len(ids) == 3
    assert streamed(tokenizer, ids) == f"a{long}b"


def test_bos_is_added_where_the_file_says_so(spaced: GgufTokenizer) -> None:
    """By hand."""
    assert spaced.encode("Hello", add_special_tokens=True)[0] == 1
    assert 1 not in spaced.encode("Hello", add_special_tokens=False)


def test_the_dummy_space_is_sentencepieces(spaced: GgufTokenizer, tiny: GgufTokenizer, tmp_path: Path) -> None:
    """By hand: a text's first token loses it, one that goes on after a word keeps it; the file may say otherwise."""
    he, ld = spaced.token_id("▁He"), spaced.token_id("ld")
    assert he is not None
    assert ld is not None
    assert TextDecoder(spaced).push(he) == "He"
    assert TextDecoder(spaced, [ld]).push(he) == " He"
    assert TextDecoder(spaced, [2]).push(he) == "He"
    assert spaced.strips_first_space
    assert not tiny.strips_first_space
    keys = {**sentencepiece_metadata(), "tokenizer.ggml.add_space_prefix": False}
    stated = GgufTokenizer(LlamaModel(talking_gguf(tmp_path / "spm.gguf", keys)[0]))
    assert not stated.strips_first_space


def test_every_end_of_generation_token_ends_a_text(smollm2: GgufTokenizer, tiny: GgufTokenizer) -> None:
    """By hand: SmolLM2's <|im_end|> and <|endoftext|>, and <file_sep>-like ends that llama.cpp knows by name."""
    assert tiny.end_tokens == {1}
    assert {smollm2.token_id("<|im_end|>"), smollm2.token_id("<|endoftext|>")} <= smollm2.end_tokens
    assert all(smollm2.is_special(token) for token in smollm2.end_tokens)


def test_the_chat_template_knows_the_special_tokens(spaced: GgufTokenizer, tmp_path: Path) -> None:
    """By hand, from the templates above and in tiny_models."""
    template = gguf_chat_template(spaced._model, spaced)
    assert template is not None
    assert template.render([{"role": "user", "content": "hey"}]) == "<s>hey</s><unk>"
    keys = {"tokenizer.chat_template": None}
    model = LlamaModel(talking_gguf(tmp_path / "plain.gguf", keys)[0])
    assert gguf_chat_template(model, GgufTokenizer(model)) is None


def test_a_closed_model_says_so(tmp_path: Path) -> None:
    """By hand: llama.cpp would read freed memory."""
    model = LlamaModel(talking_gguf(tmp_path / "tiny.gguf")[0])
    tokenizer = GgufTokenizer(model)
    model.close()
    with pytest.raises(EdgeSkipError, match="closed"):
        tokenizer.encode("a", add_special_tokens=False)
    with pytest.raises(EdgeSkipError, match="closed"):
        tokenizer.piece(5)


@pytest.mark.parametrize("pre", ["default", "tekken", "gpt-4o", "deepseek-llm"])
@pytest.mark.parametrize("text", ["a", "!", "9", " ", "\n", "aA", "漢"])
def test_a_long_run_of_one_kind_of_characters(pre: str, text: str, tmp_path: Path) -> None:
    """llama.cpp cuts text by std::regex, which recurses for each character: 200,000 end a process with the usual stack
    (8 MB) by SIGSEGV. Oracle: the text itself, which the tokens' bytes spell; in a process of its own."""
    path = talking_gguf(tmp_path / "x.gguf", {"tokenizer.ggml.pre": pre}, hidden_size=32)[0]
    code = f"""
from pathlib import Path
from edgeskip.runtime.engines.llamacpp.model import LlamaModel
from edgeskip.runtime.engines.llamacpp.text import GgufTokenizer

tokenizer = GgufTokenizer(LlamaModel(Path({str(path)!r}), tried=True))
text = {text!r} * 200_000
tokens = tokenizer.encode(text, add_special_tokens=False)
assert b"".join(map(tokenizer.piece, tokens)).decode() == text
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]


def test_a_character_that_a_vocabulary_has_no_bytes_for(tmp_path: Path) -> None:
    """Oracle: llama.cpp by itself, whose C++ exception nothing catches: SIGABRT."""
    tokens = ["<unk>", "<s>", "</s>", *"▁abcdefgh", "é"]
    keys = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": None,
        "tokenizer.ggml.merges": None,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [-1.0] * len(tokens),
        "tokenizer.ggml.token_type": [2, 3, 3, *[1] * (len(tokens) - 3)],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    path = talking_gguf(tmp_path / "x.gguf", keys)[0]
    assert outcomes([path]) == ["SIGABRT"]  # its text has other characters
    tokenizer = GgufTokenizer(LlamaModel(path))
    assert tokenizer.encode("abé a", add_special_tokens=False) == [3, 4, 5, 12, 3, 4]
    for text in ("x", "a🙂", "a\nb"):
        with pytest.raises(EdgeSkipError, match="cannot write"):
            tokenizer.encode(text, add_special_tokens=False)

"""Vocabularies of Hugging Face folders in llama.cpp. Oracle: llama.cpp's own tokenizer, id for id, on files that hold
the keys; the keys of the default model's GGUF as it is published; the sentencepiece package."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from llamacpp_vocabulary import LlamaCppVocabulary
from sentencepiece_models import bpe_model
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from edgeskip.artifacts.gguf.header import read_gguf_header
from edgeskip.core.errors import EdgeSkipError
from edgeskip.exporters.gguf.pre_tokenizer import PROBES, pre_tokenizer_name
from edgeskip.exporters.gguf.vocabulary import vocabulary_metadata
from edgeskip.models.readers.gguf_tokenizer import RULES, build_tokenizer, tokenizer_config

BOS, EOS, USER = "<|begin|>", "<|end_of_text|>", "<tool>"
# Written out as the checkpoints' tokenizer.json files have them, not taken from the code under test.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIALS = (
    f"{BOS}user\nhi 42{EOS} {BOS}{BOS}x {EOS}",
    f"a{USER}b {USER} c{EOS}",
    f"<|begin{BOS}|>",
    USER,
    BOS,
)
TEXTS = (
    *PROBES,
    "",
    " ",
    "a",
    "  two  spaces   three\t\ttabs \n\n\n new\r\nline \n",
    "The quick brown fox (and 12 lazy dogs) can't jump 1000000 times: it'LL fail... won't it?! " * 20,
    "for (int i = 0; i < 10; ++i) {\n\t\tx[i] += y[i] * 0x3F;  // a.b->c\n}\n\n",
    "日本語のテキストと English が混在 123 한국어 텍스트 Ελληνικά кириллица العربية ½¾ ①② ⅷ ٣",
    "\U0001f9d1\u200d\U0001f680\U0001f468\u200d\U0001f469 \x01\x7f \U0010ffff \u0378",
    "e" * 300 + " " * 50 + "7" * 101 + "!" * 33 + "\n" * 9,
)


def split(pattern: str) -> Any:
    """A Split by an expression, then bytes as characters: how Llama 3, Qwen 2 and Mistral Nemo cut text."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def digits() -> Any:
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )


def byte_level(cut: Any, *, whole_words: bool = False, compose: bool = False, adds_bos: bool = False) -> Tokenizer:
    """A byte-level BPE trained on the texts, so that its tokens show where words begin and end.

    The last merge is dropped: its token can only be had as a whole word.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = cut
    trainer = trainers.BpeTrainer(
        vocab_size=1500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    content = json.loads(tokenizer.to_str())
    content["model"]["merges"].pop()
    content["model"]["ignore_merges"] = whole_words
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.decoder = decoders.ByteLevel()
    if compose:
        tokenizer.normalizer = normalizers.NFC()
    finish(tokenizer, adds_bos)
    return tokenizer


def finish(tokenizer: Tokenizer, adds_bos: bool) -> None:
    tokenizer.add_special_tokens([AddedToken(BOS, special=True), AddedToken(EOS, special=True)])
    tokenizer.add_tokens([AddedToken(USER, special=False, normalized=False)])
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
        )


def sentencepiece(model_text: str) -> Tokenizer:
    """A SentencePiece BPE with byte pieces as transformers converts one: trained by the package itself."""
    package = pytest.importorskip("sentencepiece")
    model = package.SentencePieceProcessor(model_proto=bpe_model(TEXTS))
    count = range(model.get_piece_size())
    kinds = {2: model.is_unknown, 3: model.is_control, 6: model.is_byte}
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [model.id_to_piece(i) for i in count],
        "tokenizer.ggml.scores": [model.get_score(i) for i in count],
        "tokenizer.ggml.token_type": [next((k for k, is_one in kinds.items() if is_one(i)), 1) for i in count],
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_space_prefix": model_text != "bare",
    }
    tokenizer = build_tokenizer(metadata)
    if model_text == "metaspace":
        tokenizer.normalizer = normalizers.Sequence([])
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        content = json.loads(tokenizer.to_str())
        content["normalizer"] = None
        tokenizer = Tokenizer.from_str(json.dumps(content))
    finish(tokenizer, adds_bos=True)
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "llama-bpe": lambda: byte_level(split(LLAMA3), whole_words=True, adds_bos=True),
    "smaug-bpe": lambda: byte_level(split(LLAMA3)),
    "qwen2": lambda: byte_level(split(QWEN2), compose=True),
    "smollm": lambda: byte_level(digits()),
    "gpt-2": lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "tekken": lambda: byte_level(split(TEKKEN), whole_words=True, adds_bos=True),
    "llama": lambda: sentencepiece("prepended"),
    "llama, no space": lambda: sentencepiece("bare"),
    "llama, Metaspace": lambda: sentencepiece("metaspace"),
}
# What llama.cpp does in its own way, whatever the file says (the module's docstring): another text for the comparison.
NOT_COMPARED: dict[str, Callable[[str], bool]] = {
    "qwen2": lambda text: normalizers.NFC().normalize_str(text) != text,
    "tekken": lambda text: any((c.isupper() and not c.isascii()) or "\u0300" <= c <= "\u0e7f" for c in text),
    "llama, Metaspace": lambda text: text.startswith(" ") or "<s>" in text or text in SPECIALS,
}


def write_folder(tokenizer: Tokenizer, folder: Path, **config: Any) -> Path:
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"eos_token": EOS, "bos_token": BOS} | config
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture
def llama_cpp_vocabulary(tmp_path: Path) -> Iterator[Callable[[dict[str, Any]], LlamaCppVocabulary]]:
    pytest.importorskip("llama_cpp")
    opened: list[LlamaCppVocabulary] = []

    def open_one(metadata: dict[str, Any]) -> LlamaCppVocabulary:
        opened.append(LlamaCppVocabulary(tmp_path / f"vocabulary{len(opened)}.gguf", metadata))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def room(tokenizer: Tokenizer) -> int:
    return tokenizer.get_vocab_size() + 5


@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_encodes_as_the_tokenizer(kind: str, tmp_path: Path, llama_cpp_vocabulary: Any) -> None:
    tokenizer = KINDS[kind]()
    metadata = vocabulary_metadata(write_folder(tokenizer, tmp_path), room(tokenizer))
    assert metadata["tokenizer.ggml.pre"] == (kind if not kind.startswith("llama,") and kind != "llama" else "default")
    theirs = llama_cpp_vocabulary(metadata)
    skip = NOT_COMPARED.get(kind, lambda _: False)
    compared = 0
    for text in (*TEXTS, *SPECIALS):
        if skip(text):
            continue
        compared += 1
        for parse in (True, False):
            for add in (True, False):
                tokenizer.encode_special_tokens = not parse
                ids = tokenizer.encode(text, add_special_tokens=add).ids
                assert theirs.encode(text, add=add, parse=parse) == ids, (text, parse, add)
    assert compared >= 15


def test_special_tokens_types_and_padding(tmp_path: Path) -> None:
    tokenizer = KINDS["llama-bpe"]()
    folder = write_folder(tokenizer, tmp_path, unk_token={"content": "!"}, chat_template="{{ bos_token }}")
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": {"content": EOS}}), encoding="utf-8")
    size = tokenizer.get_vocab_size()
    metadata = vocabulary_metadata(folder, size + 2)
    tokens, kinds = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    assert tokens == [tokenizer.id_to_token(i) for i in range(size)] + [f"[PAD{size}]", f"[PAD{size + 1}]"]
    assert kinds == [1] * (size - 3) + [3, 3, 4, 5, 5]
    assert {key: value for key, value in metadata.items() if not isinstance(value, list)} == {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.bos_token_id": tokenizer.token_to_id(BOS),
        "tokenizer.ggml.eos_token_id": tokenizer.token_to_id(EOS),
        "tokenizer.ggml.unknown_token_id": tokenizer.token_to_id("!"),
        "tokenizer.ggml.padding_token_id": tokenizer.token_to_id(EOS),
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.chat_template": "{{ bos_token }}",
    }


def test_a_text_ends_in_another_token_than_eos(tmp_path: Path, llama_cpp_vocabulary: Any) -> None:
    """As the gguf package has it: the token that is added is EOS, the named one becomes EOT."""
    tokenizer = byte_level(split(QWEN2))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {BOS}", pair=f"$A {BOS} $B {BOS}", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    metadata = vocabulary_metadata(write_folder(tokenizer, tmp_path, bos_token=None), room(tokenizer))
    assert metadata["tokenizer.ggml.eos_token_id"] == tokenizer.token_to_id(BOS)
    assert metadata["tokenizer.ggml.eot_token_id"] == tokenizer.token_to_id(EOS)
    assert metadata["tokenizer.ggml.add_eos_token"]
    assert llama_cpp_vocabulary(metadata).encode("Hi", add=True, parse=True) == tokenizer.encode("Hi").ids


def test_sentencepiece_scores_and_types(tmp_path: Path) -> None:
    tokenizer = KINDS["llama"]()
    metadata = vocabulary_metadata(write_folder(tokenizer, tmp_path), room(tokenizer))
    tokens, kinds = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    assert metadata["tokenizer.ggml.model"] == "llama"
    assert "tokenizer.ggml.merges" not in metadata
    assert [kinds[tokens.index(token)] for token in ("<unk>", "<s>", "<0x0A>", "▁t", BOS, USER)] == [2, 3, 6, 1, 3, 4]
    # Pieces are listed in the order in which SentencePiece learnt to make them.
    made = [score for token, score, kind in zip(tokens, metadata["tokenizer.ggml.scores"], kinds, strict=True)
            if kind == 1 and len(token) > 1]  # fmt: skip
    assert made == sorted(made, reverse=True)
    assert len(set(made)) == len(made)


def test_the_default_models_gguf_comes_back(smollm2_gguf: Path, tmp_path: Path) -> None:
    """Oracle: the published file. add_eos_token is not in it; its default is what is written."""
    published = {k: v for k, v in read_gguf_header(smollm2_gguf).metadata.items() if k.startswith("tokenizer.")}
    build_tokenizer(published).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(published)), encoding="utf-8")
    assert vocabulary_metadata(tmp_path, 49152) == published | {"tokenizer.ggml.add_eos_token": False}


@pytest.mark.parametrize("name", RULES)
def test_every_name_is_found_by_what_it_does(name: str) -> None:
    metadata = {"model": "gpt2", "pre": name, "tokens": ["a", "b", "ab"], "merges": ["a b"], "add_bos_token": False}
    found = pre_tokenizer_name(build_tokenizer({f"tokenizer.ggml.{key}": value for key, value in metadata.items()}))
    assert found is not None
    assert RULES[found[0]].patterns == RULES[name].patterns
    assert (RULES[found[0]].digits, found[1]) == (RULES[name].digits, RULES[name].ignore_merges)


GPT_4O = TEKKEN.replace(r"\p{N}|", r"\p{N}{1,3}|")
UNKNOWN_WAYS = {
    "gpt-4o": split(GPT_4O),
    "three digits of GPT-2": pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "a space in front": pre_tokenizers.ByteLevel(add_prefix_space=True),
    "no words at all": pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    "marks in words": split(QWEN2.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+")),
    "newline after punctuation": split(QWEN2.replace(r"+[\r\n]*", "+")),
    "short runs of blanks": split(LLAMA3.replace(r"|\s+(?!\S)", r"|\s{4}(?!\S)|\s{1,2}(?!\S)")),
    "English in lower case": split(LLAMA3.replace("(?i:", "(?:")),
}


@pytest.mark.parametrize("way", UNKNOWN_WAYS)
def test_a_way_to_cut_that_llama_cpp_lacks(way: str, tmp_path: Path) -> None:
    tokenizer = byte_level(UNKNOWN_WAYS[way])
    with pytest.raises(EdgeSkipError, match="no pre-tokenizer of llama"):
        vocabulary_metadata(write_folder(tokenizer, tmp_path), room(tokenizer))


def test_whole_words_that_llama_cpp_would_not_take(tmp_path: Path) -> None:
    """Qwen 2's cut with Llama 3's whole words: no name stands for it, and here it makes a difference."""
    tokenizer = byte_level(split(QWEN2), whole_words=True)
    with pytest.raises(EdgeSkipError, match="as other tokens"):
        vocabulary_metadata(write_folder(tokenizer, tmp_path), room(tokenizer))


def small(**changes: Any) -> dict[str, Any]:
    """A tokenizer.json of GPT-2's kind with the letters and one merge."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={token: i for i, token in enumerate([*alphabet, "th"])}, merges=[("t", "h")])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    finish(tokenizer, adds_bos=False)
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    model = content["model"] | changes.pop("model", {})
    return content | {"model": model} | changes


def added(*tokens: tuple[int, str], **flags: Any) -> list[dict[str, Any]]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return [{"id": 257, "content": BOS, **plain}, {"id": 258, "content": EOS, **plain}] + [
        {"id": index, "content": content, **plain, **flags} for index, content in tokens
    ]


TWICE = processors.TemplateProcessing(single="th $A", pair="th $A $B", special_tokens=[("th", 256)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (small(model={"merges": []}), "no merges"),
        (small(added_tokens=added((300, "<new>"))), r"'<new>' with id 300, but the model's vocabulary ends at 299"),
        (small(model={"vocab": small()["model"]["vocab"] | {"zz": 300}}), r"'zz' with id 300, but the model's "),
        (small(added_tokens=added((5, "<clash>"))), "the same id 5"),
        (small(model={"vocab": small()["model"]["vocab"] | {"zq": 290}}), "is 257 in the file, but the tokenizers"),
        (small(added_tokens=added((260, "th"))), r"'th' two ids, 256 and 260"),
        (small(added_tokens=added((259, "<m>"), lstrip=True)), "'<m>' is lstrip"),
        (small(model={"end_of_word_suffix": "</w>"}), "uses end_of_word_suffix"),
        (small(model={"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}), "is a WordLevel tokenizer"),
        (small(model={"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 0}), "is a Unigram tokenizer"),
        (small(normalizer={"type": "Lowercase"}), "neither byte-level BPE nor"),
        (small(pre_tokenizer=None), "neither byte-level BPE nor"),
        (small(post_processor=json.loads(TWICE.__getstate__())), r"puts th around a text"),
        (
            small(model={"byte_fallback": True}, pre_tokenizer={"type": "Metaspace", "replacement": "▁",
                  "prepend_scheme": "first", "split": False}),
            "no piece <0x00>",
        ),
    ],
)  # fmt: skip
def test_what_llama_cpp_cannot_hold_is_one_clear_line(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    config = {"bos_token": BOS, "eos_token": EOS}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(EdgeSkipError, match=message) as caught:
        vocabulary_metadata(tmp_path, 300)
    assert "\n" not in str(caught.value)


def test_without_eos_and_damaged(tmp_path: Path) -> None:
    """llama.cpp would take token 11 for EOS and stop at every one of them."""
    tokenizer = KINDS["gpt-2"]()
    write_folder(tokenizer, tmp_path, eos_token=None)
    with pytest.raises(EdgeSkipError, match="names no eos_token"):
        vocabulary_metadata(tmp_path, room(tokenizer))
    (tmp_path / "config.json").write_text('{"eos_token_id": 7}', encoding="utf-8")
    assert vocabulary_metadata(tmp_path, room(tokenizer))["tokenizer.ggml.eos_token_id"] == 7
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(EdgeSkipError, match="tokenizer"):
        vocabulary_metadata(tmp_path, room(tokenizer))


def test_a_whole_word_that_only_its_own_text_shows(tmp_path: Path) -> None:
    """No probe holds it, so the vocabulary is gone through."""
    content = small(pre_tokenizer=json.loads(byte_level(split(QWEN2)).to_str())["pre_tokenizer"])
    content["model"]["ignore_merges"] = True
    write_folder(Tokenizer.from_str(json.dumps(content)), tmp_path)
    assert vocabulary_metadata(tmp_path, 300)["tokenizer.ggml.pre"] == "qwen2"  # every token can be had by merges
    content["model"]["vocab"]["zqx"] = 290
    write_folder(Tokenizer.from_str(json.dumps(content)), tmp_path)
    with pytest.raises(EdgeSkipError, match="encode 'zqx' as other tokens"):
        vocabulary_metadata(tmp_path, 300)


def test_pieces_across_words_that_metaspace_would_cut(tmp_path: Path) -> None:
    content = json.loads(KINDS["llama, Metaspace"]().to_str())
    size = len(content["model"]["vocab"])
    content["model"]["vocab"]["▁▁"] = size
    content["model"]["merges"].append(["▁", "▁"])
    for token in content["added_tokens"][-3:]:
        token["id"] += 1
    content["post_processor"] = None
    (write_folder(KINDS["gpt-2"](), tmp_path) / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    assert vocabulary_metadata(tmp_path, 1001)["tokenizer.ggml.tokens"][size] == "▁▁"
    content["pre_tokenizer"]["split"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(EdgeSkipError, match="neither byte-level BPE nor"):
        vocabulary_metadata(tmp_path, 1001)


def test_padding_makes_no_token_twice(tmp_path: Path, llama_cpp_vocabulary: Any) -> None:
    """llama.cpp aborts the process on a token that is there twice."""
    content = small()
    content["added_tokens"].append(added((260, "[PAD299]"))[-1])
    tokenizer = Tokenizer.from_str(json.dumps(content))
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": EOS}), encoding="utf-8")
    metadata = vocabulary_metadata(tmp_path, 300)
    tokens = metadata["tokenizer.ggml.tokens"]
    assert len(set(tokens)) == 300
    assert [tokens[index] for index in (260, 261, 299)] == ["[PAD299]", "[PAD261]", "[PAD299]_"]
    assert [metadata["tokenizer.ggml.token_type"][index] for index in (260, 261, 299)] == [3, 5, 5]
    assert (
        llama_cpp_vocabulary(metadata).encode("th[PAD299]", add=True, parse=True)
        == tokenizer.encode("th[PAD299]").ids
        == [256, 260]
    )

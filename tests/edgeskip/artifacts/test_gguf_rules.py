"""GGUF files with nonsense in their keys: refused in one line before llama.cpp sees them.

Oracle: llama.cpp by itself, in a child that such a file ends by a signal (tests/raw_llamacpp.py); of a few that it
refuses in its own words or runs anyway, only that we do not run them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from raw_gguf import ARRAY, BOOL, F32, I32, STRING, U16, U32, U64, RawArray, RawGguf, RawKey
from raw_llamacpp import outcomes
from talking_gguf import talking_gguf

from edgeskip.artifacts.gguf.header import read_gguf_header
from edgeskip.artifacts.gguf.rules import check_gguf
from edgeskip.artifacts.gguf.types import GgmlType
from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.engines.llamacpp.model import LlamaModel

Change = Callable[[RawGguf], None]


def put(name: str, kind: int, value: Any) -> Change:
    return lambda file: file.set(name, kind, value)


def ints(*values: int) -> RawArray:
    return RawArray(I32, list(values))


def architecture(name: str, **keys: tuple[int, Any]) -> Change:
    """The same tensors under the keys of another architecture."""

    def change(file: RawGguf) -> None:
        old, new = b"llama.", name.encode() + b"."
        file.keys = [replace(key, name=new + key.name.removeprefix(old)) if key.name.startswith(old) else key
                     for key in file.keys]  # fmt: skip
        file.set("general.architecture", STRING, name)
        for key, (kind, value) in keys.items():
            file.set(f"{name}.{key.replace('__', '.')}", kind, value)

    return change


def retype(tensor: str, kind: str) -> Change:
    """The tensor claimed to be of another type, all that follow it moved."""

    def change(file: RawGguf) -> None:
        offset, moved = 0, []
        for old in file.tensors:
            new = replace(old, type=int(GgmlType[kind])) if old.name == tensor.encode() else old
            kind_of_new = GgmlType(new.type)
            size = math.prod(new.dims) // kind_of_new.block * kind_of_new.block_bytes
            moved.append(replace(new, offset=offset))
            offset += size + -size % 32
        file.tensors, file.data = moved, (file.data * 3)[:offset]

    return change


def twice(file: RawGguf) -> None:
    tokens = list(file.get("tokenizer.ggml.tokens").values)
    tokens[7] = tokens[9]
    file.set("tokenizer.ggml.tokens", ARRAY, RawArray(STRING, tokens))


def twice_up_to_a_nul(file: RawGguf) -> None:
    tokens = list(file.get("tokenizer.ggml.tokens").values)
    tokens[7], tokens[9] = b"same\0a", b"same\0b"
    file.set("tokenizer.ggml.tokens", ARRAY, RawArray(STRING, tokens))


def empty_beside_its_name(file: RawGguf) -> None:
    tokens = list(file.get("tokenizer.ggml.tokens").values)
    tokens[7], tokens[9] = b"", b"[EMPTY_7]"
    file.set("tokenizer.ggml.tokens", ARRAY, RawArray(STRING, tokens))


def bos_nowhere(file: RawGguf) -> None:
    """Ten tokens: the usual BOS, 11, is not among them."""
    kept = list(file.get("tokenizer.ggml.tokens").values)[:10]
    file.set("tokenizer.ggml.tokens", ARRAY, RawArray(STRING, kept))
    file.set("tokenizer.ggml.token_type", ARRAY, ints(*[1] * 10))
    file.set("tokenizer.ggml.add_bos_token", BOOL, True)
    file.remove("tokenizer.ggml.bos_token_id")
    width = next(t for t in file.tensors if t.name == b"token_embd.weight").dims[0]
    file.change_tensor("token_embd.weight", dims=(width, 10))
    retype("", "F32")(file)


ABORTING: dict[str, tuple[Change, str]] = {
    **{
        f"block_count {value}": (put("llama.block_count", U32, value), "llama.block_count")
        for value in (0, 513, 2**31 - 1, 2**31, 2**32 - 1)
    },
    **{
        f"expert_count {value}": (put("llama.expert_count", U32, value), "llama.expert_")
        for value in (1, 2, 8, 512, 513, 2**31, 2**32 - 1)
    },
    **{
        f"expert_used_count {value}": (put("llama.expert_used_count", U32, value), "llama.expert_used_count")
        for value in (1, 2, 8, 2**31, 2**32 - 1)
    },
    "expert_used_count per block": (put("llama.expert_used_count", ARRAY, ints(1, 2, 3, 4)), "expert_used_count"),
    "expert_used_count of flags": (
        put("llama.expert_used_count", ARRAY, RawArray(BOOL, [True] * 4)), "llama.expert_used_count"
    ),
    "more used than there are": (
        lambda file: (put("llama.expert_count", U32, 2)(file), put("llama.expert_used_count", U32, 3)(file))[0],
        "llama.expert_used_count",
    ),
    **{
        f"expert_group_count {value}": (put("llama.expert_group_count", U32, value), "llama.expert_group_count")
        for value in (1, 2, 512, 2**32 - 1)
    },
    **{
        f"nextn_predict_layers {value}": (put("llama.nextn_predict_layers", U32, value), "nextn_predict_layers")
        for value in (5, 512, 2**31, 2**32 - 1)
    },
    **{
        f"epsilon {value}": (put("llama.attention.layer_norm_rms_epsilon", F32, value), "layer_norm_rms_epsilon")
        for value in (-1.0, math.nan, -math.inf)
    },
    "rope scaling of no name": (put("llama.rope.scaling.type", STRING, ""), "llama.rope.scaling.type"),
    "rope scaling of another name": (put("llama.rope.scaling.type", STRING, "dynamic"), "llama.rope.scaling.type"),
    "half of a head rotated": (architecture("qwen2", rope__dimension_count=(U32, 8)), "qwen2.rope.dimension_count"),
    "alignment 1": (put("general.alignment", U32, 1), "alignment"),
    "alignment 8": (put("general.alignment", U32, 2), "alignment"),
    "a token twice": (twice, "tokenizer.ggml.tokens"),
    "a token twice, up to a NUL": (twice_up_to_a_nul, "tokenizer.ggml.tokens"),
    "an empty token beside the name it gets": (empty_beside_its_name, "tokenizer.ggml.tokens"),
    "BOS nowhere": (bos_nowhere, "tokenizer.ggml.bos_token_id"),
    **{f"weights of {kind}": (retype("blk.1.ffn_up.weight", kind), "blk.1.ffn_up.weight") for kind in ("Q8_1", "I8")},
    **{f"embedding of {kind}": (retype("token_embd.weight", kind), "token_embd.weight") for kind in ("I32", "F64")},
    **{f"norm of {kind}": (retype("blk.1.attn_norm.weight", kind), "attn_norm") for kind in ("F16", "BF16", "Q8_0")},
}  # fmt: skip

REFUSED: dict[str, tuple[Change, str]] = {
    "block_count of another type": (put("llama.block_count", STRING, "4"), "llama.block_count"),
    "block_count that is no number": (put("llama.block_count", F32, math.nan), "llama.block_count"),
    "block_count of a flag": (put("llama.block_count", BOOL, True), "llama.block_count"),
    "no block_count": (lambda file: file.remove("llama.block_count"), "llama.block_count"),
    "fewer blocks than tensors": (put("llama.block_count", U32, 3), "llama.block_count"),
    "more blocks than tensors": (put("llama.block_count", U32, 5), "llama.block_count"),
    "no heads": (put("llama.attention.head_count", U32, 0), "llama.attention.head_count"),
    "no heads in one block": (put("llama.attention.head_count", ARRAY, ints(4, 4, 0, 4)), "attention.head_count"),
    "head counts of too few blocks": (put("llama.attention.head_count", ARRAY, ints(4, 4)), "attention.head_count"),
    "negative head counts": (put("llama.attention.head_count", ARRAY, ints(4, -4, 4, 4)), "attention.head_count"),
    "no head counts": (put("llama.attention.head_count", ARRAY, ints()), "llama.attention.head_count"),
    "no KV heads": (put("llama.attention.head_count_kv", U32, 0), "llama.attention.head_count_kv"),
    "three KV heads": (put("llama.attention.head_count_kv", U32, 3), "llama.attention.head_count_kv"),
    "an odd head size": (put("llama.attention.key_length", U32, 15), "llama.attention."),
    "another value size": (put("llama.attention.value_length", U32, 8), "llama.attention.value_length"),
    "another rotated part": (put("llama.rope.dimension_count", U32, 8), "llama.rope.dimension_count"),
    "embedding_length 0": (put("llama.embedding_length", U32, 0), "llama.embedding_length"),
    "embedding_length 2**32-1": (put("llama.embedding_length", U32, 2**32 - 1), "llama.embedding_length"),
    "context_length 0": (put("llama.context_length", U32, 0), "llama.context_length"),
    "context_length 2**32-1": (put("llama.context_length", U32, 2**32 - 1), "llama.context_length"),
    "feed_forward_length 2**32-1": (put("llama.feed_forward_length", U32, 2**32 - 1), "feed_forward_length"),
    "rope base NaN": (put("llama.rope.freq_base", F32, math.nan), "llama.rope.freq_base"),
    "rope base 0": (put("llama.rope.freq_base", F32, 0.0), "llama.rope.freq_base"),
    "rope base -1": (put("llama.rope.freq_base", F32, -1.0), "llama.rope.freq_base"),
    "rope scale -1": (put("llama.rope.scaling.factor", F32, -1.0), "llama.rope.scaling.factor"),
    "rope scale infinite": (put("llama.rope.scaling.factor", F32, math.inf), "llama.rope.scaling.factor"),
    "sliding window 2**32-1": (put("llama.attention.sliding_window", U32, 2**32 - 1), "sliding_window"),
    "not causal": (put("llama.attention.causal", BOOL, False), "llama.attention.causal"),
    "pooling of no kind": (put("llama.pooling_type", U32, 99), "llama.pooling_type"),
    "one predicted layer": (put("llama.nextn_predict_layers", U32, 1), "llama.nextn_predict_layers"),
    "vocab_size 0": (put("llama.vocab_size", U32, 0), "llama.vocab_size"),
    "vocab_size 2**32-1": (put("llama.vocab_size", U32, 2**32 - 1), "llama.vocab_size"),
    "a token too many": (
        lambda file: put("tokenizer.ggml.tokens", ARRAY, RawArray(STRING, [*file.get("tokenizer.ggml.tokens").values, b"zz"]))(file),  # noqa: E501
        "tokenizer.ggml.tok",
    ),
    "tokens of numbers": (put("tokenizer.ggml.tokens", ARRAY, ints(*range(320))), "tokenizer.ggml.tokens"),
    "tokens of one text": (put("tokenizer.ggml.tokens", STRING, "abc"), "tokenizer.ggml.tokens"),
    "no tokens": (put("tokenizer.ggml.tokens", ARRAY, RawArray(STRING, [])), "tokenizer.ggml.tokens"),
    "no tokens at all": (lambda file: file.remove("tokenizer.ggml.tokens"), "tokenizer.ggml.tokens"),
    "types of texts": (put("tokenizer.ggml.token_type", ARRAY, RawArray(STRING, [b"1"] * 320)), "token_type"),
    "too few types": (put("tokenizer.ggml.token_type", ARRAY, ints(1, 1)), "tokenizer.ggml.token_type"),
    "types of one number": (put("tokenizer.ggml.token_type", U32, 1), "tokenizer.ggml.token_type"),
    "too few scores": (put("tokenizer.ggml.scores", ARRAY, RawArray(F32, [0.0])), "tokenizer.ggml.scores"),
    "a kind of tokenizer that is a list": (put("tokenizer.ggml.model", ARRAY, ints(1)), "tokenizer.ggml.model"),
    "a pre-tokenizer that is a list": (put("tokenizer.ggml.pre", ARRAY, ints(1)), "tokenizer.ggml.pre"),
    "no architecture": (lambda file: file.remove("general.architecture"), "general.architecture"),
    "an architecture that is a number": (put("general.architecture", U32, 7), "general.architecture"),
    "an architecture of odd signs": (put("general.architecture", STRING, "lla\nma"), "general.architecture"),
    "split in a number of another type": (put("split.count", U64, 2), "split.count"),
    **{name: (architecture(name), "decoder-only language model") for name in ("clip", "bert", "t5encoder", "gptj")},
}  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return talking_gguf(tmp_path_factory.mktemp("sound") / "x.gguf")[0]


def changed(sound: Path, change: Change, path: Path) -> Path:
    file = RawGguf.read(sound)
    change(file)
    return file.write(path)


def test_each_of_these_files_ends_llamacpp_by_a_signal(sound: Path, tmp_path: Path) -> None:
    """The oracle: were it not so, the test below would show nothing."""
    files = [changed(sound, change, tmp_path / f"{i}.gguf") for i, (change, _) in enumerate(ABORTING.values())]
    found = dict(zip(ABORTING, outcomes([sound, *files])[1:], strict=True))
    assert {name: word for name, word in found.items() if not word.startswith("SIG")} == {}


def test_a_sound_file_keeps_every_rule(sound: Path) -> None:
    """Oracle: llama.cpp runs it."""
    assert outcomes([sound]) == ["ok"]
    check_gguf(read_gguf_header(sound), "x")
    LlamaModel(sound).close()


@pytest.mark.parametrize("name", [*ABORTING, *REFUSED])
def test_nonsense_is_refused_in_one_line(name: str, sound: Path, tmp_path: Path) -> None:
    change, said = (ABORTING | REFUSED)[name]
    path = changed(sound, change, tmp_path / "x.gguf")
    with pytest.raises(EdgeSkipError) as caught:
        LlamaModel(path)
    message = str(caught.value)
    assert said in message
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 400


def test_a_split_file_whose_second_part_has_another_type_of_number(sound: Path, tmp_path: Path) -> None:
    """Oracle: llama.cpp asserts that `split.no` has 16 bits (gguf_get_val_u16)."""
    whole = RawGguf.read(sound)
    paths = [tmp_path / f"x-0000{number}-of-00002.gguf" for number in (1, 2)]
    first = RawGguf(list(whole.keys), whole.tensors, whole.data)
    first.set("split.count", U16, 2)
    first.set("split.no", U16, 0)
    first.set("split.tensors.count", I32, len(whole.tensors))
    first.write(paths[0])
    RawGguf([RawKey(b"split.no", U32, 1), RawKey(b"split.count", U16, 2)], [], b"").write(paths[1])
    assert outcomes([paths[0]]) == ["SIGABRT"]
    with pytest.raises(EdgeSkipError, match=r"split\.no"):
        LlamaModel(paths[0])
    RawGguf([RawKey(b"split.no", U16, 1), RawKey(b"split.count", U16, 2)], [], b"").write(paths[1])
    assert outcomes([paths[0]]) == ["ok"]
    LlamaModel(paths[0]).close()
    with pytest.raises(EdgeSkipError, match="part"):
        LlamaModel(paths[0].rename(tmp_path / "y.gguf"))


def test_deci_may_lack_what_others_may_not(sound: Path, tmp_path: Path) -> None:
    """A matrix in attention's place (heads without KV heads), a block without anything. Oracle: llama.cpp runs it."""
    file = RawGguf.read(sound)
    architecture("deci")(file)
    width = file.get("deci.feed_forward_length")
    file.set("deci.attention.head_count", ARRAY, ints(4, 4, 0, 4))
    file.set("deci.attention.head_count_kv", ARRAY, ints(2, 0, 0, 2))
    file.set("deci.feed_forward_length", ARRAY, ints(width, width, 0, width))
    gone = (b"blk.1.attn_q.", b"blk.1.attn_k.", b"blk.1.attn_v.", b"blk.2.")
    file.tensors = [tensor for tensor in file.tensors if not tensor.name.startswith(gone)]
    retype("", "F32")(file)
    path = file.write(tmp_path / "x.gguf")
    assert outcomes([path]) == ["ok"]
    LlamaModel(path).close()


def test_types_equal_ggmls_own() -> None:
    """Oracle: ggml's functions in the installed library, for every type it knows."""
    import ctypes

    from edgeskip.runtime.engines.llamacpp.library import ggml_function

    block = ggml_function("ggml_blck_size", ctypes.c_int64, (ctypes.c_int,))
    size = ggml_function("ggml_type_size", ctypes.c_size_t, (ctypes.c_int,))
    name = ggml_function("ggml_type_name", ctypes.c_char_p, (ctypes.c_int,))
    for kind in GgmlType:
        if kind > GgmlType.MXFP4:  # an older library does not have these
            continue
        assert (kind.block, kind.block_bytes) == (block(kind), size(kind)), kind.name
        assert kind.name.upper() == name(kind).decode().upper()

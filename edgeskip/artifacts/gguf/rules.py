"""What the keys of a GGUF language model may say: llama.cpp ends the whole process if they make no sense.

Its loader asserts (llama-model.cpp `load_hparams`, llama-vocab.cpp `load`, the graphs in src/models); where it throws
instead, the rules here only say it better. They are for decoder-only models; other files still have a header that can
be shown. A file that keeps every rule can still end llama.cpp: it knows 150 architectures with keys of their own, which
is why a file of unknown origin is opened in a child process first (runtime/engines/llamacpp/trial.py).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from edgeskip.artifacts.gguf.header import UINT16, GgufHeader
from edgeskip.artifacts.gguf.types import GgmlType
from edgeskip.core.errors import EdgeSkipError

# Dense decoders whose graphs assert the same: one head size, rotated whole (src/models/{llama,qwen2,qwen3,…}.cpp).
_PLAIN = frozenset({"llama", "qwen2", "qwen3", "smollm3", "deci"})
_ATTENTION_FREE_BLOCKS = frozenset({"deci"})
_NO_EXPERTS = frozenset({"qwen2", "qwen3", "smollm3", "deci"})
_ONE_EXPERT_IS_NONE = frozenset({"hunyuan_vl", "hunyuan-dense"})
# Known to llama.cpp, but no decoder-only language models: it asserts when one is run as such.
_NO_DECODERS = frozenset(
    {
        *("clip", "gptj", "bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2"),
        *("jina-bert-v3", "eurobert", "gemma-embedding", "llama-embed", "t5", "t5encoder", "wavtokenizer-dec"),
        *("gemma4-assistant", "eagle3", "dflash", "qwen3tts", "pockettts"),
    }
)
# No matrix product takes them as weights: llama.cpp asserts, or calls a function that is not there.
_NO_WEIGHTS = frozenset({GgmlType[name] for name in ("Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64")})
_DATA_ALIGNMENT = 32  # TENSOR_ALIGNMENT (ggml-impl.h): of the whole file's weights, which are mapped as they lie
_NO_VOCABULARY = ("no_vocab", "none")
_ROPE_SCALING = ("none", "linear", "yarn", "longrope")
_SPLITS = "split.count"


@dataclass(frozen=True)
class IntegerRule:
    """The values of a key `ARCHITECTURE.name`; `per_block`: the file may list one for each block."""

    name: str
    least: int
    most: int
    per_block: bool = False
    required: bool = False


# 512: LLAMA_MAX_LAYERS and LLAMA_MAX_EXPERTS (llama-hparams.h). The other bounds are generous: no model comes near.
INTEGERS = (
    IntegerRule("block_count", 1, 512, required=True),
    IntegerRule("context_length", 1, 2**31 - 1, required=True),
    IntegerRule("embedding_length", 1, 2**20, required=True),
    IntegerRule("vocab_size", 1, 2**24),
    IntegerRule("feed_forward_length", 0, 2**24, per_block=True),
    IntegerRule("attention.head_count", 0, 2**16, per_block=True),
    IntegerRule("attention.head_count_kv", 0, 2**16, per_block=True),
    IntegerRule("attention.key_length", 1, 2**16),
    IntegerRule("attention.value_length", 1, 2**16),
    IntegerRule("attention.sliding_window", 0, 2**31 - 1, per_block=True),
    IntegerRule("rope.dimension_count", 0, 2**16),
    IntegerRule("rope.scaling.original_context_length", 1, 2**31 - 1),
    IntegerRule("expert_count", 0, 512),
    IntegerRule("expert_used_count", 0, 512, per_block=True),
    IntegerRule("expert_group_count", 0, 512),
    IntegerRule("expert_group_used_count", 0, 512),
    IntegerRule("nextn_predict_layers", 0, 511),
    IntegerRule("pooling_type", 0, 4),
)
EPSILONS = ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon", "attention.group_norm_epsilon")


def check_gguf(header: GgufHeader, file: str, *, complete: bool = True) -> None:
    """Raise for the first key that no decoder-only language model has so.

    Args:
        header: of the whole model; of a split one, with the tensors of all parts.
        file: names the file in the message.
        complete: whether it has to be a model that can be run; else only what is there is checked, and nothing of
            other kinds of models.

    Raises:
        EdgeSkipError: says which key is wrong, what it is and what it may be.
    """
    keys = _Keys(header, file, complete=complete)
    shaped = all(keys.has(rule.name) for rule in INTEGERS if rule.required) and keys.has("attention.head_count")
    if not complete and (keys.architecture in _NO_DECODERS or "general.architecture" not in keys.metadata):
        return
    if keys.architecture in _NO_DECODERS:
        raise EdgeSkipError(
            f"{file} is not a decoder-only language model ({keys.architecture!r}); EdgeSkip runs no other kind"
        )
    for rule in INTEGERS:
        if keys.has(rule.name) or (rule.required and complete):
            keys.check_integer(rule)
    _check_numbers(keys)
    if complete and any(tensor.offset % _DATA_ALIGNMENT for tensor in islice(header.tensors.values(), 1)):
        raise EdgeSkipError(
            f"{file}: its weights do not begin at a multiple of {_DATA_ALIGNMENT} bytes, which llama.cpp needs "
            "(general.alignment): convert the model again"
        )
    if keys.value("attention.causal") is False:
        raise keys.wrong("attention.causal", "true in a decoder-only language model")
    _check_experts(keys)
    if keys.architecture in _PLAIN and (complete or shaped):
        _check_attention(keys)
        _check_tensors(keys)
    if complete or "tokenizer.ggml.tokens" in keys.metadata:
        _check_vocabulary(keys)


def rules_cover(header: GgufHeader) -> bool:
    """Return whether the file is of the kind that EdgeSkip writes, for which the rules are meant to be complete."""
    architecture, kind = (header.metadata.get(key) for key in ("general.architecture", "tokenizer.ggml.model"))
    # Compared as texts: a hostile file may have lists here.
    return str(architecture) in _PLAIN and kind in ("gpt2", "llama")


def part_count(header: GgufHeader, file: str) -> int:
    """Number of files that a model is split into; 1 if it is not.

    Raises:
        EdgeSkipError: if the key is not such a number.
    """
    count = header.metadata.get(_SPLITS, 1)
    if header.types.get(_SPLITS, (UINT16, None))[0] != UINT16:
        raise EdgeSkipError(f"{file}: {_SPLITS!r} is {_short(count)}, expected a 16-bit number: fetch it again")
    return max(int(count), 1)


class _Keys:
    """The metadata of one model, read with suspicion."""

    def __init__(self, header: GgufHeader, file: str, *, complete: bool) -> None:
        self.header = header
        self.metadata: Mapping[str, Any] = header.metadata
        self.file = file
        architecture = self.metadata.get("general.architecture", "" if complete else "unknown")
        if not isinstance(architecture, str) or not re.fullmatch(r"[\w.-]{1,64}", architecture):
            raise self.wrong("general.architecture", "the name of an architecture", prefixed=False)
        self.architecture = architecture

    def wrong(self, name: str, expected: str, *, prefixed: bool = True) -> EdgeSkipError:
        key = f"{self.architecture}.{name}" if prefixed else name
        shown = "missing" if key not in self.metadata else _short(self.metadata[key])
        return EdgeSkipError(f"{self.file}: {key!r} is {shown}, expected {expected}: fetch or convert the model again")

    def has(self, name: str) -> bool:
        return f"{self.architecture}.{name}" in self.metadata

    def value(self, name: str) -> Any:
        return self.metadata.get(f"{self.architecture}.{name}")

    def check_integer(self, rule: IntegerRule) -> None:
        value = self.value(rule.name)
        values = value if rule.per_block and isinstance(value, list) and value else [value]
        flags = rule.per_block and isinstance(value, list)  # sliding windows: whether a block has one
        for each in values:
            number = int(each) if flags and isinstance(each, bool) else each
            if isinstance(number, bool) or not isinstance(number, int) or not rule.least <= number <= rule.most:
                expected = f"a whole number from {rule.least} to {rule.most}"
                raise self.wrong(rule.name, expected + (", or one for each block" if rule.per_block else ""))

    def integer(self, name: str, default: int) -> int:
        """Return a value that `check_integer` has seen; the most of several."""
        value = self.value(name)
        return default if value is None else max(value) if isinstance(value, list) else int(value)

    def per_block(self, name: str, default: list[int]) -> list[int]:
        """Return one for each block."""
        value, blocks = self.value(name), self.integer("block_count", 1)
        if value is None:
            return default
        if not isinstance(value, list):
            return [int(value)] * blocks
        if len(value) != blocks:
            raise self.wrong(name, f"one entry for each of {blocks} blocks")
        return [int(entry) for entry in value]


def _check_numbers(keys: _Keys) -> None:
    prefix = keys.architecture + "."
    for key, value in keys.metadata.items():
        if key.startswith(prefix) and isinstance(value, float) and not math.isfinite(value):
            raise keys.wrong(key.removeprefix(prefix), "a finite number")
    for name in EPSILONS:  # ggml asserts that it is not negative, when the first token is run
        _check_number(keys, name, lambda value: 0 <= value <= 1, "a number from 0 to 1")
    _check_number(keys, "rope.freq_base", lambda value: value > 0, "a positive number")
    for name in ("rope.scaling.factor", "rope.scale_linear"):
        _check_number(keys, name, lambda value: value >= 0, "a number that is not negative")
    kind = keys.value("rope.scaling.type")
    if kind is not None and kind not in _ROPE_SCALING:
        raise keys.wrong("rope.scaling.type", f"one of {', '.join(_ROPE_SCALING)}")


def _check_number(keys: _Keys, name: str, allowed: Callable[[float], bool], expected: str) -> None:
    value = keys.value(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not allowed(value)):
        raise keys.wrong(name, expected)


def _check_experts(keys: _Keys) -> None:
    """As llama.cpp asserts (llama-model.cpp, `load_hparams`)."""
    experts, used = keys.integer("expert_count", 0), keys.integer("expert_used_count", 0)
    groups, groups_used = keys.integer("expert_group_count", 0), keys.integer("expert_group_used_count", 0)
    if experts <= 1 and keys.architecture in _ONE_EXPERT_IS_NONE:
        return
    if experts and keys.architecture in _NO_EXPERTS:
        raise keys.wrong("expert_count", f"none: {keys.architecture} has no experts")
    if not (0 < used <= experts if experts else used == 0):
        expected = f"a number from 1 to the {experts} experts" if experts else "none, because there are no experts"
        raise keys.wrong("expert_used_count", expected)
    if groups and groups >= experts:
        raise keys.wrong("expert_group_count", f"fewer than the {experts} experts")
    if groups > 1 and (experts % groups or not 0 < groups_used < groups):
        name = "expert_group_count" if experts % groups else "expert_group_used_count"
        raise keys.wrong(name, f"groups that divide {experts} experts, and fewer used than there are")
    blocks, extra = keys.integer("block_count", 1), keys.integer("nextn_predict_layers", 0)
    if extra >= blocks or (extra and keys.architecture in _PLAIN):
        raise keys.wrong("nextn_predict_layers", f"fewer than the {blocks} blocks, in an architecture that has such")


def _check_attention(keys: _Keys) -> None:
    blocks = keys.integer("block_count", 1)
    heads = keys.per_block("attention.head_count", [0] * blocks)
    kv_heads = keys.per_block("attention.head_count_kv", heads)
    for block, (queries, pairs) in enumerate(zip(heads, kv_heads, strict=True)):
        # Every head size comes from the first block, so that one has attention.
        if not queries and block and keys.architecture in _ATTENTION_FREE_BLOCKS:
            continue
        if queries < 1:
            raise keys.wrong("attention.head_count", "a positive number")
        if not pairs and keys.architecture in _ATTENTION_FREE_BLOCKS:
            continue  # a matrix in attention's place
        if pairs < 1 or queries % pairs:
            raise keys.wrong("attention.head_count_kv", f"a divisor of the {queries} heads")
    size = keys.integer("attention.key_length", keys.integer("embedding_length", 1) // heads[0])
    if keys.integer("attention.value_length", keys.integer("embedding_length", 1) // heads[0]) != size:
        raise keys.wrong("attention.value_length", f"the head size {size}")
    if keys.integer("rope.dimension_count", size) != size:
        raise keys.wrong("rope.dimension_count", f"the head size {size}")
    if size < 2 or size % 2:
        raise keys.wrong("attention.key_length", f"an even number; the head size is {size}")


def _check_tensors(keys: _Keys) -> None:
    names = keys.header.tensors
    present = {int(match[1]) for name in names if (match := re.match(r"blk\.(\d{1,9})\.", name))}
    blocks = set(range(keys.integer("block_count", 1)))
    # A block of deci may have neither attention nor FFN.
    if present != blocks and not (keys.architecture in _ATTENTION_FREE_BLOCKS and present <= blocks):
        raise keys.wrong("block_count", f"{len(present)}, the number of blocks that have tensors")
    for tensor in keys.header.tensors.values():
        small = tensor.name.endswith(("_norm.weight", ".bias")) or tensor.name == "rope_freqs.weight"
        if tensor.type != GgmlType.F32 if small else tensor.type in _NO_WEIGHTS:
            expected = "F32" if small else "a type of weights"
            raise EdgeSkipError(
                f"{keys.file}: tensor {tensor.name!r} is {tensor.type.name}, expected {expected}: fetch or convert the "
                "model again"
            )
    if "token_embd.weight" not in names:
        raise EdgeSkipError(f"{keys.file}: the weights lack 'token_embd.weight': fetch or convert the model again")


def _check_vocabulary(keys: _Keys) -> None:
    """As llama.cpp's vocabulary is built: C strings, an empty one renamed, no two the same (llama-vocab.cpp)."""
    kind = keys.metadata.get("tokenizer.ggml.model")
    for key in ("tokenizer.ggml.model", "tokenizer.ggml.pre"):
        if not isinstance(keys.metadata.get(key, ""), str):
            raise keys.wrong(key, "a name", prefixed=False)
    if kind in _NO_VOCABULARY:
        return  # whether one is needed is said where it is
    tokens = keys.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens or not isinstance(tokens[0], str):
        raise keys.wrong("tokenizer.ggml.tokens", "the texts of the tokens", prefixed=False)
    # gguf_get_arr_str gives a C string: it ends at the first NUL.
    texts = [token.partition("\0")[0] if "\0" in token else token for token in tokens]
    seen = {text or f"[EMPTY_{index}]" for index, text in enumerate(texts)}
    if len(seen) != len(texts):
        (twice, _), *_ = Counter(texts).most_common(1)
        raise EdgeSkipError(
            f"{keys.file}: 'tokenizer.ggml.tokens' has {_short(twice)} twice: fetch or convert the model again"
        )
    for key, element in (("tokenizer.ggml.token_type", int), ("tokenizer.ggml.scores", (int, float))):
        entries = keys.metadata.get(key)
        if entries is not None and (
            not isinstance(entries, list) or len(entries) < len(tokens) or not isinstance(entries[0], element)
        ):
            raise keys.wrong(key, f"one number for each of {len(tokens)} tokens", prefixed=False)
    rows = keys.header.tensors.get("token_embd.weight")
    if keys.architecture in _PLAIN and rows is not None and rows.shape[0] != len(tokens):
        raise EdgeSkipError(
            f"{keys.file}: 'tokenizer.ggml.tokens' has {len(tokens)} entries, 'token_embd.weight' {rows.shape[0]} "
            "rows: fetch or convert the model again"
        )
    _check_added(keys, kind, len(tokens))


def _check_added(keys: _Keys, kind: Any, num_tokens: int) -> None:
    """A token that is put before or after every text has to be one: llama.cpp asserts it at the first text."""
    default = {"llama": (1, 2), "gpt2": (11, 11)}.get(kind, (None, None))
    rules = keys.metadata.get("tokenizer.ggml.pre")
    adds_bos = kind == "llama" or (kind == "gpt2" and rules in _ADDS_BOS)
    for role, adds, usual in (("bos", adds_bos, default[0]), ("eos", False, default[1])):
        stated = keys.metadata.get(f"tokenizer.ggml.add_{role}_token")
        key = f"tokenizer.ggml.{role}_token_id"
        token = keys.metadata.get(key)
        known = (isinstance(token, int) and 0 <= token < num_tokens) or (usual is not None and usual < num_tokens)
        if (adds if stated is None else stated is True) and kind in ("llama", "gpt2") and not known:
            raise keys.wrong(key, f"a token below {num_tokens}, because one is added to every text", prefixed=False)


# Pre-tokenizers with which llama.cpp adds BOS unless told otherwise (llama-vocab.cpp).
_ADDS_BOS = frozenset(
    {
        *("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"),
        *("tekken", "chameleon"),
    }
)


def _short(value: object) -> str:
    if isinstance(value, list):
        shown = ", ".join(repr(entry)[:20] for entry in value[:4])
        return f"[{shown}{', …' if len(value) > 4 else ''}]"[:60]
    shown = repr(value if not isinstance(value, str) else value[:60])
    return shown if len(shown) <= 60 else shown[:57] + "…"

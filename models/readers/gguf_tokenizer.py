"""A GGUF file's own vocabulary as a Hugging Face fast tokenizer: metadata in, `tokenizer.json` and its config out.

The vocabulary, merges, token types and the *name* of the pre-tokenizer are in the file; the rules behind the name
are not. They are listed here as the original checkpoints' `tokenizer.json` files state them, under the names
llama.cpp gives them (src/llama-vocab.cpp). Nothing is guessed: a name that is not listed is an error.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from edgeskip.core.errors import EdgeSkipError

# Token types of the GGUF specification (`tokenizer.ggml.token_type`).
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

SPACE = "▁"  # how SentencePiece writes a space

_TAIL = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LLAMA3 = _WORDS + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _TAIL
_QWEN2 = _WORDS + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _TAIL
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _TAIL
)
# What llama.cpp does when a file names no pre-tokenizer, before GPT-2's rule.
_DEFAULT_FIRST = (r"[\p{P}\$\+<=>\^~\|]+",)
_DEFAULT_LAST = (r"\p{N}+", r"[0-9][0-9][0-9]")


@dataclass(frozen=True)
class _Rule:
    """How text is cut into words before the merges apply.

    `patterns` are regular expressions applied one after another; a `None` among them stands for GPT-2's own
    expression. `digits` makes every digit a separate word first.
    """

    patterns: tuple[str | None, ...]
    digits: bool = False
    ignore_merges: bool = False  # a whole word that is in the vocabulary is taken as it is
    compose: bool = False  # Unicode NFC first
    add_bos: bool = False  # if the file does not say


_GPT2_RULE = _Rule((None,))
_DIGITS_RULE = _Rule((None,), digits=True)
_LLAMA3_RULE = _Rule((_LLAMA3,), ignore_merges=True, add_bos=True)
_QWEN2_RULE = _Rule((_QWEN2,), compose=True)
RULES: Mapping[str, _Rule] = {
    "default": _Rule((*_DEFAULT_FIRST, None, *_DEFAULT_LAST)),
    "gpt-2": _GPT2_RULE,
    "phi-2": _GPT2_RULE,
    "olmo": _GPT2_RULE,
    "smollm": _DIGITS_RULE,
    "starcoder": _DIGITS_RULE,
    "refact": _DIGITS_RULE,
    "codeshell": _DIGITS_RULE,
    "llama-bpe": _LLAMA3_RULE,
    "llama3": _LLAMA3_RULE,
    "llama-v3": _LLAMA3_RULE,
    "smaug-bpe": _Rule((_LLAMA3,)),
    "qwen2": _QWEN2_RULE,
    "deepseek-r1-qwen": _QWEN2_RULE,
    "tekken": _Rule((_TEKKEN,), ignore_merges=True, add_bos=True),
}


def build_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """Return the tokenizer that a GGUF file describes.

    `metadata` maps GGUF keys to Python values (`tokenizer.ggml.tokens`: list[str], `tokenizer.ggml.merges`:
    list[str], `tokenizer.ggml.scores`: list[float] …). Byte-level BPE ("gpt2") and SentencePiece BPE ("llama")
    vocabularies are built. EdgeSkipError for another kind, an unknown pre-tokenizer name, or parts that do not
    fit together.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        tokenizer = _byte_level(metadata)
    elif kind == "llama":
        tokenizer = _sentencepiece(metadata)
    else:
        raise EdgeSkipError(
            f"this GGUF's tokenizer is of kind {repr(kind)[:60]}; supported: 'gpt2' (byte-level BPE), 'llama' "
            "(SentencePiece): use the model's original Hugging Face folder"
        )
    added = list(_added_tokens(metadata).values())
    tokenizer.add_special_tokens([token for token in added if token.special])
    tokenizer.add_tokens([token for token in added if not token.special])
    _add_bos_and_eos(tokenizer, metadata)
    return tokenizer


def tokenizer_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of the `tokenizer_config.json` that goes with `build_tokenizer`, with the chat template.

    The class is the generic one on purpose: transformers 5 builds the named classes (GPT2Tokenizer …) by their own
    rules and would drop the pre-tokenizer that `tokenizer.json` states.
    """
    architecture = metadata.get("general.architecture")
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {
            str(index): {
                "content": token.content,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": token.special,
            }
            for index, token in _added_tokens(metadata).items()
        },
        "add_bos_token": _adds(metadata, "bos"),
        "add_eos_token": _adds(metadata, "eos"),
        "model_input_names": ["input_ids", "attention_mask"],
    }
    for role, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        token = _special(metadata, key)
        if token is not None:
            config[f"{role}_token"] = token
    context = metadata.get(f"{architecture}.context_length")
    if _is_integer(context):
        config["model_max_length"] = context
    template = metadata.get("tokenizer.chat_template")
    if template:
        if not isinstance(template, str):
            raise _wrong("tokenizer.chat_template", template, "a text")
        config["chat_template"] = template
    return config


def _tokens(metadata: Mapping[str, Any]) -> list[str]:
    tokens = _list(metadata, "tokenizer.ggml.tokens", str)
    if not tokens:
        raise EdgeSkipError(
            "this GGUF has no vocabulary (tokenizer.ggml.tokens): use a file that carries its tokenizer"
        )
    if len(set(tokens)) != len(tokens):
        (twice, _), *_ = Counter(tokens).most_common(1)
        raise EdgeSkipError(f"this GGUF lists the token {twice!r} twice: the file is damaged, convert the model again")
    return tokens


def _types(metadata: Mapping[str, Any]) -> list[int]:
    count = len(_list(metadata, "tokenizer.ggml.tokens", str))
    types = _list(metadata, "tokenizer.ggml.token_type", int) or [NORMAL] * count
    if len(types) != count:
        raise EdgeSkipError(f"this GGUF has {count} tokens but {len(types)} token types: convert the model again")
    return types


def _list(metadata: Mapping[str, Any], key: str, *kinds: type) -> list[Any]:
    """Return the entries of an array, all of these kinds; empty if there is none."""
    value = metadata.get(key)
    if value is None:
        return []
    # A GGUF array has one type, so one entry is enough: bool is an int for Python, not for a vocabulary.
    if not isinstance(value, list) or (value and (type(value[0]) not in kinds)):
        raise _wrong(key, value, f"a list of {' or '.join(_IN_WORDS[kind] for kind in kinds)}")
    return value


_IN_WORDS = {str: "texts", int: "whole numbers", float: "numbers"}


def _wrong(key: str, value: object, expected: str) -> EdgeSkipError:
    shown = repr(value if not isinstance(value, list) else value[:3])[:60]
    return EdgeSkipError(f"this GGUF's {key} is {shown}, expected {expected}: convert the model again")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _added_tokens(metadata: Mapping[str, Any]) -> dict[int, AddedToken]:
    """Return the tokens that are found in a text first, by id: control tokens are special, the user's are not."""
    tokens = _tokens(metadata)
    return {
        index: AddedToken(tokens[index], special=kind != USER_DEFINED, normalized=False)
        for index, kind in enumerate(_types(metadata))
        if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    }


def _special(metadata: Mapping[str, Any], role: str) -> str | None:
    """Return the token that `tokenizer.ggml.<role>_token_id` names."""
    index = metadata.get(f"tokenizer.ggml.{role}_token_id")
    if index is None:
        return None
    tokens = _tokens(metadata)
    if isinstance(index, bool) or not isinstance(index, int):
        raise _wrong(f"tokenizer.ggml.{role}_token_id", index, "the number of a token")
    if not 0 <= index < len(tokens):
        raise EdgeSkipError(
            f"this GGUF's {role}_token_id {index} is outside its vocabulary of {len(tokens)}: convert the model again"
        )
    return tokens[index]


def _rule(metadata: Mapping[str, Any]) -> _Rule:
    name = metadata.get("tokenizer.ggml.pre", "default")
    if not isinstance(name, str) or name not in RULES:
        raise EdgeSkipError(
            f"this GGUF's pre-tokenizer is {repr(name)[:60]}; supported: {', '.join(sorted(RULES))}: "
            "use the model's original Hugging Face folder"
        )
    return RULES[name]


def _adds(metadata: Mapping[str, Any], role: Literal["bos", "eos"]) -> bool:
    """Return whether encoding adds the token; if the file does not say, as llama.cpp decides."""
    stated = metadata.get(f"tokenizer.ggml.add_{role}_token")
    if stated is not None:
        if not isinstance(stated, bool):
            raise _wrong(f"tokenizer.ggml.add_{role}_token", stated, "true or false")
        return stated
    if role == "eos" or _special(metadata, role) is None:
        return False
    return metadata.get("tokenizer.ggml.model") == "llama" or _rule(metadata).add_bos


def _byte_level(metadata: Mapping[str, Any]) -> Tokenizer:
    """Return the byte-level BPE tokenizer (GPT-2 and most models since): merges over bytes as printable characters."""
    rule = _rule(metadata)
    tokens = _tokens(metadata)
    merges = _list(metadata, "tokenizer.ggml.merges", str)
    if not merges:
        raise EdgeSkipError("this GGUF has no merges (tokenizer.ggml.merges): use a file that carries its tokenizer")
    pairs: list[tuple[str, str]] = []
    for merge in merges:
        left, separator, right = merge.partition(" ")
        if not separator:
            raise EdgeSkipError(f"this GGUF's merge {merge!r} is not two tokens: convert the model again")
        pairs.append((left, right))
    vocabulary = {token: index for index, token in enumerate(tokens)}
    try:
        model = BPE(vocab=vocabulary, merges=pairs, fuse_unk=False, ignore_merges=rule.ignore_merges)
    except Exception as error:  # tokenizers raises plain Exception: a merge whose parts are not in the vocabulary
        raise EdgeSkipError(
            f"this GGUF's merges do not fit its vocabulary ({error}): convert the model again"
        ) from None
    tokenizer = Tokenizer(model)
    if rule.compose:
        tokenizer.normalizer = normalizers.NFC()
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if rule.digits else []
    if rule.patterns == (None,):
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True))
    else:
        gpt2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
        steps += [pre_tokenizers.Split(Regex(pattern or gpt2), "isolated") for pattern in rule.patterns]
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    tokenizer.pre_tokenizer = steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(metadata: Mapping[str, Any]) -> Tokenizer:
    """Return the SentencePiece BPE tokenizer (Llama 1 and 2, Mistral 7B): scored pieces, bytes for unknown characters.

    SentencePiece merges the pair whose result scores best, so every way to put a piece together from two others is
    a merge, ranked by the score of the piece (https://arxiv.org/abs/1808.06226; transformers' converter does this).
    """
    tokens = _tokens(metadata)
    scores = _list(metadata, "tokenizer.ggml.scores", float, int)
    if len(scores) != len(tokens) or not all(map(math.isfinite, scores)):
        raise EdgeSkipError("this GGUF has no score for every piece (tokenizer.ggml.scores): convert the model again")
    kinds = _types(metadata)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    mergeable = {t: i for t, i in vocabulary.items() if kinds[i] in (NORMAL, USER_DEFINED, UNUSED)}
    merges = [
        (-float(scores[index]), mergeable[piece[:cut]], mergeable[piece[cut:]], piece[:cut], piece[cut:])
        for piece, index in mergeable.items()
        for cut in range(1, len(piece))
        if piece[:cut] in mergeable and piece[cut:] in mergeable
    ]
    merges.sort(key=lambda merge: merge[:3])
    tokenizer = Tokenizer(
        BPE(
            vocab=vocabulary,
            merges=[(left, right) for *_, left, right in merges],
            unk_token=_special(metadata, "unknown"),
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    if not isinstance(prefix, bool):
        raise _wrong("tokenizer.ggml.add_space_prefix", prefix, "true or false")
    spaces = normalizers.Replace(" ", SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if prefix else spaces
    steps: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def _add_bos_and_eos(tokenizer: Tokenizer, metadata: Mapping[str, Any]) -> None:
    """Make encoding put BOS before and EOS after the text, if the file says so."""
    ends: dict[str, str | None] = {}
    for role in ("bos", "eos"):
        ends[role] = _special(metadata, role) if _adds(metadata, role) else None
        if _adds(metadata, role) and ends[role] is None:
            raise EdgeSkipError(f"this GGUF wants a {role.upper()} token added but names none: convert the model again")
    bos, eos = ends["bos"], ends["eos"]
    if bos is None and eos is None:
        return
    single = [token for token in (bos, "$A", eos) if token is not None]
    pair = [token for token in (bos, "$A", eos, bos, "$B:1", eos) if token is not None]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single,
        pair=pair,
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (bos, eos) if token is not None],
    )

"""A Hugging Face tokenizer folder -> the `tokenizer.*` keys of a GGUF file, so that llama.cpp tokenizes alike.

What llama.cpp cannot do is refused. Four things that it does in its own way for every model, whatever the file says,
are accepted: text is not brought into Unicode NFC (Qwen 2 and 3), upper case outside ASCII is cut by a simpler rule
(`tekken`), a SentencePiece vocabulary gets its leading space after every special token, and texts such as `</s>` are
taken for special tokens if the vocabulary has them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgeskip.core.errors import EdgeSkipError, MissingExtraError
from edgeskip.exporters.gguf.pre_tokenizer import PROBES, pre_tokenizer_name
from edgeskip.exporters.gguf.sentencepiece import is_byte_piece, piece_scores, space_prefix
from edgeskip.exporters.gguf.text_rules import space_rule
from edgeskip.models.readers.gguf_tokenizer import (
    BYTE,
    CONTROL,
    NORMAL,
    SPACE,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    build_tokenizer,
)
from edgeskip.models.readers.json_file import read_json

_ROLES = ("bos", "eos", "unk", "sep", "pad", "mask")  # the special tokens that GGUF has a key for
_BPE_EXTRAS = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")


def vocabulary_metadata(folder: Path, vocab_size: int, file: str | None = None) -> dict[str, Any]:
    """Return GGUF key → str, bool, int, list[str], list[int] (int32) or list[float] (float32), in file order.

    `folder` holds tokenizer.json, tokenizer_config.json and perhaps special_tokens_map.json and config.json (whose
    `bos_token_id` … count if the tokenizer names no such token). `vocab_size` is the number of rows of the model's
    embedding: tokens are padded to it with unused ones, and added tokens beyond it are left out. `file` is the
    tokenizer's name in messages.

    Raises:
        EdgeSkipError: If llama.cpp has no such tokenizer.
    """
    try:
        import gguf
    except ImportError:
        raise MissingExtraError("gguf", "export") from None
    spec = read_json(folder / "tokenizer.json")
    tokenizer = _load(str(folder / "tokenizer.json"))
    file = file or str(folder / "tokenizer.json")
    config = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    prefix = _check_kind(spec, file)
    tokens, kinds = _tokens(spec, tokenizer, vocab_size, file)
    logging.getLogger("gguf.vocab").setLevel(logging.ERROR)  # its warnings are checked for below
    special = gguf.SpecialVocab(folder, load_merges=True, special_token_types=_ROLES, n_vocab=vocab_size)
    inside = {role: index for role, index in special.special_token_ids.items() if index < vocab_size}
    special.special_token_ids = inside
    if not special.merges:
        raise EdgeSkipError(f"{file} has no merges, which a BPE vocabulary needs: fetch the model again")
    _complete_special(special, folder, tokenizer, vocab_size)
    _set_added(special, tokenizer, file)

    writer = gguf.GGUFWriter(None, "llama")  # only its keys are used
    if prefix is None:
        fit = pre_tokenizer_name(tokenizer)
        if fit is None:
            raise EdgeSkipError(
                f"{file} cuts text into words in a way that no pre-tokenizer of llama.cpp known to EdgeSkip does: "
                "export to ONNX instead"
            )
        name, whole_words = fit
        same_words = whole_words == bool(tokenizer.model.ignore_merges)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(name)
        writer.add_token_list(tokens)
        writer.add_token_types(kinds)
    else:
        same_words = False
        unknown = spec["model"].get("unk_token")
        kinds = [_piece_kind(token, kind, unknown) for token, kind in zip(tokens, kinds, strict=True)]
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(tokens)
        writer.add_token_scores(piece_scores(tokens, special.merges, file))
        writer.add_token_types(kinds)
        special.merges = []
    only_first, _ = space_rule(spec, has_template=bool(config.get("chat_template")))
    writer.add_add_space_prefix(bool(prefix) and only_first != "first")
    special.add_to_gguf(writer, quiet=True)
    metadata = {key: field.value for key, field in writer.kv_data[0].items() if key.startswith("tokenizer.")}

    # Every token's own text too, if words or pieces could come together otherwise than in tokenizer.json.
    own = [] if same_words else [token for token, kind in zip(tokens, kinds, strict=True) if kind == NORMAL]
    _check_same(tokenizer, metadata, own, file)
    return metadata


def _load(file: str) -> Any:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(file)
    except Exception as error:  # tokenizers raises plain Exception
        reason = str(error).strip().split("\n")[0]
        raise EdgeSkipError(f"{file} is not a tokenizer ({reason}): fetch the model again") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _check_kind(spec: Mapping[str, Any], file: str) -> bool | None:
    """Return None for byte-level BPE; for SentencePiece-style BPE whether a space goes in front of the text."""
    model = spec["model"]
    kind = model.get("type", "BPE")
    if kind != "BPE":
        raise EdgeSkipError(f"{file} is a {kind} tokenizer; GGUF export supports BPE: export to ONNX instead")
    for extra in _BPE_EXTRAS:
        if model.get(extra):
            raise EdgeSkipError(f"{file} uses {extra}, which llama.cpp does not have: export to ONNX instead")
    for token in spec.get("added_tokens") or ():
        for extra in ("lstrip", "rstrip", "single_word"):
            if token.get(extra):
                raise EdgeSkipError(
                    f"{file}: the added token {token['content']!r} is {extra}, which llama.cpp does not have: "
                    "export to ONNX instead"
                )
    cut = spec.get("pre_tokenizer") or {}
    steps = [step.get("type") for step in cut.get("pretokenizers", [cut])]
    normalizer = (spec.get("normalizer") or {"type": None})["type"]
    if "ByteLevel" in steps and normalizer in (None, "NFC"):
        return None
    prefix = space_prefix(spec)
    if not model.get("byte_fallback") or prefix is None:
        raise EdgeSkipError(
            f"{file} is neither byte-level BPE nor SentencePiece's kind with byte pieces, "
            "the two that llama.cpp has: export to ONNX instead"
        )
    return prefix


def _tokens(spec: Mapping[str, Any], tokenizer: Any, vocab_size: int, file: str) -> tuple[list[str], list[int]]:
    """Return token texts and types by id, unused ids filled as llama.cpp's converter does."""
    model, added = spec["model"]["vocab"], spec.get("added_tokens") or []
    texts: dict[int, str] = {}
    ids: dict[str, int] = {}
    for text, index in [*model.items(), *((token["content"], token["id"]) for token in added)]:
        if texts.setdefault(index, text) != text:
            raise EdgeSkipError(
                f"{file} gives {texts[index]!r} and {text!r} the same id {index}: fetch the model again"
            )
        if ids.setdefault(text, index) != index:
            raise EdgeSkipError(f"{file} gives {text!r} two ids, {ids[text]} and {index}: fetch the model again")
    for token in added:  # a <pad> that the embedding was never resized for
        if token["id"] >= vocab_size and tokenizer.token_to_id(token["content"]) == token["id"]:
            texts.pop(token["id"], None)
            ids.pop(token["content"], None)
    top = max(texts, default=-1)
    if top >= vocab_size:
        raise EdgeSkipError(
            f"{file} has the token {texts[top]!r} with id {top}, but the model's vocabulary ends at {vocab_size - 1}: "
            "it is another model's tokenizer"
        )
    for text, index in ids.items():
        read = tokenizer.token_to_id(text)
        if read != index:  # it renumbers added tokens if the vocabulary's size does not fit them
            raise EdgeSkipError(
                f"{file}: the id of {text!r} is {index} in the file, but the tokenizers library reads {read}: "
                "fetch the model again"
            )
    special = {token["id"]: bool(token.get("special")) for token in added}
    tokens, kinds = [], []
    for index in range(vocab_size):
        text = texts.get(index, f"[PAD{index}]")
        while index not in texts and text in ids:  # llama.cpp aborts on a duplicate token
            text += "_"
        unused = text.startswith("[PAD") and index not in special and text.rstrip("_") == f"[PAD{index}]"
        tokens.append(text)
        kinds.append(UNUSED if unused else NORMAL if index not in special else _added_kind(special[index]))
    return tokens, kinds


def _added_kind(special: bool) -> int:
    return CONTROL if special else USER_DEFINED


def _piece_kind(token: str, kind: int, unknown: str | None) -> int:
    if token == unknown:
        return UNKNOWN
    return BYTE if kind == NORMAL and is_byte_piece(token) else kind


def _complete_special(special: Any, folder: Path, tokenizer: Any, vocab_size: int) -> None:
    """Add special tokens that the gguf package passes over: in special_tokens_map.json, or not marked as added."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        settings = read_json(folder / name) if (folder / name).is_file() else {}
        for role in _ROLES:
            entry = settings.get(f"{role}_token")
            text = entry.get("content") if isinstance(entry, dict) else entry
            index = tokenizer.token_to_id(text) if isinstance(text, str) else None
            if index is not None and index < vocab_size:
                special.special_token_ids.setdefault(role, index)


def _set_added(special: Any, tokenizer: Any, file: str) -> None:
    """Return whether BOS and EOS are added = what the tokenizer does;

    Raises:
        EdgeSkipError: If it adds anything else.
    """
    plain, full = (tokenizer.encode(PROBES[0], add_special_tokens=added).ids for added in (False, True))
    at = next((i for i in range(len(full)) if full[i : i + len(plain)] == plain), 0)
    for role, around in (("bos", full[:at]), ("eos", full[at + len(plain) :])):
        special.add_special_token[role] = bool(around)
        if around and [special.special_token_ids.setdefault(role, around[0])] != around:
            added = " ".join(tokenizer.id_to_token(index) for index in around)
            raise EdgeSkipError(
                f"{file} puts {added} around a text, but llama.cpp can add only one {role.upper()} token: "
                f"name it as {role}_token in tokenizer_config.json or export to ONNX instead"
            )
    special.add_special_token.pop("sep", None)
    if "eos" not in special.special_token_ids:
        raise EdgeSkipError(
            f"{file.removesuffix('tokenizer.json')}tokenizer_config.json names no eos_token, without which llama.cpp "
            "would choose an end token itself; add it"
        )


def _check_same(tokenizer: Any, metadata: Mapping[str, Any], own: Iterable[str], file: str) -> None:
    """Compare ids with the tokenizer that the keys describe; text treatment aside, which was compared before."""
    from tokenizers import normalizers, pre_tokenizers

    rebuilt = build_tokenizer(metadata)
    if metadata["tokenizer.ggml.model"] == "llama":
        tokenizer.normalizer, tokenizer.pre_tokenizer = rebuilt.normalizer, pre_tokenizers.Sequence([])
        own_texts = [token.replace(SPACE, " ") for token in own]
    else:
        rebuilt.normalizer = tokenizer.normalizer = normalizers.Sequence([])
        own_texts = [rebuilt.decoder.decode([token]) for token in own]
    for text in [*PROBES, *own_texts]:
        theirs, ours = (t.encode(text, add_special_tokens=False).ids for t in (tokenizer, rebuilt))
        if theirs != ours:
            raise EdgeSkipError(
                f"{file}: llama.cpp would encode {text[:40]!r} as other tokens than the tokenizer does: "
                "export to ONNX instead"
            )

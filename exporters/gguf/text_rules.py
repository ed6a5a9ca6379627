"""What a tokenizer does that llama.cpp has no key for: rules for EdgeSkip's own runtime, and notes on what other
programs then do (src/llama-vocab.cpp)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from edgeskip.artifacts.gguf.text_rules import TextRules
from edgeskip.core.errors import EdgeSkipError
from edgeskip.exporters.gguf.pre_tokenizer import pre_tokenizer_name
from edgeskip.models.readers.tokenizer_files import NAMED

if TYPE_CHECKING:
    from edgeskip.models.source import ModelSource

# Tokens that llama.cpp ends a text at whatever a file says, found by their text.
ENDS_BY_TEXT = frozenset(
    (
        *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>"),
        *("<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>"),
        *("<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~["),
    )
)
_EOT_BY_TEXT = frozenset(
    (
        *("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<EOT>"),
        *("_<EOT>", "[EOT]", "<｜end▁of▁sentence｜>", "<end_of_utterance>"),
    )
)
_SHOWN = 3  # tokens named in a note


@dataclass(frozen=True)
class GgufText:
    """The rules and notes of a file, the keys of its end tokens, and what its tokenizer cannot be compared on."""

    rules: TextRules
    notes: tuple[str, ...]
    end_keys: Mapping[str, int]
    unlike: re.Pattern[str] | None

    def skips(self, text: str) -> bool:
        """Return whether llama.cpp is known to read this text in its own way, which a note says."""
        return self.unlike is not None and self.unlike.search(text) is not None


def gguf_text(source: ModelSource) -> GgufText:
    """Return what a GGUF of the model records beyond llama.cpp's own keys.

    A model that is a GGUF itself keeps its keys.

    Raises:
        EdgeSkipError: If llama.cpp would read every chat otherwise, or there is no end token.
    """
    files, tokenizer = source.checkpoint.tokenizer.files, source.encoder()
    spec, config = json.loads(files["tokenizer.json"]), json.loads(files["tokenizer_config.json"])
    if config.get("split_special_tokens"):
        raise EdgeSkipError(
            f"{source.checkpoint.tokenizer.file}: 'split_special_tokens' spells special tokens out, which llama.cpp "
            "never does: take it out of tokenizer_config.json or export to ONNX instead"
        )
    rows = source.decoder.config.vocab_size
    added = {token["id"]: token for token in spec["added_tokens"] if token["id"] < rows}
    beyond = [token["content"] for token in spec["added_tokens"] if token["id"] >= rows]
    normal = _control_by_text(spec, added)
    space, doubtful = space_rule(spec, has_template=bool(config.get("chat_template")))
    notes, unlike = [], [re.escape(token) for token in (*beyond, *normal)]
    if beyond:
        notes.append(f"{_named(beyond)}: beyond the model's embedding of {rows} rows, so not in the file")
    if normal:
        notes.append(f"{_named(normal)}: llama.cpp always takes this text for a special token")
    compose = (spec.get("normalizer") or {}).get("type") == "NFC"
    if compose:
        notes.append("llama.cpp programs do not bring text into Unicode NFC; edgeskip does")
    if space == "first":
        notes.append("llama.cpp programs put no space in front of a text without a chat template; edgeskip does")
    if doubtful:
        notes.append("llama.cpp puts a space after every special token, this tokenizer does not")
        unlike += [re.escape(token["content"]) for token in added.values()]
    if _is_tekken(spec, tokenizer):
        notes.append("llama.cpp cuts words with capitals or marks outside ASCII by a simpler rule")
        unlike.append(_CAPITALS)
    template = json.dumps(config.get("chat_template"))
    own = [name for name in config.get(NAMED) or {} if name in template]
    if own:
        notes.append(f"llama.cpp programs do not give the chat template {_named(own)}; edgeskip does")
    made = source.checkpoint.gguf is None
    if made and not source.end_tokens:
        raise EdgeSkipError(
            f"{source.checkpoint.tokenizer.file}: neither generation_config.json nor the tokenizer names an eos_token, "
            "without which llama.cpp would choose an end token itself; add it"
        )
    ends, keys = source.end_tokens, end_keys(source.end_tokens, tokenizer, config) if made else {}
    left = [str(tokenizer.id_to_token(index)) for index in ends if index not in keys.values()]
    unstopped = [token for token in left if token not in ENDS_BY_TEXT]
    if unstopped and made:
        notes.append(f"llama.cpp programs do not stop at {_named(unstopped)}: it has no more keys; edgeskip does")
    rules = TextRules(
        added=tuple(sorted(added)),
        special=tuple(sorted(index for index, token in added.items() if token["special"])),
        end_tokens=ends if made or source.checkpoint.own_end_tokens else (),
        names={key: value for key, value in config.items() if key.endswith("_token") and isinstance(value, str)},
        compose=compose,
        space=space,
        strip=_strip(spec),
    )
    return GgufText(rules, tuple(notes), keys, re.compile("|".join(unlike)) if unlike else None)


def space_rule(spec: Mapping[str, Any], *, has_template: bool) -> tuple[Literal["first", "always"] | None, bool]:
    """Return if a `Metaspace` puts a space that a text does not have, and whether llama.cpp adds others.

    llama.cpp adds one after every special token or none at all. A tokenizer that adds one at the text's very start only
    gets none if there is a chat template, for that starts with a special token; the runtime then adds it.
    """
    cut = spec.get("pre_tokenizer") or {}
    if cut.get("type") != "Metaspace":
        return None, False
    scheme = cut.get("prepend_scheme", "always" if cut.get("add_prefix_space", True) else "never")
    if scheme == "never":
        return None, False
    return ("first", False) if scheme == "first" and has_template else ("always", scheme == "first")


def end_keys(ends: Sequence[int], tokenizer: Any, config: Mapping[str, Any]) -> dict[str, int]:
    """Return llama.cpp's keys for end tokens: `eos_token_id` always, the others for those it does not know by text."""
    eos = tokenizer.token_to_id(config.get("eos_token") or "")
    first = eos if eos in ends else ends[0]
    known = {tokenizer.token_to_id(token) for token in _EOT_BY_TEXT} - {None}
    names = ["eom", "eot"] if known else ["eot", "eom"]
    others = [index for index in ends if index != first and tokenizer.id_to_token(index) not in ENDS_BY_TEXT]
    pairs = zip(names, others, strict=False)
    return {"tokenizer.ggml.eos_token_id": first} | {f"tokenizer.ggml.{name}_token_id": index for name, index in pairs}


# Letters outside ASCII and marks: tekken's rule depends on which of them are capitals, llama.cpp's does not.
_CAPITALS = r"[^\W\d_a-zA-Z]|[\u0300-\u0e7f]"


def _is_tekken(spec: Mapping[str, Any], tokenizer: Any) -> bool:
    if (spec.get("pre_tokenizer") or {}).get("type") != "Sequence":
        return False
    fit = pre_tokenizer_name(tokenizer)
    return fit is not None and fit[0] == "tekken"


def _control_by_text(spec: Mapping[str, Any], added: Mapping[int, Any]) -> list[str]:
    """Return plain tokens of the vocabulary whose text llama.cpp takes for an end of text."""
    vocabulary = spec["model"].get("vocab")
    if not isinstance(vocabulary, dict):
        return []
    return sorted(token for token in ENDS_BY_TEXT if vocabulary.get(token, -1) not in (-1, *added))


def _strip(spec: Mapping[str, Any]) -> Literal["one", "all"] | None:
    """Return what the decoder leaves out at a text's start: one space, or all that its first token has."""
    decoder = spec.get("decoder") or {}
    steps = decoder.get("decoders", [decoder])
    if any(step.get("type") == "Metaspace" and step.get("prepend_scheme", "always") != "never" for step in steps):
        return "all"
    return "one" if any(step.get("type") == "Strip" and step.get("start", 0) > 0 for step in steps) else None


def _named(tokens: Sequence[str]) -> str:
    more = len(tokens) - _SHOWN
    return ", ".join(map(repr, tokens[:_SHOWN])) + (f" and {more} more" if more > 0 else "")

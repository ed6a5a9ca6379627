"""The tokenizer files that EdgeSkip writes: what transformers loads from a folder, in a form that every version of it
and the runtime read alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.readers.loaded_tokenizer import CONFIG, TOKENIZER, LoadedTokenizer, normalized

SPECIAL_TOKENS_MAP = "special_tokens_map.json"
ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
NAMED = "extra_special_tokens"  # in tokenizer_config.json: name → token of those that have no such role
# Copied from transformers' object if they are set.
_PLAIN = ("padding_side", "truncation_side", "model_input_names", "clean_up_tokenization_spaces")
_NO_LIMIT = 10**18  # transformers writes 10³⁰ if a folder names no length


def tokenizer_files(loaded: LoadedTokenizer, folder: Path) -> dict[str, bytes]:
    """Return file name → content: tokenizer.json, tokenizer_config.json (with the chat template) and
    special_tokens_map.json.

    The class is the generic one on purpose: transformers builds the named ones (LlamaTokenizer …) by its own rules,
    which differ between its versions, and all that they changed is in tokenizer.json now. `folder` is for messages.

    Raises:
        Raises EdgeSkipError if the tokenizers library reads other ids from the file than transformers has.
    """
    spec = normalized(loaded)
    text = json.dumps(spec, ensure_ascii=False)
    _check_ids(text, loaded, folder)
    try:
        named, special = _named_tokens(loaded.auto), _special_tokens(loaded.auto)
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **special, **_settings(loaded, spec)}
        if named:  # transformers 4.57 reads them in a table, 5 there and, as it writes them, beside the roles
            beside = {name: token for name, token in named.items() if name.endswith("_token")}
            config = {**beside, **config, NAMED: named}
        return {TOKENIZER: text.encode("utf-8"), CONFIG: _json(config), SPECIAL_TOKENS_MAP: _json(special)}
    except Exception as error:  # transformers takes any value from tokenizer_config.json and fails when it uses it
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise EdgeSkipError(
            f"{folder}: its tokenizer_config.json has an unusable value ({reason}): fetch the model again"
        ) from None


def _special_tokens(auto: Any) -> dict[str, Any]:
    """Return role or list → tokens, as transformers has them after loading."""
    found: dict[str, Any] = {f"{role}_token": getattr(auto, f"{role}_token", None) for role in ROLES}
    named = {role: str(token) for role, token in found.items() if token is not None}
    # transformers 4.57 says "additional", 5 says "extra"; both read the older name.
    others = getattr(auto, "extra_special_tokens", None) or []
    if isinstance(others, dict) or not others:  # 4.57's table of named ones
        others = getattr(auto, "additional_special_tokens", None) or []
    return named | ({"additional_special_tokens": [str(token) for token in others]} if others else {})


def _named_tokens(auto: Any) -> dict[str, str]:
    """Return name → token of those that have no usual role (`image_token`, say), which a chat template may name."""
    roles = {f"{role}_token" for role in ROLES}
    found = auto.special_tokens_map.items()
    return {name: str(token) for name, token in found if name not in roles and not isinstance(token, list)}


def _settings(loaded: LoadedTokenizer, spec: dict[str, Any]) -> dict[str, Any]:
    """Return what tokenizer_config.json says apart from the special tokens."""
    auto = loaded.auto
    settings = {name: getattr(auto, name) for name in _PLAIN if getattr(auto, name, None) is not None}
    if 0 < auto.model_max_length < _NO_LIMIT:
        settings["model_max_length"] = int(auto.model_max_length)
    if loaded.splits_special_tokens:
        settings["split_special_tokens"] = True
    cut = spec.get("pre_tokenizer") or {}
    if "add_prefix_space" in cut:  # transformers 4.57 sets it to what this says, or to false
        settings["add_prefix_space"] = cut["add_prefix_space"]
    plain, full = (loaded.backend.encode("a", add_special_tokens=added).ids for added in (False, True))
    for role in ("bos", "eos"):
        index = getattr(auto, f"{role}_token_id", None)
        at = 0 if role == "bos" else -1
        settings[f"add_{role}_token"] = len(full) > len(plain) and index is not None and full[at] == index
    added = loaded.backend.get_added_tokens_decoder()
    settings["added_tokens_decoder"] = {
        str(index): {
            "content": token.content,
            "lstrip": token.lstrip,
            "normalized": token.normalized,
            "rstrip": token.rstrip,
            "single_word": token.single_word,
            "special": token.special,
        }
        for index, token in sorted(added.items())
    }
    template = auto.chat_template
    if isinstance(template, dict):
        template = [{"name": name, "template": source} for name, source in template.items()]
    if template:
        settings["chat_template"] = template
    return settings


def _check_ids(text: str, loaded: LoadedTokenizer, folder: Path) -> None:
    """Raise EdgeSkipError if the written tokenizer.json numbers tokens otherwise than transformers does.

    The library numbers added tokens anew if the vocabulary has gaps below them.
    """
    from tokenizers import Tokenizer

    try:
        read = Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises plain Exception
        reason = str(error).strip().split("\n")[0]
        raise EdgeSkipError(f"{folder}: its tokenizer cannot be saved ({reason}): report this") from None
    ours, theirs = read.get_vocab(with_added_tokens=True), loaded.backend.get_vocab(with_added_tokens=True)
    if ours != theirs:
        token = min(set(ours.items()) ^ set(theirs.items()), key=lambda item: item[1])[0]
        raise EdgeSkipError(
            f"{folder}: transformers gives the token {token!r} the id {theirs.get(token)}, a saved {TOKENIZER} gives "
            f"{ours.get(token)}: the ids of its vocabulary have gaps; save it again with transformers"
        )


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode("utf-8")

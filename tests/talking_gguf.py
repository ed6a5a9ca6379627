"""Tiny random GGUF files that carry a tokenizer and a chat template, so that a session can talk to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny_gguf import Kind, write_tiny_gguf
from tiny_models import BOS, CHAT_TEMPLATE, END, tiny_model, tiny_tokenizer

CONTROL, NORMAL = 3, 1  # tokenizer.ggml.token_type


def byte_level_metadata() -> dict[str, Any]:
    """The keys of `tiny_tokenizer`, whose special tokens come first: BOS is 0, END is 1."""
    state = json.loads(tiny_tokenizer().to_str())["model"]
    tokens = sorted(state["vocab"], key=state["vocab"].__getitem__)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [CONTROL if token in (BOS, END) else NORMAL for token in tokens],
        "tokenizer.ggml.merges": [pair if isinstance(pair, str) else " ".join(pair) for pair in state["merges"]],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def talking_gguf(
    path: Path, metadata: dict[str, Any] | None = None, *, family: str = "llama", kind: Any = Kind.F32, **config: Any
) -> tuple[Path, Any]:
    """(file, the transformers model in it): 4 blocks, 512 positions; `metadata` adds keys, None removes one."""
    own = byte_level_metadata()
    keys = {**own, **(metadata or {})}
    tokens = keys["tokenizer.ggml.tokens"] or own["tokenizer.ggml.tokens"]
    model = tiny_model(family, vocab_size=len(tokens), **config)
    return write_tiny_gguf(model, path, kind=kind, metadata=keys), model

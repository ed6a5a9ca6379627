"""SentencePiece models trained by the package itself."""

from __future__ import annotations

import io
from collections.abc import Iterable

import pytest


def bpe_model(texts: Iterable[str]) -> bytes:
    """A `tokenizer.model` of 900 pieces, byte pieces among them; skips the test where the package is absent."""
    package = pytest.importorskip("sentencepiece")
    written = io.BytesIO()
    package.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in texts for line in text.split("\n") if line]),
        model_writer=written,
        vocab_size=900,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=0.98,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return written.getvalue()

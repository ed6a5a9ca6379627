"""Perplexity and divergence in numbers: windows of token ids, logits in, nats out. Knows no artifact and no file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.errors import EdgeSkipError

Rows = NDArray[np.floating[Any]]
ROWS = 128  # in float64 at once


def cut_windows(ids: Sequence[int], count: int, length: int) -> list[NDArray[np.int64]]:
    """Return the first `count` windows of `length` token ids, end to end.

    Raises EdgeSkipError if the text has fewer.
    """
    if len(ids) < count * length:
        raise EdgeSkipError(f"the test text has {len(ids)} tokens, not {count} × {length}")
    return [np.array(ids[i * length : (i + 1) * length], dtype=np.int64) for i in range(count)]


def negative_log_likelihood(logits: Rows, tokens: NDArray[np.int64]) -> float:
    """Sum in nats of −ln p(tokens[i+1] | tokens[: i+1]); logits [n, V] of tokens [n]. In float64, by slices of rows."""
    total = 0.0
    for start in range(0, len(tokens) - 1, ROWS):
        rows = logits[start : min(start + ROWS, len(tokens) - 1)].astype(np.float64)
        target = rows[np.arange(len(rows)), tokens[start + 1 : start + 1 + len(rows)]]
        top = rows.max(axis=1)
        total += float(np.sum(top + np.log(np.exp(rows - top[:, None]).sum(axis=1)) - target))
    return total


def divergence(reference: Rows, logits: Rows) -> tuple[float, int]:
    """Of logits [n, V] each: KL(reference ‖ logits) in nats summed over the rows, and in how many rows the likeliest
    token is the same. In float64, by slices of rows."""
    total, agreeing = 0.0, 0
    for start in range(0, len(logits), ROWS):
        p = _log_probabilities(reference[start : start + ROWS])
        q = _log_probabilities(logits[start : start + ROWS])
        agreeing += int(np.sum(p.argmax(axis=1) == q.argmax(axis=1)))
        # What the reference rules out (p = 0) adds nothing, whatever q says.
        total += float(np.sum(np.multiply(np.exp(p), p - q, out=np.zeros_like(p), where=p > -np.inf)))
    return total, agreeing


def _log_probabilities(logits: Rows) -> NDArray[np.float64]:
    rows = logits.astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return rows

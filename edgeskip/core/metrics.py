"""How far one model's logits are from another's: log-softmax, KL divergence, top-1 agreement."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_ROWS_AT_ONCE = 32  # vocabulary-wide rows in float64


class LogitComparison(NamedTuple):
    """How logits differ from reference logits, over their rows."""

    max_difference: float
    """Largest |Δlogit|."""
    kl_divergence: float
    """Mean KL(reference ‖ other), nats per row."""
    top1_agreement: float
    """Share of rows whose largest logit is the same, 0 to 1."""


def log_softmax(logits: NDArray[Any]) -> NDArray[Any]:
    """Return log-softmax over the last axis, in the dtype of `logits` [..., vocab_size]."""
    shifted: NDArray[Any] = logits - logits.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def kl_divergence(log_p: NDArray[Any], log_q: NDArray[Any]) -> NDArray[np.float64]:
    """Return KL(p ‖ q) of each row in nats, float64 [n], from log-probabilities [n, vocab_size]."""
    return np.asarray((np.exp(log_p) * (log_p - log_q)).sum(axis=-1, dtype=np.float64))


def compare_logits(reference: NDArray[np.float32], other: NDArray[np.float32]) -> LogitComparison:
    """Compare logits [n, vocab_size] with reference logits of the same shape, in float64.

    Returns:
        Numbers that are NaN where logits are not finite: no bound admits a NaN.

    Example:
        >>> import numpy as np
        >>> logits = np.array([[0.0, 1.0, 2.0]], np.float32)
        >>> compare_logits(logits, logits + 1)
        LogitComparison(max_difference=1.0, kl_divergence=0.0, top1_agreement=1.0)
    """
    difference, kl, agreed = 0.0, 0.0, 0
    with np.errstate(invalid="ignore"):
        for start in range(0, len(reference), _ROWS_AT_ONCE):
            a = reference[start : start + _ROWS_AT_ONCE].astype(np.float64)
            b = other[start : start + _ROWS_AT_ONCE].astype(np.float64)
            difference = float(np.maximum(difference, np.abs(a - b).max()))
            kl += float(kl_divergence(log_softmax(a), log_softmax(b)).sum())
            agreed += int((a.argmax(axis=-1) == b.argmax(axis=-1)).sum())
    return LogitComparison(difference, kl / len(reference), agreed / len(reference))

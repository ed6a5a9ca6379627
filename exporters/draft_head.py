"""The head of an early-exit draft: from the decoder and what calibration found to the weights a lowering writes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeskip.exporters.decoder import Decoder, Linear, Norm, Tensor, constant

Float32 = NDArray[np.float32]
ROWS_AT_ONCE = 4096  # of a head that is multiplied by a map, so that memory stays small


@dataclass(frozen=True)
class DraftHead:
    """Draft logits = head · map · RMSNorm(exit state; norm).

    `map` [d, d] is None where there is none or `head` holds it already. `head` None is the model's own (whose matrix is
    shared with the verifier), else [V', d]. `tokens` int64 [V'] are the ids of its rows, None = all in order.
    """

    norm: Norm
    map: Linear | None = None
    head: Linear | None = None
    tokens: NDArray[np.int64] | None = None


def draft_head(
    decoder: Decoder, exit_map: Float32 | None, tokens: NDArray[np.int64] | None, *, fold: bool = False
) -> DraftHead:
    """The head of an exit of `decoder`.

    `exit_map` A [d, d] takes the RMS-normalised exit state to the final normalised state (design §7); None = the
    model's own norm and head. `tokens` trims the head to these rows (FR-Spec, arXiv 2502.14856 §3). A trimmed head is
    a matrix of its own, so the map is folded into it, head · A; the whole head is folded only with `fold`, because
    that is a second copy of the largest matrix, where applying A costs hidden_size / vocab_size of the head.
    """
    norm = decoder.norm
    if exit_map is not None:
        norm = Norm(constant("exit_norm.weight", np.ones(decoder.config.hidden_size, np.float32)), norm.eps)
    if tokens is None and not (fold and exit_map is not None):
        return DraftHead(norm, Linear(constant("exit_map.weight", exit_map)) if exit_map is not None else None)
    own = decoder.head.weight if decoder.head else decoder.embedding
    bias = decoder.head.bias if decoder.head else None
    rows = decoder.config.vocab_size if tokens is None else len(tokens)

    def weight() -> Float32:
        chosen = own.read() if tokens is None else own.read()[tokens]
        if exit_map is None:
            return np.ascontiguousarray(chosen)
        result = np.empty_like(chosen)
        for start in range(0, len(chosen), ROWS_AT_ONCE):
            np.matmul(chosen[start : start + ROWS_AT_ONCE], exit_map, out=result[start : start + ROWS_AT_ONCE])
        return result

    def trimmed_bias() -> Float32:
        assert bias is not None
        return bias.read() if tokens is None else bias.read()[tokens]

    head = Linear(
        Tensor("draft_head.weight", (rows, decoder.config.hidden_size), weight),
        Tensor("draft_head.bias", (rows,), trimmed_bias) if bias else None,
    )
    return DraftHead(norm, None, head, tokens)

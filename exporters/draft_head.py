"""The head of an early-exit draft: from the decoder and what calibration found to the weights a lowering writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeskip.errors import EdgeSkipError
from edgeskip.exporters.decoder import Decoder, Linear, Norm, Tensor, constant

if TYPE_CHECKING:
    from edgeskip.exporters.families.source import ModelSource
    from edgeskip.profile import Profile, Vectors

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


def exit_map_of(profile: Profile, vectors: Vectors | None, layer: int) -> tuple[Float32 | None, float | None]:
    """The calibrated map of an exit, None where the model's own head does as well or the exit was not calibrated.

    With it the share of held-out tokens that the better of the two predicted as the full model, None = not calibrated.
    """
    found = next((statistics for statistics in profile.exits if statistics.layer == layer), None)
    if found is None:
        return None, None
    exit_map = vectors.exit_maps.get(layer) if vectors else None
    if exit_map is None or (found.ridge_agreement or 0.0) <= found.plain_agreement:
        return None, found.plain_agreement
    return exit_map, found.ridge_agreement


def draft_tokens(source: ModelSource, vectors: Vectors | None, size: int | None) -> NDArray[np.int64] | None:
    """Ids [size], ascending, of the tokens a trimmed head knows: the corpus' most frequent, and the model's ends of
    text. None for the whole vocabulary. EdgeSkipError where the profile has no counts."""
    if size is None:
        return None
    counts = vectors.token_counts if vectors else None
    if counts is None:
        raise EdgeSkipError("--draft-vocab needs the corpus' token counts, which this profile lacks: calibrate again")
    from edgeskip.draft_vocabulary import draft_vocabulary

    return draft_vocabulary(counts, size, end_tokens(source))


def end_tokens(source: ModelSource) -> list[int]:
    """Ids that end a text of the model's, as its generation config says, or else its config."""
    for settings in (source.generation_config, source.config):
        ids = settings.get("eos_token_id")
        if ids is not None:
            return [ids] if isinstance(ids, int) else list(ids)
    return []

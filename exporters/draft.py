"""An early-exit draft: its head, and a trained block before it, as weights that a lowering writes."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.errors import EdgeSkipError
from edgeskip.exporters.bake import on_scaled_stream
from edgeskip.exporters.split import exit_plan
from edgeskip.models.decoder import Attention, Decoder, FeedForward, Linear, Norm, Tensor, constant
from edgeskip.models.families.architecture_config import ArchitectureConfig
from edgeskip.models.families.canonical import extra_block
from edgeskip.profiles.exit_adapter import ExitAdapter

if TYPE_CHECKING:
    from edgeskip.artifacts.manifest import ExitHead
    from edgeskip.core.plan import Plan
    from edgeskip.exporters.job import ExportJob
    from edgeskip.models.source import ModelSource
    from edgeskip.profiles.schema import Profile
    from edgeskip.profiles.vectors import Vectors

Float32 = NDArray[np.float32]
ROWS_AT_ONCE = 4096  # of a head that is multiplied by a map, so that memory stays small


@dataclass(frozen=True)
class DraftHead:
    """Draft logits = head · map · RMSNorm(block(exit state); norm).

    `block` is one more block, with its own KV cache; None = the exit state itself. `map` [d, d] is None if there
    is none or `head` holds it already. `head` None is the model's own (whose matrix is shared with the verifier),
    else [V', d]. `tokens` int64 [V'] are the ids of its rows, None = all in order.
    """

    norm: Norm
    map: Linear | None = None
    head: Linear | None = None
    tokens: NDArray[np.int64] | None = None
    block: tuple[Attention, FeedForward] | None = None


@dataclass(frozen=True)
class ChosenHead:
    """What an exit drafts with: `adapter` None = the model's own norm and head, else a map and perhaps a block,
    calibrated (`ridge`) or trained. `agreement`: the share of held-out tokens that it predicted as the full model,
    None = not measured."""

    kind: ExitHead = "plain"
    adapter: ExitAdapter | None = None
    agreement: float | None = None


PLAIN = ChosenHead()


@dataclass(frozen=True)
class ExitDraft:
    """An exit after the model's first `layer` blocks; `head` holds what was `chosen` for it."""

    layer: int
    head: DraftHead
    chosen: ChosenHead = PLAIN


def exit_draft(job: ExportJob, decoder: Decoder, layer: int, *, fold: bool = False) -> ExitDraft:
    """Return the job's draft at one exit of the baked `decoder`; see `draft_head` for `fold`.

    Raises:
        EdgeSkipError: If the profile has no token counts for a trimmed head, or its trained block does not fit.
    """
    chosen = chosen_head(job.profile, job.vectors, layer)
    tokens = draft_tokens(job.source, job.vectors, job.draft.vocabulary if job.draft else None)
    block = exit_block(job.source, chosen.adapter, job.plan, layer)
    exit_map = chosen.adapter.map if chosen.adapter else None
    return ExitDraft(layer, draft_head(decoder, exit_map, tokens, fold=fold, block=block), chosen)


def draft_head(
    decoder: Decoder,
    exit_map: Float32 | None,
    tokens: NDArray[np.int64] | None,
    *,
    fold: bool = False,
    block: tuple[Attention, FeedForward] | None = None,
) -> DraftHead:
    """Return the head of an exit of `decoder`, after `block` if there is one.

    `exit_map` A [d, d] takes the RMS-normalized exit state to the final normalized state; None = the
    model's own norm and head. `tokens` trims the head to these rows (FR-Spec, arXiv 2502.14856 §3). A trimmed head is a
    separate matrix, so the map is folded into it, head · A; the whole head is folded only with `fold`, because that
    is a second copy of the largest matrix, where applying A costs hidden_size / vocab_size of the head.
    """
    norm = decoder.norm
    if exit_map is not None:
        norm = Norm(constant("exit_norm.weight", np.ones(decoder.config.hidden_size, np.float32)), norm.eps)
    if tokens is None and not (fold and exit_map is not None):
        linear = Linear(constant("exit_map.weight", exit_map)) if exit_map is not None else None
        return DraftHead(norm, linear, block=block)
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
    return DraftHead(norm, None, head, tokens, block)


def chosen_head(profile: Profile, vectors: Vectors | None, layer: int) -> ChosenHead:
    """Choose what drafts at an exit: the candidate that agrees most often with the full model.

    The trained adapter is preferred unless something else was measured to agree more often, then the calibrated
    map, then the model's own head, which also stands in if the exit is not known.
    """
    found = next((statistics for statistics in profile.exits if statistics.layer == layer), None)
    if found is None:
        return PLAIN
    best = ChosenHead(agreement=found.plain_agreement)
    exit_map = vectors.exit_maps.get(layer) if vectors else None
    if exit_map is not None and (found.ridge_agreement or 0.0) > found.plain_agreement:
        best = ChosenHead("ridge", ExitAdapter(exit_map), found.ridge_agreement)
    trained = vectors.exit_adapters.get(layer) if vectors else None
    if trained is not None and (found.adapter_agreement is None or found.adapter_agreement >= (best.agreement or 0.0)):
        best = ChosenHead(trained.kind, trained, found.adapter_agreement)
    return best


def draft_tokens(source: ModelSource, vectors: Vectors | None, size: int | None) -> NDArray[np.int64] | None:
    """Return the tokens that a trimmed head knows: the corpus' most frequent ones, and the model's ends of text.

    Returns:
        Ids int64 [size], ascending; None for the whole vocabulary.

    Raises:
        EdgeSkipError: If the profile has no counts.
    """
    if size is None:
        return None
    counts = vectors.token_counts if vectors else None
    if counts is None:
        raise EdgeSkipError("--draft-vocab needs the corpus' token counts, which this profile lacks: calibrate again")
    from edgeskip.profiles.draft_vocabulary import draft_vocabulary

    return draft_vocabulary(counts, size, list(source.end_tokens))


def exit_block(
    source: ModelSource, adapter: ExitAdapter | None, plan: Plan, layer: int
) -> tuple[Attention, FeedForward] | None:
    """Return the block of the adapter of exit `layer`, for the model under `plan`; None if the adapter has none.

    What blocks of a family may differ in (rotary positions, window) is as in the model's first. Its weights go by
    `exit.E.adapter.block.NAME`, so that nothing measured of the model's own is taken for theirs.

    Raises:
        EdgeSkipError: If they are not of the model's shape.
    """
    if adapter is None or not adapter.block:
        return None
    weights = {name: constant(f"exit.{layer}.adapter.block.{name}", array) for name, array in adapter.block.items()}
    try:
        pair = extra_block(source.checkpoint.family, ArchitectureConfig(source.config, source.checkpoint.file), weights)
    except EdgeSkipError as error:
        raise EdgeSkipError(
            f"the trained block of exit layer {layer} is not of {source.name}'s shape: train it again ({error})"
        ) from None
    # The baked stream at the exit is divided by the scales of what was skipped before.
    scale = prod(skip.scale for skip in exit_plan(plan, layer).skips)
    attention, feed_forward = (on_scaled_stream(sublayer, scale) for sublayer in pair)
    assert isinstance(attention, Attention)
    assert isinstance(feed_forward, FeedForward)
    return attention, feed_forward

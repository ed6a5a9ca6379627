"""A decoder cut at an exit layer: the first blocks with the head, a draft of their own, and the rest (design §6)."""

from __future__ import annotations

from dataclasses import replace

from edgeskip.errors import EdgeSkipError
from edgeskip.exporters.decoder import Attention, Decoder, FeedForward


def check_exit_layer(exit_layer: int, num_blocks: int) -> None:
    """EdgeSkipError unless blocks 0 … exit_layer-1 leave at least one block for the rest."""
    if not 1 <= exit_layer < num_blocks:
        raise EdgeSkipError(
            f"--exit-layer {exit_layer} is not possible: the model has {num_blocks} blocks, choose 1 … {num_blocks - 1}"
        )


def first_part(decoder: Decoder, exit_layer: int) -> Decoder:
    """The kept sublayers of blocks 0 … exit_layer-1 (the model's own numbering), the final norm and the head.

    The bias of a sublayer skipped right after them is in the last one's, as in the whole. EdgeSkipError where none is
    kept.
    """
    return replace(decoder, sublayers=_kept(decoder, range(exit_layer), "before"))


def rest_part(decoder: Decoder, exit_layer: int) -> Decoder:
    """The kept sublayers after them, the final norm and the head. Its input is the exit state.

    llama.cpp wants an embedding in every file: here the head's matrix serves, unused as an embedding.
    """
    kept = _kept(decoder, range(exit_layer, decoder.config.num_blocks), "after")
    embedding = decoder.head.weight if decoder.head else decoder.embedding
    return replace(decoder, embedding=embedding, sublayers=kept, head=None, embedding_bias=None)


def _kept(decoder: Decoder, blocks: range, where: str) -> tuple[Attention | FeedForward, ...]:
    kept = tuple(sublayer for sublayer in decoder.sublayers if sublayer.block in blocks)
    if not kept:
        raise EdgeSkipError(f"the plan skips every sublayer {where} the exit layer: choose another --exit-layer")
    return kept

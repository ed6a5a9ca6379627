"""A decoder cut at an exit layer: the first blocks with the head, a draft of their own, and the rest (design §6)."""

from __future__ import annotations

from dataclasses import replace

from edgeskip.exporters.split import kept_between
from edgeskip.models.decoder import Attention, Decoder, FeedForward


def first_part(decoder: Decoder, exit_layer: int, block: tuple[Attention, FeedForward] | tuple[()] = ()) -> Decoder:
    """Return the kept sublayers of blocks 0 … exit_layer-1 (the model's own numbering), the exit's own `block` if it
    has one, the final norm and the head.

    Raises:
        EdgeSkipError: If none is kept.
    """
    return replace(decoder, sublayers=(*kept_between(decoder, 0, exit_layer), *block))


def rest_part(decoder: Decoder, exit_layer: int) -> Decoder:
    """Return the kept sublayers after them, the final norm and the head. Its input is the exit state.

    llama.cpp wants an embedding in every file: here the head's matrix serves, unused as an embedding.
    """
    kept = kept_between(decoder, exit_layer, decoder.config.num_blocks)
    embedding = decoder.head.weight if decoder.head else decoder.embedding
    return replace(decoder, embedding=embedding, sublayers=kept, head=None, embedding_bias=None)

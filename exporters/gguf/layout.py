"""A baked decoder as the blocks of a llama.cpp architecture: the family's own if it can hold them, else `deci`.

A llama.cpp block is attention, then FFN. Kept sublayers are paired in their order, whatever blocks they come from, so
a plan that leaves attention and FFN alternating needs no more than fewer blocks. Otherwise `deci` (per-block head
counts and FFN widths, src/models/deci.cpp) holds blocks without attention, and stubs that add zero: its graph loses an
attention whose FFN has width 0, and needs attention in its first block.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.decoder import Attention, Decoder, FeedForward, Linear, Tensor

DECI = "deci"
NO_ROPE_INTERVAL = 4  # llama.cpp's smollm3: no rotary embedding in every 4th block, by its position in the file


@dataclass(frozen=True)
class Stub:
    """Half a block that adds nothing but `bias` [d]: one head with a zero output, or an FFN of width 32 with one."""

    bias: Tensor | None = None


@dataclass(frozen=True)
class GgufBlock:
    """One block of the file; `attention` None = attention-free."""

    attention: Attention | Stub | None
    feed_forward: FeedForward | Stub


@dataclass(frozen=True)
class Layout:
    """`interleaved`: llama.cpp rotates adjacent pairs in this architecture, so rows of q and k are reordered."""

    architecture: str
    blocks: tuple[GgufBlock, ...]
    interleaved: bool


@dataclass(frozen=True)
class _Architecture:
    """What a llama.cpp architecture takes beyond attention and FFN with RMSNorm in every block."""

    name: str
    interleaved: bool
    output_biases: bool = False  # on attn_output and the FFN
    qk_norm: bool = False
    rope_factors: bool = False  # Llama 3's frequencies, a tensor
    no_rope: bool = False


_OWN = {
    "llama": _Architecture("llama", interleaved=True, output_biases=True, rope_factors=True),
    "mistral": _Architecture("llama", interleaved=True, output_biases=True, rope_factors=True),
    "qwen2": _Architecture("qwen2", interleaved=False),
    "qwen3": _Architecture("qwen3", interleaved=False, qk_norm=True),
    "smollm3": _Architecture("smollm3", interleaved=True, no_rope=True),
}
_DECI = _Architecture(DECI, interleaved=True, output_biases=True, rope_factors=True)


def lay_out(decoder: Decoder, *, trailing_stub: bool = False, architecture: str | None = None) -> Layout:
    """Choose the architecture and pair the sublayers. `architecture` DECI forces that one.

    `trailing_stub` appends a block that adds nothing: without one, llama.cpp's last block keeps only the rows that
    logits are wanted of.
    """
    own = _OWN[decoder.config.family]
    blocks = _paired(decoder)
    if trailing_stub:
        blocks.append(GgufBlock(None, Stub()))
    obstacle = _obstacle(decoder, blocks, own)
    if obstacle is None and architecture in (None, own.name):
        return Layout(own.name, tuple(blocks), own.interleaved)
    deci_obstacle = _obstacle(decoder, blocks, _DECI)
    if deci_obstacle is None:
        return Layout(DECI, tuple(_with_first_attention(blocks)), _DECI.interleaved)
    raise EdgeSkipError(
        f"llama.cpp cannot hold this plan: its architecture {own.name!r} has {obstacle or 'no stub blocks'} and 'deci' "
        f"has {deci_obstacle}; for {decoder.config.family} skip whole blocks, e.g. --skip attn.7,ffn.7"
        + (f" (and keep every {NO_ROPE_INTERVAL}th block of the result one without rope)" if own.no_rope else "")
        + (", with compensation none or scale" if not own.output_biases else "")
    )


def lay_out_pair(decoder: Decoder, fewer: Decoder) -> tuple[Layout, Layout]:
    """Return layouts of `decoder` and of `fewer`, the same model without some FFNs, that can exchange KV caches.

    They have the same number of blocks, and attention at the same places, rotated alike. An FFN that is gone leaves a
    stub, which only `deci` has.

    Raises:
        EdgeSkipError: If llama.cpp cannot hold that.
    """
    own = _OWN[decoder.config.family]
    try:
        first = lay_out(decoder, architecture=None if own.interleaved else DECI)
    except EdgeSkipError as error:
        raise EdgeSkipError(f"{error}; or export without --online") from None
    kept = {sublayer.sublayer: sublayer for sublayer in fewer.sublayers}
    blocks: list[GgufBlock] = []
    for block in first.blocks:
        attention: Attention | FeedForward | Stub | None = block.attention
        feed_forward: Attention | FeedForward | Stub = block.feed_forward
        if isinstance(attention, Attention):
            attention = kept[attention.sublayer]
        elif attention is not None and not blocks:
            attention = Stub(fewer.embedding_bias)
        if isinstance(feed_forward, FeedForward):
            feed_forward = kept.get(feed_forward.sublayer, Stub())
        assert not isinstance(attention, FeedForward)
        assert not isinstance(feed_forward, Attention)
        blocks.append(GgufBlock(attention, feed_forward))
    if (obstacle := _obstacle(fewer, blocks, _DECI)) is not None:
        raise EdgeSkipError(
            f"llama.cpp cannot leave out an FFN of {decoder.config.family} while decoding: 'deci', the architecture "
            f"that could, has {obstacle}: export without --online"
        )
    return first, Layout(DECI, tuple(blocks), _DECI.interleaved)


def _paired(decoder: Decoder) -> list[GgufBlock]:
    blocks: list[GgufBlock] = []
    pending: Attention | Stub | None = Stub(decoder.embedding_bias) if decoder.embedding_bias else None
    for sublayer in decoder.sublayers:
        if isinstance(sublayer, FeedForward):
            blocks.append(GgufBlock(pending, sublayer))
            pending = None
            continue
        if pending is not None:
            blocks.append(GgufBlock(pending, Stub()))
        pending = sublayer
    if pending is not None:
        blocks.append(GgufBlock(pending, Stub()))
    return blocks


def _with_first_attention(blocks: list[GgufBlock]) -> list[GgufBlock]:
    """Return the blocks with a head in the first one, from which llama.cpp takes every head size."""
    if blocks and blocks[0].attention is None:
        return [GgufBlock(Stub(), blocks[0].feed_forward), *blocks[1:]]
    return blocks


def _obstacle(decoder: Decoder, blocks: list[GgufBlock], target: _Architecture) -> str | None:
    """Return what `target` lacks, completing "has …"; None if it holds the decoder."""
    plain = all(isinstance(b.attention, Attention) and isinstance(b.feed_forward, FeedForward) for b in blocks)
    if target.name != DECI and not plain:
        return "an attention and an FFN in every block"
    attentions = [block.attention for block in blocks if isinstance(block.attention, Attention)]
    if not target.qk_norm and any(attention.q_norm for attention in attentions):
        return "no query and key norms"
    if not target.output_biases and any(map(_output_bias, decoder.sublayers)):
        return "no bias on what a sublayer adds"
    scaling = decoder.config.rope.scaling or {}
    if not target.rope_factors and scaling.get("rope_type") == "llama3":
        return "no Llama 3 rope scaling"
    for index, block in enumerate(blocks):
        rotary = not (target.no_rope and (index + 1) % NO_ROPE_INTERVAL == 0)
        if isinstance(block.attention, Attention) and block.attention.rotary != rotary:
            return f"rope in block {index} of the file" if rotary else f"no rope in block {index} of the file"
    return None


def _output_bias(sublayer: Attention | FeedForward) -> bool:
    linears: tuple[Linear, ...] = (
        (sublayer.o,) if isinstance(sublayer, Attention) else (sublayer.gate, sublayer.up, sublayer.down)
    )
    return any(linear.bias for linear in linears)

"""The tensors of a GGUF under llama.cpp's names, and the bytes each is stored as."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskip.exporters.gguf.blocks import encode, kept_bytes
from edgeskip.exporters.gguf.layout import GgufBlock, Layout, Stub
from edgeskip.exporters.gguf.metadata import STUB_WIDTH
from edgeskip.models.decoder import Attention, Decoder, FeedForward, Float32, Linear, Norm, Tensor, constant


@dataclass(frozen=True)
class NamedTensor:
    """A weight and its name in the file; `heads` > 0: so many heads' rows are paired up for adjacent-pair rotation."""

    name: str
    tensor: Tensor
    heads: int = 0


def named_tensors(decoder: Decoder, layout: Layout) -> list[NamedTensor]:
    """Return every tensor of the file, in file order; weights stay lazy."""
    found = [NamedTensor("token_embd.weight", decoder.embedding)]
    if (decoder.config.rope.scaling or {}).get("rope_type") == "llama3":
        found.append(NamedTensor("rope_freqs.weight", _rope_factors(decoder)))
    for index, block in enumerate(layout.blocks):
        found += _block_tensors(f"blk.{index}", block, decoder, layout)
    found.append(NamedTensor("output_norm.weight", decoder.norm.weight))
    if decoder.head is not None:
        found += _linear("output", decoder.head)
    return found


def stored_bytes(named: NamedTensor, kind: str, *, keep: bool) -> NDArray[np.uint8]:
    """Return uint8 [rows…, bytes a row] of ggml's type `kind`; `keep` takes the blocks that the model came with."""
    tensor = named.tensor
    if keep and tensor.blocks is not None and tensor.blocks.kind == kind:
        rows = kept_bytes(tensor.blocks, named.name)
    else:
        rows = encode(tensor.read(), kind)
    if not named.heads:
        return rows
    if len(tensor.shape) == 1:  # a bias: its elements are the rows
        return paired_up(rows.reshape(tensor.shape[0], -1), named.heads).reshape(-1)
    return paired_up(rows, named.heads)


def paired_up(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """Reorder rows of q or k from half-split rotation [heads, 2, D/2] to adjacent pairs [heads, D/2, 2].

    It is the `permute` of llama.cpp's converter.
    """
    return np.ascontiguousarray(rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2)).reshape(rows.shape)


def _block_tensors(name: str, block: GgufBlock, decoder: Decoder, layout: Layout) -> Iterator[NamedTensor]:
    config = decoder.config
    attention, feed_forward = block.attention, block.feed_forward
    if isinstance(attention, Stub):
        attention = _stub_attention(attention, config.hidden_size, config.head_dim)
        heads = kv_heads = 1
    else:
        heads, kv_heads = config.num_heads, config.num_kv_heads
    if attention is not None:
        paired = (heads, kv_heads) if layout.interleaved else (0, 0)
        yield NamedTensor(f"{name}.attn_norm.weight", attention.norm.weight)
        yield from _linear(f"{name}.attn_q", attention.q, paired[0])
        yield from _linear(f"{name}.attn_k", attention.k, paired[1])
        yield from _linear(f"{name}.attn_v", attention.v)
        yield from _linear(f"{name}.attn_output", attention.o)
        for norm, part in ((attention.q_norm, "attn_q_norm"), (attention.k_norm, "attn_k_norm")):
            if norm is not None:
                yield NamedTensor(f"{name}.{part}.weight", norm.weight)
    if isinstance(feed_forward, Stub):
        feed_forward = _stub_feed_forward(config.hidden_size)
    yield NamedTensor(f"{name}.ffn_norm.weight", feed_forward.norm.weight)
    yield from _linear(f"{name}.ffn_gate", feed_forward.gate)
    yield from _linear(f"{name}.ffn_up", feed_forward.up)
    yield from _linear(f"{name}.ffn_down", feed_forward.down)


def _linear(name: str, linear: Linear, heads: int = 0) -> Iterator[NamedTensor]:
    yield NamedTensor(f"{name}.weight", linear.weight, heads)
    if linear.bias is not None:
        yield NamedTensor(f"{name}.bias", linear.bias, heads)


def _stub_attention(stub: Stub, hidden_size: int, head_dim: int) -> Attention:
    """Return one head whose output is zero, plus the stub's bias."""
    into, out = _zeros(head_dim, hidden_size), _zeros(hidden_size, head_dim)
    norm = Norm(constant("stub", np.ones(hidden_size, np.float32)), 0.0)
    return Attention(-1, norm, Linear(into), Linear(into), Linear(into), Linear(out, stub.bias))


def _stub_feed_forward(hidden_size: int) -> FeedForward:
    """Return an FFN of width 32 whose output is zero."""
    into, out = Linear(_zeros(STUB_WIDTH, hidden_size)), Linear(_zeros(hidden_size, STUB_WIDTH))
    return FeedForward(-1, Norm(constant("stub", np.ones(hidden_size, np.float32)), 0.0), into, into, out)


def _zeros(*shape: int) -> Tensor:
    return Tensor("stub", shape, lambda: np.zeros(shape, np.float32))


def _rope_factors(decoder: Decoder) -> Tensor:
    """Return what llama.cpp divides each frequency by: plain RoPE's over Llama 3's, [D/2]."""
    rope, size = decoder.config.rope, decoder.config.head_dim
    plain = rope.theta ** -(np.arange(0, size, 2, dtype=np.float64) / size)
    factors: Float32 = (plain / rope.inverse_frequencies).astype(np.float32)
    return constant("rope_freqs", factors)

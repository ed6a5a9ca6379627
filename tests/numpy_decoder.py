"""The canonical decoder run in plain numpy, float64, one whole sequence: what its fields mean, in 60 lines.

Written from the papers' equations, not from any implementation, so that a test may compare it with one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.plan import Plan
from edgeskip.models.decoder import Attention, Decoder, DecoderConfig, FeedForward, Linear, Norm

Array = NDArray[np.float64]


def logits_of(decoder: Decoder, tokens: list[int], plan: Plan | None = None) -> Array:
    """Logits [n, vocab_size] of all n positions; a skipped sublayer does x ← scale·x + map·u + bias instead."""
    x = decoder.embedding.read()[tokens].astype(np.float64)
    if decoder.embedding_bias is not None:
        x = x + decoder.embedding_bias.read()
    updates: dict[Any, Array] = {}
    for sublayer in decoder.sublayers:
        skip = plan.skip_for(sublayer.sublayer) if plan else None
        if skip is not None:
            x = skip.scale * x + (0.0 if skip.bias is None else skip.bias)
            if skip.map is not None and skip.source in updates:
                x = x + updates[skip.source] @ skip.map.T.astype(np.float64)
            continue
        if isinstance(sublayer, Attention):
            update = _attention(decoder.config, sublayer, _norm(sublayer.norm, x))
        else:
            update = _feed_forward(sublayer, _norm(sublayer.norm, x))
        updates[sublayer.sublayer] = update
        x = x + update
    head = decoder.head or Linear(decoder.embedding)
    return _linear(head, _norm(decoder.norm, x))


def _linear(linear: Linear, x: Array) -> Array:
    y: Array = x @ linear.weight.read().astype(np.float64).T
    return y if linear.bias is None else y + linear.bias.read()


def _norm(norm: Norm, x: Array) -> Array:
    y: Array = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + norm.eps) * norm.weight.read()
    return y


def _feed_forward(ffn: FeedForward, x: Array) -> Array:
    gate = _linear(ffn.gate, x)
    return _linear(ffn.down, gate / (1 + np.exp(-gate)) * _linear(ffn.up, x))


def _attention(config: DecoderConfig, attention: Attention, x: Array) -> Array:
    n, size = len(x), config.head_dim
    q = _linear(attention.q, x).reshape(n, config.num_heads, size)
    k = _linear(attention.k, x).reshape(n, config.num_kv_heads, size)
    v = _linear(attention.v, x).reshape(n, config.num_kv_heads, size)
    if attention.q_norm is not None and attention.k_norm is not None:
        q, k = _norm(attention.q_norm, q), _norm(attention.k_norm, k)
    if attention.rotary:
        q, k = _rotate(config, q), _rotate(config, k)
    groups = config.num_heads // config.num_kv_heads
    scores = np.einsum("ihd,jhd->hij", q, np.repeat(k, groups, axis=1)) / np.sqrt(size)
    distance = np.arange(n)[:, None] - np.arange(n)[None, :]
    seen = distance >= 0
    if attention.window is not None:
        seen &= distance < attention.window
    scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    mixed = np.einsum("hij,jhd->ihd", weights, np.repeat(v, groups, axis=1))
    return _linear(attention.o, mixed.reshape(n, -1))


def _rotate(config: DecoderConfig, x: Array) -> Array:
    """Rotates the pair (i, i + D/2) of each head by position · frequency i."""
    rope: Any = config.rope
    angle = np.arange(len(x))[:, None, None] * rope.inverse_frequencies
    cos, sin = np.cos(angle) * rope.attention_factor, np.sin(angle) * rope.attention_factor
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

"""The canonical decoder: what every model family is read into and every lowering reads. Weights are lazy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.sublayers import Sublayer

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class QuantizedBlocks:
    """A weight as a GGUF stores it, for a lowering that keeps its blocks: `read()` gives uint8 [rows…, bytes a row].

    `kind` is ggml's name of the type (`Q4_1`, `F16`); the weight is what the bytes say times `factor`.
    """

    kind: str
    read: Callable[[], NDArray[np.uint8]]
    factor: float = 1.0


@dataclass(frozen=True)
class Tensor:
    """A weight that is read when it is needed and not kept: `read()` gives a C-contiguous float32 array.

    `blocks` is the same weight as stored, in the same row order; None if it is not of a GGUF.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[], Float32]
    blocks: QuantizedBlocks | None = None

    def times(self, factor: float) -> Tensor:
        """Return the same weight multiplied by `factor`, still lazy."""
        if factor == 1.0:
            return self
        blocks = replace(self.blocks, factor=self.blocks.factor * factor) if self.blocks else None
        return Tensor(self.name, self.shape, lambda: (self.read() * np.float64(factor)).astype(np.float32), blocks)

    def plus(self, other: Tensor | None) -> Tensor:
        """Return the sum of two weights of one shape, still lazy."""
        if other is None:
            return self
        return Tensor(self.name, self.shape, lambda: self.read() + other.read())


def constant(name: str, value: Float32) -> Tensor:
    """Return a small weight that is already in memory."""
    return Tensor(name, value.shape, lambda: np.ascontiguousarray(value, dtype=np.float32))


@dataclass(frozen=True)
class Linear:
    """y = weight·x + bias; weight [out, in], bias [out] or None."""

    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True)
class Norm:
    """RMSNorm: x / sqrt(mean(x²) + eps) · weight."""

    weight: Tensor
    eps: float


@dataclass(frozen=True)
class Attention:
    """Grouped-query attention with its norm. q [H·D, d], k and v [K·D, d], o [d, H·D].

    `q_norm`/`k_norm` are per-head RMSNorms of size D (Qwen3). `rotary` is False on no-rope layers
    (SmolLM3). `window` is the sliding window in tokens, None = full attention.
    Rotation is the half-split ("NeoX") convention of Hugging Face weights.
    """

    block: int
    norm: Norm
    q: Linear
    k: Linear
    v: Linear
    o: Linear
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    rotary: bool = True
    window: int | None = None

    @property
    def sublayer(self) -> Sublayer:
        return Sublayer(self.block, "attn")


@dataclass(frozen=True)
class FeedForward:
    """SwiGLU with its norm: down(silu(gate(x)) · up(x)). gate and up [f, d], down [d, f].

    `shift` [d] is added to the stream after it, whether it runs or not; it appears only after baking for gates.
    """

    block: int
    norm: Norm
    gate: Linear
    up: Linear
    down: Linear
    shift: Tensor | None = None

    @property
    def sublayer(self) -> Sublayer:
        return Sublayer(self.block, "ffn")


@dataclass(frozen=True)
class Rope:
    """Rotary embedding. `scaling` is Hugging Face's `rope_scaling`/`rope_parameters` without theta.

    `inverse_frequencies` [D/2] float64 has the scaling applied; `attention_factor` multiplies cos and sin (yarn).
    """

    theta: float
    inverse_frequencies: NDArray[np.float64]
    attention_factor: float = 1.0
    scaling: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class DecoderConfig:
    """Shape of the model; every size is in elements, `max_positions` in tokens."""

    family: str
    hidden_size: int
    intermediate_size: int
    num_blocks: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int
    rope: Rope


@dataclass(frozen=True)
class Decoder:
    """embedding → (+ embedding_bias) → sublayers in order → norm → head.

    `head` None means tied to `embedding`. `embedding_bias` [d] appears only after baking, when the first
    sublayers are skipped with an affine compensation and no earlier residual add can absorb their bias.
    """

    config: DecoderConfig
    embedding: Tensor  # [V, d]
    sublayers: tuple[Attention | FeedForward, ...]
    norm: Norm
    head: Linear | None = None  # [V, d]
    embedding_bias: Tensor | None = None

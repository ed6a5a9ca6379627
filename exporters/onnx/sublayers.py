"""Lowers attentions and FFNs to operators of ONNX Runtime, over a stream whose last update is still pending."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from edgeskip.core.sublayers import Sublayer
from edgeskip.exporters.onnx.formats import WeightFormat, linear, stacked, vector
from edgeskip.exporters.onnx.gates import FfnGates
from edgeskip.exporters.onnx.graph import MICROSOFT, GraphBuilder, int64
from edgeskip.models.decoder import Attention, Decoder, FeedForward, Linear, Norm, Tensor


class SublayerLowering:
    """Carries the residual stream as (stream, update, bias).

    Update and bias are not added yet, because SkipSimplifiedLayerNormalization adds them and normalizes in one
    operator. A subclass sets the attributes without a value before it lowers the first sublayer.

    Attributes:
        stream: The residual stream, [batch, n, hidden_size].
        update: What is to be added to it; None = nothing.
        bias: The bias of that update; None = none.
        cache: Number of the next KV cache.
        bits: Bits of the matrices in int4.
        pasts: Inputs key and value of each cache.
        keep: Where the positions that logits are wanted of begin, int64 [1].
        seqlens: seqlens_k of GroupQueryAttention, int32 [batch].
        total: total_sequence_length of GroupQueryAttention, int32 [].
        caches: Rotary cos and sin; None if no attention rotates.
        last: The attention after which only the positions of `keep` go on; None = none.
        gates: The gates of FFNs that may be left out; None without.
        online: These FFNs.
    """

    stream: ir.Value
    keep: ir.Value
    seqlens: ir.Value
    total: ir.Value
    caches: tuple[ir.Value, ir.Value] | None
    last: Attention | None
    gates: FfnGates | None

    def __init__(
        self, graph: GraphBuilder, decoder: Decoder, form: WeightFormat, online: Collection[Sublayer] = ()
    ) -> None:
        self.graph = graph
        self.decoder = decoder
        self.form = form
        self.online = online
        self.update: ir.Value | None = None
        self.bias: ir.Value | None = None
        self.cache = 0
        self.bits = 4
        self.pasts: dict[int, tuple[ir.Value, ir.Value]] = {}
        self._slice_ends: tuple[ir.Value, ir.Value] | None = None

    def _rotary_caches(self) -> tuple[ir.Value, ir.Value]:
        """Return cos and sin [max_positions, head_dim/2], attention factor applied."""
        config = self.decoder.config
        angles = np.outer(np.arange(config.max_positions, dtype=np.float64), config.rope.inverse_frequencies)
        factor = config.rope.attention_factor
        cast = self.form.cast
        return (
            self.graph.weight("cos_cache", lambda: cast(np.cos(angles) * factor)),
            self.graph.weight("sin_cache", lambda: cast(np.sin(angles) * factor)),
        )

    def _normalized(self, norm: Norm, name: str) -> ir.Value:
        """Return the norm of the stream, with the pending update added to the stream first."""
        graph = self.graph
        weight = vector(graph, self.form, f"{name}.weight", norm.weight)
        if self.update is None:
            # Without stash_type ONNX Runtime computes in the input's own type.
            return graph.op("SimplifiedLayerNormalization", [self.stream, weight], name, epsilon=norm.eps, axis=-1)
        inputs = [self.update, self.stream, weight, *([self.bias] if self.bias else [])]
        normed, _, _, self.stream = graph.node(
            "SkipSimplifiedLayerNormalization",
            inputs,
            name,
            domain=MICROSOFT,
            outputs=4,
            unused=(1, 2),
            epsilon=norm.eps,
        )
        self.update = self.bias = None
        return normed

    def _project_out(self, x: ir.Value, weights: Linear, name: str) -> None:
        """Make the sublayer's output projection the pending update, its bias the pending bias."""
        self.update = linear(self.graph, self.form, x, Linear(weights.weight), name, bits=self.bits)
        self.bias = self._bias(weights.bias, name)

    def _bias(self, bias: Tensor | None, name: str) -> ir.Value | None:
        return None if bias is None else vector(self.graph, self.form, f"{name}.bias", bias)

    def _last_positions(self, x: ir.Value, name: str) -> ir.Value:
        """Return the last `logits_to_keep` positions of [b, n, …]; nothing after the last attention mixes positions."""
        graph = self.graph
        if self._slice_ends is None:
            self._slice_ends = (graph.constant("end", int64(np.iinfo(np.int64).max)), graph.constant("axis", int64(1)))
        return graph.op("Slice", [x, self.keep, *self._slice_ends], f"{name}/keep")

    def _past(self, cache: int) -> tuple[ir.Value, ir.Value]:
        """Return the inputs key and value of a cache; those of a gate are requested twice."""
        if cache not in self.pasts:
            shape: list[int | str] = ["batch", self.decoder.config.num_kv_heads, "past", self.decoder.config.head_dim]
            key, value = (
                self.graph.input(f"past_key_values.{cache}.{part}", self.form.activations, shape)
                for part in ("key", "value")
            )
            self.pasts[cache] = key, value
        return self.pasts[cache]

    def _present(self, cache: int, values: tuple[ir.Value, ir.Value]) -> None:
        config = self.decoder.config
        shape: list[int | str] = ["batch", config.num_kv_heads, "present", config.head_dim]
        for part, value in zip(("key", "value"), values, strict=True):
            self.graph.output(value, f"present.{cache}.{part}", self.form.activations, shape)

    def _attention(self, sublayer: Attention) -> tuple[ir.Value, ir.Value]:
        """Append the sublayer; its caches key and value after it."""
        name = str(sublayer.sublayer)
        return self._attend(sublayer, self._normalized(sublayer.norm, f"{name}.norm"), name)

    def _attend(self, sublayer: Attention, x: ir.Value, name: str) -> tuple[ir.Value, ir.Value]:
        """Return the same from the normalized stream; its weights are called after `name`."""
        graph, config = self.graph, self.decoder.config
        past = self._past(self.cache)
        self.cache += 1
        query, key, value = self._queries(sublayer, x, name)
        rotary = [*self.caches] if sublayer.rotary and self.caches else []
        attended, *present = graph.node(
            "GroupQueryAttention",
            [query, key, value, *past, self.seqlens, self.total, *rotary],
            name,
            domain=MICROSOFT,
            outputs=3,
            num_heads=config.num_heads,
            kv_num_heads=config.num_kv_heads,
            do_rotary=int(bool(rotary)),
            local_window_size=sublayer.window or -1,
        )
        if sublayer is self.last:
            attended = self._last_positions(attended, name)
            self.stream = self._last_positions(self.stream, f"{name}.stream")
        self._project_out(attended, sublayer.o, f"{name}.o")
        return present[0], present[1]

    def _queries(
        self, sublayer: Attention, x: ir.Value, name: str
    ) -> tuple[ir.Value, ir.Value | None, ir.Value | None]:
        """Return packed [b, n, (H+2K)·D], or query, key and value apart if query and key have norms."""
        graph, config = self.graph, self.decoder.config
        packed = linear(
            graph, self.form, x, stacked([sublayer.q, sublayer.k, sublayer.v]), f"{name}.qkv", bits=self.bits
        )
        if sublayer.q_norm is None or sublayer.k_norm is None:
            return packed, None, None
        widths = [n * config.head_dim for n in (config.num_heads, config.num_kv_heads, config.num_kv_heads)]
        query, key, value = graph.node(
            "Split", [packed, graph.constant(f"{name}.widths", int64(*widths))], f"{name}.split", outputs=3, axis=-1
        )
        return (
            self._head_norm(query, sublayer.q_norm, f"{name}.q_norm", widths[0]),
            self._head_norm(key, sublayer.k_norm, f"{name}.k_norm", widths[1]),
            value,
        )

    def _head_norm(self, x: ir.Value, norm: Norm, name: str, width: int) -> ir.Value:
        """Return RMSNorm over each head of [b, n, heads·D]."""
        graph = self.graph
        heads = graph.constant(f"{name}.heads", int64(0, 0, -1, self.decoder.config.head_dim))
        flat = graph.constant(f"{name}.flat", int64(0, 0, width))
        weight = vector(graph, self.form, f"{name}.weight", norm.weight)
        split = graph.op("Reshape", [x, heads], f"{name}/heads")
        normed = graph.op("SimplifiedLayerNormalization", [split, weight], name, epsilon=norm.eps, axis=-1)
        return graph.op("Reshape", [normed, flat], f"{name}/flat")

    def _feed_forward(self, sublayer: FeedForward, name: str) -> None:
        x = self._normalized(sublayer.norm, f"{name}.norm")
        down = Linear(sublayer.down.weight)
        if self.gates is None or sublayer.sublayer not in self.online:
            assert sublayer.shift is None, "a shift apart is for a gate"
            self.update = self._swiglu(sublayer, x, down, name)
            self.bias = self._bias(sublayer.down.bias, f"{name}.down")
        else:  # left out, its own bias goes with it; what bakes into the stream after it stays
            self.update = self.gates.gate(self.stream, lambda: self._swiglu(sublayer, x, sublayer.down, name), name)
            self.bias = self._bias(sublayer.shift, f"{name}.shift")

    def _swiglu(self, sublayer: FeedForward, x: ir.Value, down: Linear, name: str) -> ir.Value:
        graph, form = self.graph, self.form
        gate = linear(graph, form, x, sublayer.gate, f"{name}.gate", bits=self.bits)
        up = linear(graph, form, x, sublayer.up, f"{name}.up", bits=self.bits)
        # QuickGelu(x; alpha=1) = x·sigmoid(x) = SiLU in one pass (contrib operator specification).
        gated = graph.op("QuickGelu", [gate], f"{name}.silu", domain=MICROSOFT, alpha=1.0)
        return linear(graph, form, graph.op("Mul", [gated, up], f"{name}.mul"), down, f"{name}.down", bits=self.bits)

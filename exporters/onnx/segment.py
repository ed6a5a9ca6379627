"""Lowers a run of a decoder's sublayers to one graph: ids or hidden states in, logits and perhaps exit states out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeskip.core.plan import Skip
from edgeskip.core.sublayers import Sublayer
from edgeskip.exporters.draft import DraftHead
from edgeskip.exporters.job import StepCallback, no_step
from edgeskip.exporters.onnx.compensation import apply_compensation
from edgeskip.exporters.onnx.formats import WeightFormat, embedding, linear, stacked, tied_head, vector
from edgeskip.exporters.onnx.gates import FfnGates
from edgeskip.exporters.onnx.graph import MICROSOFT, GraphBuilder, int64
from edgeskip.models.decoder import Attention, Decoder, FeedForward, Linear, Norm, Tensor
from edgeskip.runtime.engines.onnxruntime.runtime_graph import (
    LEFT_PADDING,
    PADDING_FIRST,
    PADDING_INDEX,
    PADDING_LEAST,
    POSITIONS,
)

TABLE, HEAD = "embedding", "lm_head"  # what their weights are called in every graph
# Of an exit's block, its map and a trimmed head in int4: small matrices that all of the draft goes through. With 4 a
# head of 8,192 tokens agrees 10 % less often, and is no faster.
DRAFT_BITS = 8


@dataclass(frozen=True)
class Segment:
    """What one graph holds of a decoder, sublayers in execution order.

    `from_ids`: it starts at the embedding, otherwise at `hidden_states`. `exit_states`: it gives the stream after its
    last sublayer, of every position. `head` None = the model's own norm and head; `head_name` is what its weights are
    called. `widened`: the logits of a trimmed head are set out over the whole vocabulary. `every_position`: the graph
    says that it gives logits of each position, and does so unless asked otherwise; else those of the last one.
    `skips` are replaced by their compensation: always, or with `gated` if the optional input `skip` is true.
    `online`: the FFNs that stand in a gate of their own (`FfnGates`).
    """

    sublayers: tuple[Attention | FeedForward, ...]
    from_ids: bool = True
    exit_states: bool = False
    head: DraftHead | None = None
    head_name: str = HEAD
    widened: bool = False
    every_position: bool = False
    skips: Mapping[Sublayer, Skip] = field(default_factory=dict)
    gated: bool = False
    online: Collection[Sublayer] = ()


def lower_segment(
    graph: GraphBuilder,
    decoder: Decoder,
    segment: Segment,
    form: WeightFormat,
    *,
    step: StepCallback = no_step,
) -> int:
    """Build `segment` of `decoder` in `graph`; returns how many KV caches it has (`past_key_values.0` …).

    `step` is called with the name of every sublayer as it is written.
    """
    return _Lowering(graph, decoder, segment, form).run(step)


class _Lowering:
    """One pass over the segment. Carries the residual stream as (stream, update, bias): update + bias is not added
    yet, because SkipSimplifiedLayerNormalization adds it and normalizes in one operator."""

    def __init__(self, graph: GraphBuilder, decoder: Decoder, segment: Segment, form: WeightFormat) -> None:
        self.graph = graph
        self.decoder = decoder
        self.segment = segment
        self.form = form
        self.update: ir.Value | None = None
        self.bias: ir.Value | None = None
        self.cache = 0
        self.bits = 4  # of the matrices in int4
        self.pasts: dict[int, tuple[ir.Value, ir.Value]] = {}
        self._slice_ends: tuple[ir.Value, ir.Value] | None = None

    def run(self, step: StepCallback) -> int:
        graph, segment, config = self.graph, self.segment, self.decoder.config
        source = self._source()
        mask = graph.input("attention_mask", ir.DataType.INT64, ["batch", "total"])
        attentions = [s for s in self._computed() if isinstance(s, Attention)]
        block = segment.head.block if segment.head else None
        if block is not None:
            attentions.append(block[0])
        # Nothing after the last attention mixes positions; exit states are wanted of all of them.
        self.last = attentions[-1] if attentions and (block or not segment.exit_states) else None
        self.seqlens, self.total = self._lengths(mask)
        if segment.from_ids:  # nothing reads it (`runtime_graph`)
            graph.input(POSITIONS, ir.DataType.INT64, ["batch", "sequence"])
        kept = graph.switch("logits_to_keep", int64(0 if segment.every_position else 1))
        self.keep = graph.op("Neg", [kept], "logits_start")
        self.caches = self._rotary_caches() if any(a.rotary for a in attentions) else None
        if segment.gated:
            self.skip = graph.switch("skip", np.zeros(1, np.bool_))
        gates = sum(s.sublayer in segment.online for s in segment.sublayers)
        self.gates = FfnGates(graph, self.form, gates) if gates else None
        self.stream = self._start(source, step)
        if not attentions and not segment.exit_states:
            self.stream = self._last_positions(self.stream, "embedding")
        for skipped, group in groupby(segment.sublayers, lambda s: s.sublayer in segment.skips):
            sublayers = list(group)
            if skipped and segment.gated:
                self._gate(sublayers, step)
            elif skipped:
                self.stream, self.update = self._compensated(sublayers, self.stream, self.update, self.bias)
                self.bias = None
            else:
                presents = self._all(sublayers, step)
                first = self.cache - len(presents) // 2
                for n, pair in enumerate(zip(presents[::2], presents[1::2], strict=True)):
                    self._present(first + n, pair)
        step("head")
        states = self._exit_block(*block) if block else None
        logits, columns = self._head()
        # Declared for the default. onnxruntime-genai reads one position as "prefill gives the last position only", and
        # verifies a draft in one run where there is one row per token. ONNX Runtime allocates by the real shape when
        # logits_to_keep asks for more.
        rows: int | str = "sequence" if segment.every_position else 1
        if segment.exit_states:
            shape: list[int | str] = ["batch", "sequence", config.hidden_size]
            graph.output(states or self.stream, "exit_states", self.form.activations, shape, first=True)
        graph.output(logits, "logits", self.form.activations, ["batch", rows, columns], first=True)
        if self.gates is not None:
            self.gates.measure()
        return self.cache

    def _computed(self) -> list[Attention | FeedForward]:
        """Return the sublayers that the graph has operators of."""
        segment = self.segment
        return [s for s in segment.sublayers if segment.gated or s.sublayer not in segment.skips]

    def _source(self) -> ir.Value:
        if self.segment.from_ids:
            return self.graph.input("input_ids", ir.DataType.INT64, ["batch", "sequence"])
        states: list[int | str] = ["batch", "sequence", self.decoder.config.hidden_size]
        return self.graph.input("hidden_states", self.form.activations, states)

    def _start(self, source: ir.Value, step: StepCallback) -> ir.Value:
        """Return the residual stream before the first sublayer."""
        if not self.segment.from_ids:
            return source
        graph, form, decoder = self.graph, self.form, self.decoder
        step("embedding")
        stream = embedding(graph, form, source, decoder.embedding, TABLE, tied=decoder.head is None)
        if decoder.embedding_bias is None:
            return stream
        bias = vector(graph, form, f"{TABLE}.bias", decoder.embedding_bias)
        return graph.op("Add", [stream, bias], f"{TABLE}/add")

    def _all(self, sublayers: list[Attention | FeedForward], step: StepCallback) -> list[ir.Value]:
        """Append the sublayers; the caches after them, key and value by turns."""
        presents: list[ir.Value] = []
        for sublayer in sublayers:
            step(str(sublayer.sublayer))
            if isinstance(sublayer, Attention):
                presents += self._attention(sublayer)
            else:
                self._feed_forward(sublayer, str(sublayer.sublayer))
        return presents

    def _exit_block(self, attention: Attention, feed_forward: FeedForward) -> ir.Value:
        """Append the draft's own block, whose cache is the graph's last; the exit states, which it begins with."""
        name, self.bits = self.segment.head_name, DRAFT_BITS
        x = self._normalized(attention.norm, f"{name}.attn.norm")
        states = self.stream
        self._present(self.cache, self._attend(attention, x, f"{name}.attn"))
        self._feed_forward(feed_forward, f"{name}.ffn")
        return states

    def _head(self) -> tuple[ir.Value, int]:
        """Return logits [b, k, columns]."""
        graph, form, decoder = self.graph, self.form, self.decoder
        head = self.segment.head or DraftHead(decoder.norm)
        name = "norm" if head.norm.weight is decoder.norm.weight else "exit_norm"
        x = self._normalized(head.norm, name)
        if self.segment.exit_states and head.block is None:
            x = self._last_positions(x, name)
        if head.map is not None:
            x = linear(graph, form, x, head.map, f"{self.segment.head_name}.map", bits=DRAFT_BITS)
        own = head.head or decoder.head
        if own is None:
            logits = tied_head(graph, form, x, decoder.embedding, TABLE, HEAD)
        else:
            name, bits = (HEAD, form.head_bits) if head.head is None else (self.segment.head_name, DRAFT_BITS)
            logits = linear(graph, form, x, own, name, bits=bits)
        size = decoder.config.vocab_size
        if head.tokens is None:
            return logits, size
        return (self._widened(logits, head.tokens), size) if self.segment.widened else (logits, len(head.tokens))

    def _widened(self, logits: ir.Value, tokens: NDArray[np.int64]) -> ir.Value:
        """Spread [b, k, V'] to [b, k, V]; a token that the head does not know gets the lowest number."""
        graph, form = self.graph, self.form

        def columns() -> NDArray[np.int32]:
            found = np.full(self.decoder.config.vocab_size, len(tokens), np.int32)  # the column that is added
            found[tokens] = np.arange(len(tokens), dtype=np.int32)
            return found

        lowest = graph.constant("lowest", np.array(np.finfo(form.numpy).min, form.numpy))
        padded = graph.op("Pad", [logits, graph.constant("one_column", int64(0, 0, 0, 0, 0, 1)), lowest], "pad")
        return graph.op("Gather", [padded, graph.weight("draft_columns", columns)], "widened", axis=2)

    def _gate(self, sublayers: list[Attention | FeedForward], step: StepCallback) -> None:
        """Append an `If` around sublayers that a plan skips one after the other: their compensation if `skip` is true.

        Stream and update leave it apart, so that what follows still adds and normalizes in one operator. The caches of
        what is skipped pass by: bound to one buffer, past and present are the same memory and nothing is copied.
        """
        name, before = f"{sublayers[0].sublayer}.gate", (self.stream, self.update, self.bias)
        count = sum(isinstance(sublayer, Attention) for sublayer in sublayers)
        caches = [self._past(self.cache + n) for n in range(count)]
        presents: list[ir.Value] = []

        def dense() -> list[ir.Value]:
            presents[:] = self._all(sublayers, step)
            update = self.update
            assert update is not None
            if self.bias is not None:
                update = self.graph.op("Add", [update, self.bias], f"{name}.bias")
            stream = self.stream
            if stream is before[0]:  # a branch gives what it made itself
                stream = self.graph.op("Identity", [stream], f"{name}.stream")
            return [stream, update, *presents]

        def compensated() -> list[ir.Value]:
            stream, update, bias = before
            if self.last in sublayers:
                stream = self._last_positions(stream, f"{name}.stream")
                update = self._last_positions(update, f"{name}.update") if update else None
            passed = [self.graph.op("Identity", [past], f"{name}.{past.name}") for pair in caches for past in pair]
            return [*self._compensated(sublayers, stream, update, bias), *passed]

        outputs = self.graph.choose(self.skip, compensated, dense, name)
        self.stream, self.update, self.bias = outputs[0], outputs[1], None
        for n, pair in enumerate(zip(outputs[2::2], outputs[3::2], strict=True)):
            self._present(self.cache - count + n, pair)

    def _compensated(
        self, sublayers: list[Attention | FeedForward], stream: ir.Value, update: ir.Value | None, bias: ir.Value | None
    ) -> tuple[ir.Value, ir.Value]:
        skips = [self.segment.skips[sublayer.sublayer] for sublayer in sublayers]
        return apply_compensation(self.graph, self.form, skips, stream, update, bias)

    def _lengths(self, mask: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Return seqlens_k int32 [batch] = total − 1 and total_sequence_length int32 [] of GroupQueryAttention."""
        graph = self.graph
        int32 = int(ir.DataType.INT32)
        axis, one = graph.constant("axis_1", int64(1)), graph.constant("one", int64(1))
        counted = graph.op("ReduceSum", [mask, axis], "seqlens/sum", keepdims=0)
        seqlens = graph.op("Cast", [graph.op("Sub", [counted, one], "seqlens/sub")], "seqlens/cast", to=int32)
        shape = graph.op("Shape", [mask], "total/shape", start=1, end=2)
        return seqlens, graph.op("Cast", [self._checked(shape, mask)], "total/cast", to=int32)

    def _checked(self, total: ir.Value, mask: ir.Value) -> ir.Value:
        """Return the only element of `total` [1], at an index that is there only if no row of the mask begins with a
        zero.

        GroupQueryAttention counts a row's ones and takes them for its first tokens, so prompts padded on the left would
        be read wrongly. The node that fails has the reason for its name, which ONNX Runtime puts in its error.
        """
        graph = self.graph
        if not self.segment.from_ids or self.segment.exit_states or self.form.activations is ir.DataType.FLOAT16:
            # Only graphs that others run in batches; on a GPU, which float16 is for, the answer would have to come back
            # from the device in every step.
            return graph.op("Squeeze", [total], "total/squeeze")
        first = graph.op("Gather", [mask, graph.constant("zero", np.array(0, np.int64))], PADDING_FIRST, axis=1)
        least = graph.op("ReduceMin", [first], PADDING_LEAST, keepdims=0)
        index = graph.op("Sub", [graph.constant("whole", np.array(1, np.int64)), least], PADDING_INDEX)
        return graph.op("Gather", [total, index], LEFT_PADDING)

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
        """Return the inputs key and value of a cache; those of a gate are asked for twice."""
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
        """Return packed [b, n, (H+2K)·D], or query, key and value apart if query and key have norms of their own."""
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
        if self.gates is None or sublayer.sublayer not in self.segment.online:
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

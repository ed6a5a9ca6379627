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
from edgeskip.exporters.onnx.formats import WeightFormat, embedding, linear, tied_head, vector
from edgeskip.exporters.onnx.gates import FfnGates
from edgeskip.exporters.onnx.graph import GraphBuilder, int64
from edgeskip.exporters.onnx.sublayers import SublayerLowering
from edgeskip.models.decoder import Attention, Decoder, FeedForward
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
    declares logits of each position and gives them by default; else those of the last one.
    `skips` are replaced by their compensation: always, or with `gated` if the optional input `skip` is true.
    `online`: the FFNs that each have a gate (`FfnGates`).
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
    return _SegmentLowering(graph, decoder, segment, form).run(step)


class _SegmentLowering(SublayerLowering):
    """One pass over a segment: what comes in, sublayers or what replaces them, head and exit states."""

    def __init__(self, graph: GraphBuilder, decoder: Decoder, segment: Segment, form: WeightFormat) -> None:
        super().__init__(graph, decoder, form, segment.online)
        self.segment = segment

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
        # verifies a draft in one run if there is one row per token. ONNX Runtime allocates by the real shape when
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

"""Lowers a canonical decoder to `model.onnx` and `model.onnx.data` (design §5). Knows no plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import onnx_ir as ir

from edgeskip.exporters.decoder import Attention, Decoder, FeedForward, Linear, Norm
from edgeskip.exporters.onnx.formats import WeightFormat, embedding, linear, stacked, tied_head
from edgeskip.exporters.onnx.graph import MICROSOFT, GraphBuilder, int64
from edgeskip.exporters.onnx.weights import WeightFile
from edgeskip.manifest import GraphRecord

MODEL_FILE = "model.onnx"
DATA_FILE = "model.onnx.data"
Progress = Callable[[str], None]


def lower(decoder: Decoder, form: WeightFormat, folder: Path, *, progress: Progress = lambda _: None) -> GraphRecord:
    """Writes the graph of `decoder` into `folder` and returns what an engine must know of it.

    Inputs: input_ids int64 [batch, n], attention_mask int64 [batch, total], past_key_values.N.{key,value}
    [batch, kv_heads, past, head_dim]; logits_to_keep int64 [1] is an optional override: the last k positions'
    logits, 0 = all. Outputs: logits [batch, k, V], present.N.{key,value}. N counts the kept attention sublayers.
    `progress` is told the name of every sublayer as it is written.
    """
    with WeightFile(folder, DATA_FILE) as weights:
        graph = GraphBuilder(weights)
        kv_layers = _Lowering(graph, decoder, form).run(progress)
    graph.save(folder / MODEL_FILE, {"edgeskip.precision": form.precision})
    config = decoder.config
    dtype: Literal["float16", "float32"] = "float16" if form.precision == "fp16" else "float32"
    return GraphRecord(
        file=MODEL_FILE,
        precision=form.precision,
        kv_dtype=dtype,
        logits_dtype=dtype,
        num_kv_layers=kv_layers,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        context_length=config.max_positions,
        quantisation=form.record(),
    )


class _Lowering:
    """One pass over the decoder. Carries the residual stream as (stream, update, bias): update + bias is not added
    yet, because SkipSimplifiedLayerNormalization adds it and normalises in one operator."""

    def __init__(self, graph: GraphBuilder, decoder: Decoder, form: WeightFormat) -> None:
        self.graph = graph
        self.decoder = decoder
        self.form = form
        self.update: ir.Value | None = None
        self.bias: ir.Value | None = None
        self._slice_ends: tuple[ir.Value, ir.Value] | None = None

    def run(self, progress: Progress) -> int:
        graph, form, config = self.graph, self.form, self.decoder.config
        ids = graph.input("input_ids", ir.DataType.INT64, ["batch", "sequence"])
        mask = graph.input("attention_mask", ir.DataType.INT64, ["batch", "total"])
        attentions = [s for s in self.decoder.sublayers if isinstance(s, Attention)]
        last = attentions[-1] if attentions else None
        self.seqlens, self.total = self._lengths(mask)
        self.keep = graph.op("Neg", [graph.optional_input("logits_to_keep", int64(1))], "logits_start")
        self.caches = self._rotary_caches() if any(a.rotary for a in attentions) else None
        progress("embedding")
        tied = self.decoder.head is None
        self.stream, table = embedding(graph, form, ids, self.decoder.embedding, "embedding", tied=tied)
        if self.decoder.embedding_bias is not None:
            bias = graph.constant("embedding.bias", form.cast(self.decoder.embedding_bias.read()))
            self.stream = graph.op("Add", [self.stream, bias], "embedding/add")
        if last is None:
            self.stream = self._last_positions(self.stream, "embedding")
        cache = 0
        for sublayer in self.decoder.sublayers:
            progress(str(sublayer.sublayer))
            if isinstance(sublayer, Attention):
                self._attention(sublayer, cache, is_last=sublayer is last)
                cache += 1
            else:
                self._feed_forward(sublayer)
        progress("head")
        x = self._normalised(self.decoder.norm, "norm")
        if self.decoder.head is None:
            logits = tied_head(graph, form, x, table, "lm_head")
        else:
            logits = linear(graph, form, x, self.decoder.head, "lm_head", bits=form.head_bits)
        # Declared for the default, one position: onnxruntime-genai reads "one" as "prefill gives the last position
        # only". ONNX Runtime allocates by the real shape when logits_to_keep asks for more.
        graph.output(logits, "logits", form.activations, ["batch", 1, config.vocab_size], first=True)
        return cache

    def _lengths(self, mask: ir.Value) -> tuple[ir.Value, ir.Value]:
        """seqlens_k int32 [batch] = total − 1 and total_sequence_length int32 [] of GroupQueryAttention."""
        graph = self.graph
        int32 = int(ir.DataType.INT32)
        axis, one = graph.constant("axis_1", int64(1)), graph.constant("one", int64(1))
        counted = graph.op("ReduceSum", [mask, axis], "seqlens/sum", keepdims=0)
        seqlens = graph.op("Cast", [graph.op("Sub", [counted, one], "seqlens/sub")], "seqlens/cast", to=int32)
        shape = graph.op("Shape", [mask], "total/shape", start=1, end=2)
        scalar = graph.op("Squeeze", [shape], "total/squeeze")
        return seqlens, graph.op("Cast", [scalar], "total/cast", to=int32)

    def _rotary_caches(self) -> tuple[ir.Value, ir.Value]:
        """cos and sin [max_positions, head_dim/2], attention factor applied."""
        config = self.decoder.config
        angles = np.outer(np.arange(config.max_positions, dtype=np.float64), config.rope.inverse_frequencies)
        factor = config.rope.attention_factor
        cast = self.form.cast
        return (
            self.graph.constant("cos_cache", cast(np.cos(angles) * factor)),
            self.graph.constant("sin_cache", cast(np.sin(angles) * factor)),
        )

    def _normalised(self, norm: Norm, name: str) -> ir.Value:
        """The norm of the stream, with the pending update added to the stream first."""
        graph = self.graph
        weight = graph.constant(f"{name}.weight", self.form.cast(norm.weight.read()))
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
        """The sublayer's output projection becomes the pending update, its bias the pending bias."""
        self.update = linear(self.graph, self.form, x, Linear(weights.weight), name)
        self.bias = self.graph.constant(f"{name}.bias", self.form.cast(weights.bias.read())) if weights.bias else None

    def _last_positions(self, x: ir.Value, name: str) -> ir.Value:
        """[b, n, …] → the last `logits_to_keep` positions; nothing after the last attention mixes positions."""
        graph = self.graph
        if self._slice_ends is None:
            self._slice_ends = (graph.constant("end", int64(np.iinfo(np.int64).max)), graph.constant("axis", int64(1)))
        return graph.op("Slice", [x, self.keep, *self._slice_ends], f"{name}/keep")

    def _attention(self, sublayer: Attention, cache: int, *, is_last: bool) -> None:
        graph, form, config = self.graph, self.form, self.decoder.config
        name = str(sublayer.sublayer)
        x = self._normalised(sublayer.norm, f"{name}.norm")
        shape: list[int | str] = ["batch", config.num_kv_heads, "past", config.head_dim]
        past = [graph.input(f"past_key_values.{cache}.{part}", form.activations, shape) for part in ("key", "value")]
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
        for part, present_value in zip(("key", "value"), present, strict=True):
            total: list[int | str] = ["batch", config.num_kv_heads, "present", config.head_dim]
            graph.output(present_value, f"present.{cache}.{part}", form.activations, total)
        if is_last:
            attended = self._last_positions(attended, name)
            self.stream = self._last_positions(self.stream, f"{name}.stream")
        self._project_out(attended, sublayer.o, f"{name}.o")

    def _queries(
        self, sublayer: Attention, x: ir.Value, name: str
    ) -> tuple[ir.Value, ir.Value | None, ir.Value | None]:
        """Packed [b, n, (H+2K)·D], or query, key and value apart where query and key have norms of their own."""
        graph, config = self.graph, self.decoder.config
        packed = linear(graph, self.form, x, stacked([sublayer.q, sublayer.k, sublayer.v]), f"{name}.qkv")
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
        """RMSNorm over each head of [b, n, heads·D]."""
        graph = self.graph
        heads = graph.constant(f"{name}.heads", int64(0, 0, -1, self.decoder.config.head_dim))
        flat = graph.constant(f"{name}.flat", int64(0, 0, width))
        weight = graph.constant(f"{name}.weight", self.form.cast(norm.weight.read()))
        split = graph.op("Reshape", [x, heads], f"{name}/heads")
        normed = graph.op("SimplifiedLayerNormalization", [split, weight], name, epsilon=norm.eps, axis=-1)
        return graph.op("Reshape", [normed, flat], f"{name}/flat")

    def _feed_forward(self, sublayer: FeedForward) -> None:
        graph, form = self.graph, self.form
        name = str(sublayer.sublayer)
        x = self._normalised(sublayer.norm, f"{name}.norm")
        gate = linear(graph, form, x, sublayer.gate, f"{name}.gate")
        up = linear(graph, form, x, sublayer.up, f"{name}.up")
        # QuickGelu(x; alpha=1) = x·sigmoid(x) = SiLU in one pass (contrib operator specification).
        gated = graph.op("QuickGelu", [gate], f"{name}.silu", domain=MICROSOFT, alpha=1.0)
        self._project_out(graph.op("Mul", [gated, up], f"{name}.mul"), sublayer.down, f"{name}.down")

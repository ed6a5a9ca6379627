"""Lower a canonical decoder to the graphs of an artifact over one weight file, `model.onnx.data`."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal

from edgeskip.artifacts.manifest import GraphRecord
from edgeskip.core.sublayers import Sublayer
from edgeskip.exporters.job import StepCallback, no_step
from edgeskip.exporters.onnx.formats import WeightFormat
from edgeskip.exporters.onnx.graph import GraphBuilder
from edgeskip.exporters.onnx.segment import Segment, lower_segment
from edgeskip.exporters.onnx.weights import WeightFile
from edgeskip.models.decoder import Decoder

MODEL_FILE = "model.onnx"
DATA_FILE = "model.onnx.data"


def lower(
    decoder: Decoder,
    form: WeightFormat,
    folder: Path,
    *,
    online: Collection[Sublayer] = (),
    step: StepCallback = no_step,
) -> GraphRecord:
    """Write the graph of `decoder` into `folder` and return what an engine must know of it.

    Inputs: input_ids int64 [batch, n], attention_mask int64 [batch, total], past_key_values.N.{key,value}
    [batch, kv_heads, past, head_dim]; logits_to_keep int64 [1], which the runtime makes an input: the last k
    positions' logits, 0 = all; position_ids, which nothing reads (`runtime.engines.onnxruntime.runtime_graph`).
    Outputs: logits [batch, k, V], present.N.{key,value}. N counts the kept attention sublayers.
    `online`: these FFNs may be left out and are measured, through the optional inputs of `exporters.onnx.gates`.
    `step` is called with the name of every sublayer as it is written.
    """
    segment = Segment(decoder.sublayers, online=online)
    with WeightFile(folder, DATA_FILE) as weights:
        caches = write_graph(weights, decoder, segment, form, folder / MODEL_FILE, step)
    return graph_record(decoder, form, caches)


def write_graph(
    weights: WeightFile,
    decoder: Decoder,
    segment: Segment,
    form: WeightFormat,
    path: Path,
    step: StepCallback = no_step,
) -> int:
    """Write one graph over `weights`; returns how many KV caches it has."""
    graph = GraphBuilder(weights)
    caches = lower_segment(graph, decoder, segment, form, step=step)
    graph.save(path, {"edgeskip.precision": form.precision})
    return caches


def graph_record(decoder: Decoder, form: WeightFormat, caches: int) -> GraphRecord:
    """Return what an engine must know of `model.onnx`, the graph of the whole `decoder`."""
    config = decoder.config
    dtype: Literal["float16", "float32"] = "float16" if form.precision == "fp16" else "float32"
    return GraphRecord(
        file=MODEL_FILE,
        precision=form.precision,
        kv_dtype=dtype,
        logits_dtype=dtype,
        num_kv_layers=caches,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        context_length=config.max_positions,
        quantisation=form.record(),
    )

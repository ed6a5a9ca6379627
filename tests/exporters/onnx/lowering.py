"""From a checkpoint folder to an engine or a session over its artifact, without profile or verb: what the lowering's
tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_models import tiny_model

from edgeskip.artifacts.manifest import Manifest, PlanSummary
from edgeskip.core.plan import Plan
from edgeskip.exporters.bake import bake
from edgeskip.exporters.onnx.formats import WeightFormat
from edgeskip.exporters.onnx.lower import lower
from edgeskip.exporters.onnx.quantize import dequantize, quantize
from edgeskip.models.source import ModelSource
from edgeskip.runtime.engines.onnxruntime.engine import OnnxRuntimeEngine
from edgeskip.runtime.engines.onnxruntime.runtime_graph import runtime_graph


def artifact_of(source: ModelSource, plan: Plan, form: WeightFormat, folder: Path) -> Manifest:
    """Lowers the baked model into `folder`; the manifest is only what an engine needs."""
    folder.mkdir(parents=True, exist_ok=True)
    graph = lower(bake(source.decoder, plan), form, folder)
    return Manifest(
        label=plan.label,
        model=source.record(),
        graph=graph,
        plan=PlanSummary(
            method="explicit",
            compensation=plan.compensation,
            skip=[str(skip.sublayer) for skip in plan.skips],
            num_blocks=plan.num_blocks,
        ),
        inputs={},
        files={},
        versions={},
        created="2025-01-01T00:00:00Z",
        verification=None,
    )


def engine_of(source: ModelSource, plan: Plan, form: WeightFormat, folder: Path) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(folder, artifact_of(source, plan, form, folder), threads=1)


def rounded(weight: Any, form: WeightFormat, bits: int) -> Any:
    """What a weight [out, in] stands for as it is stored, float32."""
    if form.precision == "fp16":
        return weight.astype(np.float16).astype(np.float32)
    if not form.quantized:
        return weight
    packed = quantize(weight, bits=bits, block_size=form.block_size, symmetric=form.symmetric)
    return dequantize(packed, bits=bits, block_size=form.block_size)


def rounded_model(family: str, form: WeightFormat, **overrides: Any) -> Any:
    """The tiny model with every matrix replaced by what its quantization stands for.

    Output projections behind a skip are quantized after they are divided by the scales before them; a block's
    scale takes a common factor along, so dividing before or after is the same to rounding.
    """
    model = tiny_model(family, **overrides)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            bits = form.head_bits if "embed_tokens" in name or "lm_head" in name else 4
            parameter.copy_(torch.from_numpy(rounded(parameter.numpy(), form, bits)))
    return model


def run_graph(path: Path, outputs: list[str], total: int, **feeds: Any) -> list[Any]:
    """One run of a graph as the runtime reads it, on empty caches; `total` tokens, logits of all unless told."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    model = runtime_graph(path.read_bytes())
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    inputs = {value.name: value for value in session.get_inputs()}
    types = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    for name, value in inputs.items():
        if name.startswith("past_key_values"):
            feeds[name] = np.zeros((1, value.shape[1], 0, value.shape[3]), types[value.type])
    feeds = {"logits_to_keep": np.zeros(1, np.int64), "attention_mask": np.ones((1, total), np.int64)} | feeds
    result: list[Any] = session.run(outputs, feeds)
    return result

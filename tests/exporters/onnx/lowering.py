"""From a checkpoint folder to an engine over its artifact, without profile or verb: what the lowering's tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgeskip.exporters.bake import bake
from edgeskip.exporters.families.source import ModelSource
from edgeskip.exporters.onnx.formats import WeightFormat
from edgeskip.exporters.onnx.lower import lower
from edgeskip.manifest import Manifest, PlanSummary
from edgeskip.plan import Plan, Skip
from edgeskip.runtime.engines.onnxruntime_engine import OnnxRuntimeEngine
from edgeskip.sublayers import parse_sublayer

Logits = np.ndarray[Any, np.dtype[np.float32]]
TOKENS = np.array([(7 * i * i + 3 * i) % 300 + 2 for i in range(48)], dtype=np.int64)


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


def in_one_prefill(engine: OnnxRuntimeEngine, tokens: Any = TOKENS) -> Logits:
    engine.truncate(0)
    return engine.step(tokens, logits=0).copy()


def in_steps(engine: OnnxRuntimeEngine, tokens: Any = TOKENS) -> Logits:
    """A prefill, several tokens at once on a filled cache, and single tokens."""
    engine.truncate(0)
    first, second = len(tokens) - 14, len(tokens) - 9
    rows = [engine.step(tokens[:first], logits=0).copy(), engine.step(tokens[first:second], logits=0).copy()]
    rows += [engine.step(tokens[i : i + 1]).copy() for i in range(second, len(tokens))]
    return np.concatenate(rows)


def torch_logits(model: Any, tokens: Any = TOKENS) -> Logits:
    with torch.inference_mode():
        logits: Logits = model(torch.from_numpy(tokens)[None]).logits[0].float().numpy()
    return logits


def random_plan(names: list[str], compensation: str, *, num_blocks: int, hidden_size: int) -> Plan:
    """Skips with scales 0.8 … 1.3 and biases of σ 0.2."""
    rng = np.random.default_rng(7)
    skips = []
    for name in names:
        scale = 1.0 if compensation == "none" else float(rng.uniform(0.8, 1.3))
        bias = rng.normal(scale=0.2, size=hidden_size).astype(np.float32) if compensation == "affine" else None
        skips.append(Skip(parse_sublayer(name, num_blocks), scale, bias))
    return Plan(num_blocks, tuple(skips))

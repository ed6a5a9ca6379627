"""From a checkpoint folder to an engine over its artifact, without profile or verb: what the lowering's tests share."""

from __future__ import annotations

from pathlib import Path

from edgeskip.exporters.bake import bake
from edgeskip.exporters.families.source import ModelSource
from edgeskip.exporters.onnx.formats import WeightFormat
from edgeskip.exporters.onnx.lower import lower
from edgeskip.manifest import Manifest, PlanSummary
from edgeskip.plan import Plan
from edgeskip.runtime.engines.onnxruntime_engine import OnnxRuntimeEngine


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

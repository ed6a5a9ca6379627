"""Artifacts that draft for themselves, exported from tiny checkpoints with no profile and no check after it; and the
walk that both engines over them are taken on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeskip.artifacts.manifest import DraftRecord, GraphRecord, Manifest, PlanSummary
from edgeskip.core.files import sha256_of
from edgeskip.core.plan import Plan
from edgeskip.exporters.bake import bake
from edgeskip.exporters.draft import ChosenHead, ExitDraft, draft_head
from edgeskip.exporters.onnx.drafts import lower_early_exit, lower_skip_plan
from edgeskip.exporters.onnx.formats import WeightFormat
from edgeskip.exporters.onnx.lower import lower
from edgeskip.models.source import ModelSource
from edgeskip.profiles.exit_adapter import ExitAdapter
from edgeskip.runtime.engines.interface import DraftingEngine, Engine

Tokens = NDArray[np.int64]
Logits = NDArray[np.float32]
NOTHING = np.zeros(0, np.int64)
FP32 = WeightFormat("fp32")
EXIT_LAYER = 1


def early_exit_artifact(
    source: ModelSource,
    folder: Path,
    layers: Sequence[int],
    *,
    form: WeightFormat = FP32,
    maps: Sequence[Logits] | None = None,
    tokens: Tokens | None = None,
) -> Manifest:
    """Exits after `layers` (shallow first), each with its map [d, d] or the model's own head; `tokens` trims it."""
    folder.mkdir(parents=True, exist_ok=True)
    decoder = bake(source.decoder, Plan(source.decoder.config.num_blocks))
    exits = []
    for number, layer in enumerate(layers):
        exit_map = None if maps is None else maps[number]
        chosen = ChosenHead() if exit_map is None else ChosenHead("ridge", ExitAdapter(exit_map))
        exits.append(ExitDraft(layer, draft_head(decoder, exit_map, tokens), chosen))
    graph, record = lower_early_exit(decoder, form, folder, exits)
    return _manifest(source, folder, graph, record)


def skip_plan_artifact(source: ModelSource, folder: Path, plan: Plan, *, form: WeightFormat = FP32) -> Manifest:
    folder.mkdir(parents=True, exist_ok=True)
    decoder = bake(source.decoder, Plan(plan.num_blocks))
    graph = lower_skip_plan(decoder, plan, form, folder)
    return _manifest(source, folder, graph, DraftRecord(kind="skip-plan", plan=_summary(plan)))


def whole_artifact(source: ModelSource, folder: Path, plan: Plan) -> Manifest:
    """The model under `plan`, without a draft."""
    folder.mkdir(parents=True, exist_ok=True)
    return _manifest(source, folder, lower(bake(source.decoder, plan), FP32, folder), None)


def random_walk(
    engine: DraftingEngine, dense: Engine, tokens: Tokens, seed: int, *, moves: int = 14, atol: float = 1e-4
) -> None:
    """`moves` random calls; what the whole model says must be what `dense` says of the same tokens, and every count
    what the calls add up to. `tokens` is where new ones are drawn from, as many as the context holds."""
    rng = np.random.default_rng(seed)
    engine.truncate(0)
    sequence, drafted = NOTHING, 0
    for _ in range(moves):
        move = rng.choice(["draft", "draft", "verify", "step", "truncate"])
        new = rng.choice(tokens, rng.choice([1, 1, 2, 5, 9]))
        if len(sequence) + len(new) > engine.context_length:
            move = "truncate"
        if move == "truncate":
            kept = int(rng.integers(max(0, len(sequence) - 12), len(sequence) + 1))
            engine.truncate(kept)
            drafted = max(0, drafted - (len(sequence) - kept))
            sequence = sequence[:kept]
        elif move == "draft":
            sequence, drafted = np.concatenate([sequence, new]), drafted + len(new)
            assert len(engine.draft(new, which=int(rng.integers(engine.drafts)))) == 1
        else:
            if move == "verify" and drafted and rng.random() < 0.5:
                new = NOTHING
            sequence = np.concatenate([sequence, new])
            if move == "verify":
                count = drafted + len(new)
                logits = engine.verify(new)
            else:
                count = int(rng.integers(1, len(new) + 1))
                logits = engine.step(new, logits=count)
            drafted = 0
            np.testing.assert_allclose(logits, rows_of(dense, sequence)[-count:], rtol=0, atol=atol)
        assert (engine.length, engine.drafted) == (len(sequence), drafted)


def rows_of(engine: Engine, tokens: Tokens) -> Logits:
    """Logits [n, V] of `tokens` in one prefill."""
    engine.truncate(0)
    return engine.step(tokens, logits=0)


def _manifest(source: ModelSource, folder: Path, graph: GraphRecord, draft: DraftRecord | None) -> Manifest:
    return Manifest(
        label="dense",
        model=source.record(),
        graph=graph,
        plan=_summary(Plan(source.decoder.config.num_blocks)),
        draft=draft,
        inputs={},
        files={path.name: sha256_of(path) for path in folder.iterdir() if path.suffix != ".data"},
        versions={},
        created="2026-01-01T00:00:00Z",
        verification=None,
    )


def _summary(plan: Plan) -> PlanSummary:
    skip = [str(skip.sublayer) for skip in plan.skips]
    return PlanSummary(method="explicit", compensation=plan.compensation, skip=skip, num_blocks=plan.num_blocks)

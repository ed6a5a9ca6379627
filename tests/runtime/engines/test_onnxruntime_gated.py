"""The graph with a switch: the skip plan drafts. Oracles: the dense engine over a plain export of the same checkpoint
for everything verified, an engine over a plain export of the plan for the drafts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drafting_artifacts import NOTHING, random_walk, rows_of, skip_plan_artifact, whole_artifact
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import VOCAB_SIZE, tiny_checkpoint
from variants import random_plan

from edgeskip.artifacts.manifest import Manifest
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.plan import Plan
from edgeskip.models.source import ModelSource, open_model
from edgeskip.runtime.engines.interface import DraftingEngine
from edgeskip.runtime.engines.onnxruntime.engine import OnnxRuntimeEngine
from edgeskip.runtime.engines.onnxruntime.gated import OnnxRuntimeGatedEngine
from edgeskip.runtime.engines.onnxruntime.graph import GraphRunner

TOKENS = np.random.default_rng(1).integers(2, VOCAB_SIZE, 512)
# attn.0: a kept cache is not the first; attn.1 with ffn.1: one gate for two; ffn.3: the last sublayer.
PLANS = [["attn.0", "ffn.1", "ffn.3"], ["attn.1", "ffn.1", "attn.3"], ["attn.0", "attn.1", "attn.2", "attn.3"]]


@dataclass(frozen=True)
class Case:
    folder: Path
    manifest: Manifest
    gated: OnnxRuntimeGatedEngine
    dense: OnnxRuntimeEngine
    skipped: OnnxRuntimeEngine


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return open_model(str(tiny_checkpoint("llama", tmp_path_factory.mktemp("model"))))


@pytest.fixture(scope="module", params=PLANS, ids="+".join)
def case(request: pytest.FixtureRequest, source: ModelSource, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("artifact")
    plan = random_plan(request.param, "affine", num_blocks=4, hidden_size=64)
    manifest = skip_plan_artifact(source, folder / "gated", plan)

    def whole(plan: Plan, name: str) -> OnnxRuntimeEngine:
        return OnnxRuntimeEngine(folder / name, whole_artifact(source, folder / name, plan), threads=1)

    gated = OnnxRuntimeGatedEngine(folder / "gated", manifest, threads=1)
    return Case(folder / "gated", manifest, gated, whole(Plan(4), "dense"), whole(plan, "skipped"))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_random_calls(case: Case, seed: int) -> None:
    """Oracle: the dense engine, for each row that the whole model gives, and counting by hand."""
    random_walk(case.gated, case.dense, TOKENS, seed)


def test_drafting_from_the_start_is_the_skipped_model(case: Case) -> None:
    """Oracle: the plan baked into a graph of its own; both caches are the skipped model's all along."""
    gated = case.gated
    gated.truncate(0)
    expected = rows_of(case.skipped, TOKENS[:30])
    assert np.abs(expected - rows_of(case.dense, TOKENS[:30])).max() > 0.1  # the plan is felt
    np.testing.assert_allclose(gated.draft(TOKENS[:20])[0], expected[19], rtol=0, atol=1e-4)
    for position in range(20, 30):
        found = gated.draft(TOKENS[position : position + 1])
        np.testing.assert_allclose(found[0], expected[position], rtol=0, atol=1e-4)
    assert (gated.length, gated.drafted, gated.drafts, gated.draft_tokens) == (30, 30, 1, None)
    assert isinstance(gated, DraftingEngine)


def test_a_draft_goes_on_from_the_whole_models_cache(case: Case) -> None:
    """Oracle: the same draft after a prefill: it depends on what the whole model left, and nothing that was drafted
    and rejected in between changes it."""
    gated = case.gated

    def drafted() -> Any:
        return [gated.draft(TOKENS[position : position + 1]).copy() for position in (20, 21, 22)]

    gated.truncate(0)
    gated.step(TOKENS[:20])
    expected = drafted()
    gated.verify(TOKENS[40:42])
    gated.truncate(20)
    gated.draft(TOKENS[50:54])
    gated.truncate(20)
    np.testing.assert_allclose(drafted(), expected, rtol=0, atol=1e-5)
    gated.truncate(0)
    gated.draft(TOKENS[:20])
    if case.manifest.draft is not None and case.manifest.draft.plan is not None:
        kept = {"attn.0", "attn.1", "attn.2", "attn.3"} - set(case.manifest.draft.plan.skip)
        assert (np.abs(np.array(drafted()) - expected).max() > 1e-3) == (kept not in ({"attn.0"}, set()))


def test_nothing_but_the_drafted_positions_is_run_again(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: the positions that each run takes."""
    gated, runs = case.gated, []
    real = GraphRunner._run

    def run(self: GraphRunner, count: int, kept: int, states: Any) -> Any:
        runs.append((self.length, count, kept))
        return real(self, count, kept, states)

    monkeypatch.setattr(GraphRunner, "_run", run)
    gated.truncate(0)
    gated.step(TOKENS[:20])
    for position in (20, 21, 22):
        gated.draft(TOKENS[position : position + 1])
    gated.verify(TOKENS[23:24])
    gated.truncate(22)
    gated.step(TOKENS[22:23])
    assert runs == [(0, 20, 1), (20, 1, 1), (21, 1, 1), (22, 1, 1), (20, 4, 4), (22, 1, 1)]


def test_the_caches_grow_and_the_context_fills(case: Case) -> None:
    """Oracle: the dense engine at the end of a full context of 512, drafted across the growth of the caches at 256."""
    gated = OnnxRuntimeGatedEngine(case.folder, case.manifest, threads=1)
    gated.step(TOKENS[:200])
    for position in range(200, 300):
        gated.draft(TOKENS[position : position + 1])
    expected = rows_of(case.dense, TOKENS)
    np.testing.assert_allclose(gated.verify(NOTHING), expected[200:300], rtol=0, atol=1e-4)
    gated.draft(TOKENS[300:511])
    with pytest.raises(EdgeSkipError, match=r"context is full: 511 \+ 2 tokens, the model holds 512"):
        gated.draft(TOKENS[:2])
    np.testing.assert_allclose(gated.verify(TOKENS[511:]), expected[300:], rtol=0, atol=1e-4)


def test_an_interrupt_forgets_the_draft(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the dense engine over what remained, for an interrupt before and after the run of a verify."""
    gated, real = case.gated, GraphRunner._run
    for after in (False, True):

        def run(self: GraphRunner, count: int, kept: int, states: Any, after: bool = after) -> Any:
            if after:
                real(self, count, kept, states)
            raise KeyboardInterrupt

        gated.truncate(0)
        gated.step(TOKENS[:10])
        gated.draft(TOKENS[10:14])
        monkeypatch.setattr(GraphRunner, "_run", run)
        with pytest.raises(KeyboardInterrupt):
            gated.verify(TOKENS[14:16])
        monkeypatch.setattr(GraphRunner, "_run", real)
        assert (gated.length, gated.drafted) == (10, 0)
        expected = rows_of(case.dense, np.concatenate([TOKENS[:10], TOKENS[60:63]]))
        np.testing.assert_allclose(gated.verify(TOKENS[60:63]), expected[10:], rtol=0, atol=1e-4)


def test_what_cannot_be_asked(case: Case) -> None:
    """By hand: another draft, nothing to verify, another model's token, more than is held."""
    gated = case.gated
    gated.truncate(0)
    with pytest.raises(ValueError, match="no draft 1: the artifact has 1"):
        gated.draft(TOKENS[:1], which=1)
    with pytest.raises(ValueError, match="nothing to verify"):
        gated.verify(NOTHING)
    for ask in (gated.step, gated.draft, gated.verify):
        with pytest.raises(EdgeSkipError, match="token ids"):
            ask(np.array([VOCAB_SIZE]))
    with pytest.raises(ValueError, match="truncate"):
        gated.truncate(1)


def test_a_graph_without_the_switch_is_one_line(case: Case, source: ModelSource, tmp_path: Path) -> None:
    """By hand: a plain graph under a skip-plan manifest, and a manifest that has no such draft."""
    plain = whole_artifact(source, tmp_path, Plan(4))
    with pytest.raises(EdgeSkipError, match=r"no skip-plan draft: export it with  edgeskip export --draft skip-plan$"):
        OnnxRuntimeGatedEngine(tmp_path, plain)
    with pytest.raises(EdgeSkipError, match=r"^model.onnx has other inputs and outputs than its manifest describes"):
        OnnxRuntimeGatedEngine(tmp_path, plain.model_copy(update={"draft": case.manifest.draft}))

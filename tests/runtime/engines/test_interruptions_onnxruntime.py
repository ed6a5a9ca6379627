"""Ctrl-C at every line of the ONNX Runtime engines, then the same engine again. Oracles: numpy over the tiny artifact;
for engines that draft or gate, one of the same artifact that nobody interrupted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drafting_artifacts import early_exit_artifact, skip_plan_artifact
from interruptions import Played, check_every_interruption
from tiny_graph import CONTEXT, VOCAB, TinyArtifact
from tiny_models import VOCAB_SIZE, tiny_checkpoint
from variants import random_plan

from edgeskip.models.source import open_model
from edgeskip.runtime.engines import kv_cache as limits
from edgeskip.runtime.engines.onnxruntime.engine import OnnxRuntimeEngine
from edgeskip.runtime.engines.onnxruntime.gated import OnnxRuntimeGatedEngine
from edgeskip.runtime.engines.onnxruntime.graph import GraphRunner
from edgeskip.runtime.engines.onnxruntime.providers import PROVIDERS
from edgeskip.runtime.engines.onnxruntime.session import SessionConfig, open_session, shape_of
from edgeskip.runtime.engines.onnxruntime.split import OnnxRuntimeSplitEngine

TOKENS = np.random.default_rng(1).integers(2, min(VOCAB, VOCAB_SIZE), CONTEXT)
STEPS = ((5, 1), (1, 1), (1, 1), (3, 3), (2, 2), (9, 1), (1, 1))  # tokens and positions with logits; grows at 16


@pytest.fixture(autouse=True)
def small_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that few steps make them grow."""
    monkeypatch.setattr(limits, "SMALLEST_CAPACITY", 8)


def play(engine: Any) -> Played:
    found, at = [], 0
    for count, kept in STEPS:
        found.append(engine.step(TOKENS[at : at + count], logits=kept).copy())
        at += count
    engine.truncate(4)
    found.append(engine.step(TOKENS[30:32]).copy())
    return found


def numpy_answer(tiny: TinyArtifact) -> Played:
    found, at = [], 0
    for count, kept in STEPS:
        at += count
        found.append(tiny.logits(TOKENS[:at])[-kept:])
    return [*found, tiny.logits(np.concatenate([TOKENS[:4], TOKENS[30:32]]))[-1:]]


@pytest.mark.parametrize("warm", [False, True])
def test_one_graph(tiny_artifact: TinyArtifact, warm: bool) -> None:
    """Oracle: numpy."""

    def fresh() -> OnnxRuntimeEngine:
        return OnnxRuntimeEngine(tiny_artifact.folder, tiny_artifact.manifest, threads=1)

    check_every_interruption(fresh, play, oracle=numpy_answer(tiny_artifact), atol=1e-4, warm=warm)


class Captured:
    """Recorded steps, which the CPU takes and does not record; an engine as far as `play` needs one."""

    def __init__(self, tiny: TinyArtifact) -> None:
        shape = shape_of(tiny.manifest.graph)
        session = open_session(
            tiny.folder, tiny.manifest, shape, SessionConfig(PROVIDERS["cpu"], threads=1, frugal=False)
        )
        self._runner = GraphRunner(session, shape, replace(PROVIDERS["cpu"], captures=True))
        self.truncate, self.close = self._runner.truncate, self._runner.close

    def step(self, tokens: Any, *, logits: int = 1) -> Any:
        return self._runner.append_tokens(tokens, logits)


def test_recorded_steps(tiny_artifact: TinyArtifact) -> None:
    """Oracle: numpy."""
    check_every_interruption(
        lambda: Captured(tiny_artifact), play, oracle=numpy_answer(tiny_artifact), atol=1e-4, often=2
    )


def play_drafts(engine: Any) -> Played:
    found = [engine.step(TOKENS[:5]).copy()]
    at = 5
    for count in (1, 3, 1):  # drafted, then verified with one token more
        for number in range(count):
            found.append(engine.draft(TOKENS[at : at + 1], which=number % engine.drafts).copy())
            at += 1
        found.append(engine.verify(TOKENS[at : at + 1]).copy())
        at += 1
        engine.truncate(engine.length - 1)
        at -= 1
    found.append(engine.step(TOKENS[20:29], logits=2).copy())
    return found


@pytest.fixture(scope="module")
def drafting(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[[], Any]]:
    folder: Path = tmp_path_factory.mktemp("drafting")
    source = open_model(str(tiny_checkpoint("llama", folder / "model")))
    exits = early_exit_artifact(source, folder / "exits", (1, 2))
    plan = skip_plan_artifact(
        source, folder / "plan", random_plan(["attn.1", "ffn.2"], "affine", num_blocks=4, hidden_size=64)
    )
    return {
        "split": lambda: OnnxRuntimeSplitEngine(folder / "exits", exits, threads=1),
        "gated": lambda: OnnxRuntimeGatedEngine(folder / "plan", plan, threads=1),
    }


@pytest.mark.parametrize("kind", ["split", "gated"])
def test_engines_that_draft(drafting: dict[str, Callable[[], Any]], kind: str) -> None:
    check_every_interruption(drafting[kind], play_drafts, atol=1e-4, often=2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["split", "gated"])
@pytest.mark.parametrize("warm", [False, True])
def test_engines_that_draft_at_every_instruction(drafting: dict[str, Callable[[], Any]], kind: str, warm: bool) -> None:
    check_every_interruption(drafting[kind], play_drafts, atol=1e-4, often=1, warm=warm, opcodes=True)


@pytest.mark.slow
def test_one_graph_at_every_instruction(tiny_artifact: TinyArtifact) -> None:
    def fresh() -> OnnxRuntimeEngine:
        return OnnxRuntimeEngine(tiny_artifact.folder, tiny_artifact.manifest, threads=1)

    check_every_interruption(fresh, play, oracle=numpy_answer(tiny_artifact), atol=1e-4, often=1, opcodes=True)

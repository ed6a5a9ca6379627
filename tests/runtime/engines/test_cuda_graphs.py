"""Recorded decode steps. Oracle: numpy over the tiny artifact. The CPU takes the same bindings and records nothing.

That CUDA replays them right is checked where there is a GPU, by tools/gpu_report.sh and the last test here.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from tiny_graph import CONTEXT, VOCAB, TinyArtifact

from edgeskip.runtime.engines.onnxruntime.cuda_graphs import MOST_TOKENS
from edgeskip.runtime.engines.onnxruntime.engine import OnnxRuntimeEngine
from edgeskip.runtime.engines.onnxruntime.graph import GraphRunner
from edgeskip.runtime.engines.onnxruntime.providers import PROVIDERS, find_provider
from edgeskip.runtime.engines.onnxruntime.session import SessionConfig, open_session, shape_of

TOKENS = np.random.default_rng(3).integers(0, VOCAB, CONTEXT)


def runner_of(tiny: TinyArtifact) -> GraphRunner:
    shape = shape_of(tiny.manifest.graph)
    session = open_session(tiny.folder, tiny.manifest, shape, SessionConfig(PROVIDERS["cpu"], threads=1, frugal=False))
    return GraphRunner(session, shape, replace(PROVIDERS["cpu"], captures=True))


def check(runner: GraphRunner, tiny: TinyArtifact, sequence: list[int], new: int, kept: int = 1) -> None:
    """Appends the next `new` tokens after `sequence`, which it changes, and compares the logits."""
    tokens = TOKENS[len(sequence) : len(sequence) + new]
    logits = runner.append_tokens(tokens, kept)
    sequence += tokens.tolist()
    np.testing.assert_allclose(logits, tiny.logits(np.array(sequence))[-kept:], rtol=1e-4, atol=1e-4)


def test_steps_of_every_width_among_others(tiny_artifact: TinyArtifact) -> None:
    runner, sequence = runner_of(tiny_artifact), list[int]()
    for new, kept in [(20, 1), (1, 1), (1, 1), (3, 1), (4, 4), (1, 1), (MOST_TOKENS, 1), (MOST_TOKENS + 1, 1), (1, 1)]:
        check(runner, tiny_artifact, sequence, new, kept)
    assert runner._captured is not None
    assert set(runner._captured._widths) == {1, 3, MOST_TOKENS}


def test_what_was_forgotten_does_not_count(tiny_artifact: TinyArtifact) -> None:
    runner, sequence = runner_of(tiny_artifact), list[int]()
    for _ in range(12):
        check(runner, tiny_artifact, sequence, 1)
    runner.truncate(5)
    check(runner, tiny_artifact, (sequence := sequence[:5]), 1)
    check(runner, tiny_artifact, sequence, 1)


def test_a_cache_that_grows_is_recorded_anew(tiny_artifact: TinyArtifact) -> None:
    runner, sequence = runner_of(tiny_artifact), list[int]()
    check(runner, tiny_artifact, sequence, 250)
    for _ in range(12):  # across the first capacity, 256
        check(runner, tiny_artifact, sequence, 1)
    captured = runner._captured
    assert captured is not None
    assert captured._graphs == 2


def test_the_first_tokens_are_a_prompt(tiny_artifact: TinyArtifact) -> None:
    """An empty cache has nothing to replay over: GroupQueryAttention tells a first prompt by its lengths."""
    runner, sequence = runner_of(tiny_artifact), list[int]()
    check(runner, tiny_artifact, sequence, 1)
    assert runner._captured is not None
    assert not runner._captured._widths
    check(runner, tiny_artifact, sequence, 1)
    assert set(runner._captured._widths) == {1}


def test_the_option_is_onnx_runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its page on the CUDA execution provider calls it enable_cuda_graph."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    found = find_provider("cuda:graphs")
    assert (found.name, found.device, found.options(1)) == ("cuda:graphs", "cuda", {"enable_cuda_graph": "1"})
    assert find_provider("cuda").options(1) == {}


def test_on_a_gpu(tiny_artifact: TinyArtifact) -> None:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("needs onnxruntime-gpu and an NVIDIA GPU")
    engine = OnnxRuntimeEngine(tiny_artifact.folder, tiny_artifact.manifest, provider="cuda:graphs")
    engine.step(TOKENS[:20])
    for place in range(20, 40):
        logits = engine.step(TOKENS[place : place + 1])
        np.testing.assert_allclose(logits[0], tiny_artifact.logits(TOKENS[: place + 1])[-1], rtol=1e-2, atol=1e-2)

"""Ctrl-C at every line of the llama.cpp engines, then the same engine again. Oracle: an engine over the same files that
nobody interrupted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interruptions import Played, check_every_interruption
from split_gguf import split_gguf
from talking_gguf import byte_level_metadata, talking_gguf

from edgeskip.runtime.engines import kv_cache as limits
from edgeskip.runtime.engines.llamacpp.engine import LlamaCppEngine
from edgeskip.runtime.engines.llamacpp.handover import LlamaCppHandoverEngine
from edgeskip.runtime.engines.llamacpp.model import LlamaModel
from edgeskip.runtime.engines.llamacpp.split import LlamaCppSplitEngine
from edgeskip.runtime.engines.llamacpp.trimmed_head import TrimmedHead
from edgeskip.runtime.engines.pair import PairEngine

# What is raised in a callback from llama.cpp (its log) ctypes prints and forgets.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
TOKENS = np.random.default_rng(1).integers(0, len(byte_level_metadata()["tokenizer.ggml.tokens"]), 64)
WIDTH = 64  # of the hidden state


@pytest.fixture(autouse=True)
def small_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that few steps make them grow."""
    monkeypatch.setattr(limits, "SMALLEST_CAPACITY", 8)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("gguf")
    whole, _ = talking_gguf(folder / "whole.gguf", num_hidden_layers=3)
    draft, _ = talking_gguf(folder / "draft.gguf", num_hidden_layers=2)
    first, rest = split_gguf(whole, folder, 2)
    return {"whole": whole, "draft": draft, "first": first, "rest": rest}


def trimmed_head() -> TrimmedHead:
    rng = np.random.default_rng(5)
    return TrimmedHead(rng.normal(size=(20, WIDTH)).astype(np.float16), np.arange(20), 1e-5)


def engine_of(files: dict[str, Path], kind: str) -> Any:
    def plain(name: str) -> LlamaCppEngine:
        return LlamaCppEngine(files[name], threads=1)

    match kind:
        case "plain":
            return plain("whole")
        case "split":
            return LlamaCppSplitEngine(files["first"], files["rest"], threads=1)
        case "trimmed":
            return LlamaCppSplitEngine(files["first"], files["rest"], head=trimmed_head(), threads=1)
        case "pair":
            return PairEngine(plain("whole"), lambda: plain("draft"))
    return LlamaCppHandoverEngine(LlamaModel(files["whole"]), lambda: LlamaModel(files["whole"]), threads=1)


def play(engine: Any) -> Played:
    found, at = [], 0
    for count, kept in ((5, 1), (1, 1), (3, 3), (1, 1)):
        found.append(engine.step(TOKENS[at : at + count], logits=kept).copy())
        at += count
    engine.truncate(4)
    found.append(engine.step(TOKENS[30:32]).copy())
    return found


def play_drafts(engine: Any) -> Played:
    found = [engine.step(TOKENS[:5]).copy()]
    at = 5
    for count in (1, 2):  # drafted, then verified with one token more, of which the last is refused
        for _ in range(count):
            found.append(engine.draft(TOKENS[at : at + 1]).copy())
            at += 1
        found.append(engine.verify(TOKENS[at : at + 1]).copy())
        engine.truncate(engine.length - 1)
    return found


def play_handover(engine: Any) -> Played:
    engine.reserve(7)
    engine.prepare()
    found = [engine.step(TOKENS[:5]).copy()]
    engine.hand_over()
    assert engine.handed_over
    found += [engine.step(TOKENS[at : at + 1]).copy() for at in range(5, 9)]
    return found


PLAYS: dict[str, Callable[[Any], Played]] = {
    "plain": play,
    "split": play_drafts,
    "trimmed": play_drafts,
    "pair": play_drafts,
    "handover": play_handover,
}


@pytest.mark.parametrize("kind", PLAYS)
def test_every_engine(files: dict[str, Path], kind: str) -> None:
    check_every_interruption(lambda: engine_of(files, kind), PLAYS[kind], atol=1e-3, often=1)


@pytest.mark.slow
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("kind", PLAYS)
def test_every_engine_at_every_instruction(files: dict[str, Path], kind: str, warm: bool) -> None:
    check_every_interruption(lambda: engine_of(files, kind), PLAYS[kind], atol=1e-3, often=1, warm=warm, opcodes=True)

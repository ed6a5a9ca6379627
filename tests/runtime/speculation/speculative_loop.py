"""Runs the speculative loop and the plain one over a fake engine, and checks what must hold of both."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from fake_engine import FakeEngine

from edgeskip.runtime.decoding.autoregressive import decode
from edgeskip.runtime.decoding.interface import DecodeRequest, History
from edgeskip.runtime.engines.interface import DraftingEngine
from edgeskip.runtime.engines.prefill import prefill
from edgeskip.runtime.sampling import Sampling, TokenSampler
from edgeskip.runtime.speculation.loop import SpeculativeDecoding
from edgeskip.runtime.speculation.policy import Speculation
from edgeskip.runtime.speculation.speculator import DraftInfo, Speculator

GREEDY = Sampling()


@dataclass
class Run:
    """What a loop gave."""

    tokens: list[int]
    reason: str
    history: History
    decoding: SpeculativeDecoding | None = None
    lengths: list[int] = field(default_factory=list)  # the engine's, at each token


def plain(
    engine: FakeEngine, prompt: list[int], *, max_tokens: int, ends: frozenset[int] = frozenset(),
    sampling: Sampling = GREEDY,
) -> Run:  # fmt: skip
    engine.truncate(0)
    history = History(np.array(prompt, np.int64))
    logits = prefill(engine, history.tokens)
    run = Run([], "", history)
    steps = decode(engine, DecodeRequest(logits, history, TokenSampler(sampling), max_tokens, ends))
    run.reason = yield_all(steps, run, engine)
    return run


def speculator_for(engine: FakeEngine, *, drafts: bool = True) -> Speculator:
    assert isinstance(engine, DraftingEngine)
    infos = tuple(DraftInfo(f"early-exit {i + 1}", i + 1, engine.agreement) for i in range(engine.drafts))
    return Speculator(engine, engine if drafts else None, infos if drafts else ())


def speculative(
    speculator: Speculator, engine: FakeEngine, prompt: list[int], policy: Speculation, *, max_tokens: int,
    ends: frozenset[int] = frozenset(), sampling: Sampling = GREEDY, stop_after: int | None = None,
) -> Run:  # fmt: skip
    sampler = TokenSampler(sampling)
    decoding = speculator.decoding(policy, sampler)
    engine.truncate(0)
    engine.calls.clear()
    history = History(np.array(prompt, np.int64))
    logits = decoding.prefill(history.tokens)
    run = Run([], "", history, decoding)
    steps = decoding.decode(DecodeRequest(logits, history, sampler, max_tokens, ends))
    run.reason = yield_all(steps, run, engine, stop_after)
    return run


def yield_all(steps, run: Run, engine: FakeEngine, stop_after: int | None = None) -> str:
    while True:
        try:
            run.tokens.append(next(steps))
        except StopIteration as end:
            return end.value
        run.lengths.append(engine.length)
        if len(run.tokens) == stop_after:
            steps.close()
            return "interrupted"

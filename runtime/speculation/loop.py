"""The speculative loop: draft, verify, accept, roll back. One implementation for every engine and drafter."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping

import numpy as np
from numpy.typing import NDArray

from edgeskip.runtime.decoding.autoregressive import History
from edgeskip.runtime.engines.interface import DraftingEngine, Engine
from edgeskip.runtime.generation import FinishReason
from edgeskip.runtime.sampling import TokenSampler
from edgeskip.runtime.speculation.acceptance import accept
from edgeskip.runtime.speculation.controller import DraftArm, DraftController
from edgeskip.runtime.speculation.drafters import Drafter, Proposal
from edgeskip.runtime.speculation.statistics import SpeculationRecorder


def speculative_decode(
    engine: Engine,
    drafting: DraftingEngine | None,
    logits: NDArray[np.float32],
    history: History,
    sampler: TokenSampler,
    drafters: Mapping[str, Drafter],
    controller: DraftController,
    recorder: SpeculationRecorder,
    *,
    max_tokens: int | None,
    end_tokens: frozenset[int],
) -> Generator[int, None, FinishReason]:
    """Yields the tokens that `loops.decode` would (greedy), or of the same distribution, several a step.

    `logits` [vocab_size] follow `history`. `drafting` is `engine` where it drafts; `drafters` by the name of their arm.
    Between rounds the engine holds all of `history` but its last token; so it does when the loop is left at any yield.
    """
    left = engine.context_length if max_tokens is None else max_tokens
    new = [sampler.pick(logits, history.tokens)]
    accepted = 0
    try:
        while True:
            for position, token in enumerate(new):
                if token in end_tokens:
                    return "eos"
                history.append(token, drafted=position < accepted)
                left -= 1
                yield token
                if not left or len(history) > engine.context_length:
                    return "length"
            held = engine.length
            room = min(left - 1, engine.context_length - held - 1)
            arm, proposal, draft_s = _draft(drafting, history, drafters, controller, room)
            begin = time.perf_counter()
            rows = _verify(engine, drafting, history, proposal)
            verify_s = time.perf_counter() - begin
            outcome = accept(rows, history.tokens, proposal, sampler)
            accepted = outcome.accepted
            engine.truncate(held + 1 + accepted)
            new = [*proposal.tokens[:accepted], outcome.token]
            if arm is None:
                recorder.plain(verify_s)
                controller.plain(verify_s)
            else:
                recorder.round(arm.name, len(proposal), accepted, draft_s, verify_s)
                controller.round(arm, proposal, accepted, draft_s, verify_s)
    finally:
        engine.truncate(min(engine.length, len(history) - 1))


def _draft(
    drafting: DraftingEngine | None,
    history: History,
    drafters: Mapping[str, Drafter],
    controller: DraftController,
    room: int,
) -> tuple[DraftArm | None, Proposal, float]:
    """The round's drafter (None = a plain step), what it proposes, and the seconds that took."""
    begin = time.perf_counter()
    for arm in controller.choices() if room > 0 else ():
        proposal = drafters[arm.name].propose(history.tokens, controller.depth(arm, room))
        if len(proposal) or (drafting is not None and drafting.drafted):
            return arm, proposal, time.perf_counter() - begin
    return None, Proposal(), 0.0


def _verify(
    engine: Engine, drafting: DraftingEngine | None, history: History, proposal: Proposal
) -> NDArray[np.float32]:
    """Logits [k + 1, vocab_size] after the last token and each of the k proposed ones."""
    if not len(proposal) and (drafting is None or not drafting.drafted):
        return engine.step(history.last)
    tokens = np.concatenate([history.last, np.asarray(proposal.tokens, np.int64)])
    if drafting is None:
        return engine.step(tokens, logits=0)
    return drafting.verify(tokens[drafting.drafted :])

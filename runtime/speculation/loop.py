"""The speculative loop: draft, verify, accept, roll back. One implementation for every engine and drafter."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping

import numpy as np
from numpy.typing import NDArray

from edgeskip.runtime.decoding.interface import DecodeRequest, Decoding, History
from edgeskip.runtime.engines.interface import DraftingEngine, Engine
from edgeskip.runtime.generation import FinishReason, SpeculationStats
from edgeskip.runtime.speculation.acceptance import accept
from edgeskip.runtime.speculation.controller import DraftArm, DraftController
from edgeskip.runtime.speculation.drafters import Drafter, Proposal
from edgeskip.runtime.speculation.statistics import SpeculationRecorder

FAIR_STEPS = 8  # so many plain steps of one generation say more about plain decoding than a measurement before it


class SpeculativeDecoding(Decoding):
    """One generation by rounds of drafting and verifying: the tokens of plain decoding, several per step.

    Greedy decoding gives the same tokens, sampling the same distribution. Between rounds the engine holds the whole
    history but its last token, and it does so too if the loop is left at any yield.

    Args:
        engine: Verifies.
        drafting: The same engine if it drafts; None if only n-grams do.
        drafters: By the name of their arm.
        controller: Chooses the drafter and how many tokens it drafts.
    """

    strategy = "speculative"

    def __init__(
        self,
        engine: Engine,
        drafting: DraftingEngine | None,
        drafters: Mapping[str, Drafter],
        controller: DraftController,
    ) -> None:
        super().__init__(engine)
        self._drafting, self._drafters = drafting, drafters
        self._controller = controller
        self.recorder = SpeculationRecorder()

    def decode(self, request: DecodeRequest) -> Generator[int, None, FinishReason]:
        engine, controller, recorder = self._engine, self._controller, self.recorder
        history, sampler, end_tokens = request.history, request.sampler, request.end_tokens
        left = engine.context_length if request.max_tokens is None else request.max_tokens
        new = [sampler.pick(request.logits, history.tokens)]
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
                arm, proposal, draft_s = self._draft(history, room)
                begin = time.perf_counter()
                rows = self._verify(history, proposal)
                verify_s = time.perf_counter() - begin
                result = accept(rows, history.tokens, proposal, sampler)
                accepted = result.accepted
                engine.truncate(held + 1 + accepted)
                new = [*proposal.tokens[:accepted], result.token]
                if arm is None:
                    recorder.record_plain_step(verify_s)
                    controller.record_plain_step(verify_s)
                else:
                    recorder.record_round(arm.name, len(proposal), accepted, draft_s, verify_s)
                    controller.record_round(arm, proposal, accepted, draft_s, verify_s)
        finally:
            engine.truncate(min(engine.length, len(history) - 1))

    def speculation(self, decode_s: float, decode_tokens_per_s: float) -> SpeculationStats:
        recorder = self.recorder
        # This generation's own plain steps are the fairest comparison: same text, same moment.
        enough = recorder.plain_steps >= FAIR_STEPS
        plain_s = recorder.plain_s / recorder.plain_steps if enough else self._controller.plain_s
        return recorder.stats(decode_s, decode_tokens_per_s, 1 / plain_s)

    def _draft(self, history: History, room: int) -> tuple[DraftArm | None, Proposal, float]:
        """Return the round's drafter (None = a plain step), what it proposes, and the seconds that took."""
        drafting, controller = self._drafting, self._controller
        begin = time.perf_counter()
        for arm in controller.candidates() if room > 0 else ():
            proposal = self._drafters[arm.name].propose(history.tokens, controller.draft_length(arm, room))
            if len(proposal) or (drafting is not None and drafting.drafted):
                return arm, proposal, time.perf_counter() - begin
        return None, Proposal(), 0.0

    def _verify(self, history: History, proposal: Proposal) -> NDArray[np.float32]:
        """Return logits [k + 1, vocab_size] after the last token and each of the k proposed ones."""
        drafting = self._drafting
        if not len(proposal) and (drafting is None or not drafting.drafted):
            return self._engine.step(history.last)
        tokens = np.concatenate([history.last, np.asarray(proposal.tokens, np.int64)])
        if drafting is None:
            return self._engine.step(tokens, logits=0)
        return drafting.verify(tokens[drafting.drafted :])

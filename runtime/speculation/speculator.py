"""Speculation for one session: what can draft, what it costs here, what was learnt from one generation to the next."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.decoding.autoregressive import History
from edgeskip.runtime.engines.interface import DraftingEngine, Engine
from edgeskip.runtime.engines.prefill import prefill
from edgeskip.runtime.generation import FinishReason, OnlineStats, SpeculationStats, Strategy
from edgeskip.runtime.sampling import TokenSampler
from edgeskip.runtime.speculation.acceptance_estimator import (
    AcceptanceEstimator,
    prior_by_confidence,
    prior_by_match_length,
)
from edgeskip.runtime.speculation.controller import DraftArm, DraftController
from edgeskip.runtime.speculation.draft_only import DraftOnlyDecoding
from edgeskip.runtime.speculation.drafters import Drafter, ModelDrafter, NgramDrafter
from edgeskip.runtime.speculation.latency_model import LatencyModel, measure_latencies
from edgeskip.runtime.speculation.loop import speculative_decode
from edgeskip.runtime.speculation.policy import Speculation
from edgeskip.runtime.speculation.statistics import SpeculationRecorder

NGRAM = "ngram"
FAIR_STEPS = 8  # plain steps of one generation whose mean is a better figure than the one measured before it


@dataclass(frozen=True)
class DraftInfo:
    """What the artifact says of one of its drafts."""

    name: str  # "early-exit 8", "skip-plan"
    exit_layer: int | None = None
    agreement: float | None = None  # share of held-out tokens it predicts as the whole model


class Speculator:
    """Makes decodings over one engine; costs are measured once, controllers remember by policy."""

    def __init__(self, engine: Engine, drafting: DraftingEngine | None, drafts: tuple[DraftInfo, ...]) -> None:
        self._engine, self._drafting, self._drafts = engine, drafting, drafts
        self._costs: LatencyModel | None = None
        self._controllers: dict[Speculation, DraftController] = {}

    @property
    def drafts(self) -> tuple[DraftInfo, ...]:
        """The artifact's own drafts, the cheapest first; () where only n-grams can draft."""
        return self._drafts

    def costs(self) -> LatencyModel:
        """Seconds of drafting and verifying here; the first call runs the engine, which is empty afterwards."""
        if self._costs is None:
            self._costs = measure_latencies(self._engine, self._drafting)
        return self._costs

    def decoding(self, policy: Speculation, sampler: TokenSampler) -> SpeculativeDecoding:
        """For one generation. EdgeSkipError where the artifact has not what `policy` asks for."""
        arms = self._arms(policy)
        costs = self.costs()
        if policy not in self._controllers:
            priors = [
                prior_by_match_length() if arm.which is None else prior_by_confidence(arm.agreement) for arm in arms
            ]
            self._controllers[policy] = DraftController(
                arms, [AcceptanceEstimator(prior) for prior in priors], policy, costs
            )
        controller = self._controllers[policy]
        drafters: dict[str, Drafter] = {}
        for arm in controller.arms:
            if arm.which is None:
                drafters[arm.name] = NgramDrafter(policy.ngram)
            elif self._drafting is not None:
                drafters[arm.name] = ModelDrafter(self._drafting, sampler, arm.which)
        return SpeculativeDecoding(self._engine, self._drafting, drafters, controller)

    def draft_only(self, policy: Speculation) -> DraftOnlyDecoding:
        """For one generation without verification. EdgeSkipError where the artifact has no draft."""
        if self._drafting is None:
            raise EdgeSkipError(f"draft-only needs a draft, which this artifact has not: {_HOW_TO_EXPORT}")
        return DraftOnlyDecoding(self._drafting, self._which(policy) or 0, policy.confidence)

    def _arms(self, policy: Speculation) -> list[DraftArm]:
        drafter = policy.drafter or ("mixed" if policy.auto else "model" if self._drafts else "ngram")
        if drafter == "model" and not self._drafts:
            raise EdgeSkipError(f"this artifact has no draft of its own: use the drafter ngram, or {_HOW_TO_EXPORT}")
        arms = [] if drafter == "model" else [DraftArm(NGRAM, None)]
        if drafter == "ngram":
            return arms
        chosen = self._which(policy)
        every = range(len(self._drafts)) if policy.auto and chosen is None else [chosen or 0][: len(self._drafts)]
        return arms + [DraftArm(self._drafts[i].name, i, self._drafts[i].agreement) for i in every]

    def _which(self, policy: Speculation) -> int | None:
        """Index of the exit the policy names, None where it names none."""
        if policy.exit_layer is None:
            return None
        layers = [draft.exit_layer for draft in self._drafts]
        if policy.exit_layer not in layers:
            found = ", ".join(str(layer) for layer in layers if layer is not None) or "none"
            raise EdgeSkipError(f"this artifact has no exit after {policy.exit_layer} blocks; its exits: {found}")
        return layers.index(policy.exit_layer)


_HOW_TO_EXPORT = "export one with  edgeskip export --draft early-exit --exit-layer E"


class SpeculativeDecoding:
    """One generation by rounds of drafting and verifying."""

    def __init__(
        self,
        engine: Engine,
        drafting: DraftingEngine | None,
        drafters: dict[str, Drafter],
        controller: DraftController,
    ) -> None:
        self._engine, self._drafting, self._drafters = engine, drafting, drafters
        self._controller = controller
        self.recorder = SpeculationRecorder()

    @property
    def strategy(self) -> Strategy:
        return "speculative"

    def prefill(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        return prefill(self._engine, tokens)

    def decode(
        self,
        logits: NDArray[np.float32],
        history: History,
        sampler: TokenSampler,
        *,
        max_tokens: int | None,
        end_tokens: frozenset[int],
    ) -> Generator[int, None, FinishReason]:
        return speculative_decode(
            self._engine,
            self._drafting,
            logits,
            history,
            sampler,
            self._drafters,
            self._controller,
            self.recorder,
            max_tokens=max_tokens,
            end_tokens=end_tokens,
        )

    def speculation(self, decode_s: float, decode_tokens_per_s: float) -> SpeculationStats:
        recorder = self.recorder
        # This generation's own plain steps are the fairest comparison: same text, same moment.
        enough = recorder.plain_steps >= FAIR_STEPS
        plain_s = recorder.plain_s / recorder.plain_steps if enough else self._controller.plain_s
        return recorder.stats(decode_s, decode_tokens_per_s, 1 / plain_s)

    def online(self) -> OnlineStats | None:
        return None

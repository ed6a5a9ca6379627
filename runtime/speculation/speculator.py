"""Speculation for one session: what can draft, what it costs here, and what earlier generations taught."""

from __future__ import annotations

from dataclasses import dataclass

from edgeskip.artifacts.gguf.manifest import GgufManifest
from edgeskip.artifacts.manifest import Manifest
from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.engines.interface import DraftingEngine, Engine
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
from edgeskip.runtime.speculation.loop import SpeculativeDecoding
from edgeskip.runtime.speculation.policy import Speculation

NGRAM = "ngram"
_HOW_TO_EXPORT = "export one with  edgeskip export --draft early-exit --exit-layer E"


@dataclass(frozen=True)
class DraftInfo:
    """What the artifact says about one of its drafts.

    Attributes:
        name: `early-exit 8` or `skip-plan`.
        exit_layer: Blocks of the model before the exit; None for a skip plan.
        agreement: Share of held-out tokens, 0 to 1, that the draft predicts as the whole model does; None = unknown.
    """

    name: str
    exit_layer: int | None = None
    agreement: float | None = None


def drafts_of(manifest: Manifest | GgufManifest | None) -> tuple[DraftInfo, ...]:
    """Return the drafts that an artifact's manifest lists, the cheapest first; () if it has none."""
    if isinstance(manifest, GgufManifest):
        name = "skip-plan" if manifest.exit_layer is None else f"early-exit {manifest.exit_layer}"
        return (DraftInfo(name, manifest.exit_layer, manifest.agreement),)
    draft = None if manifest is None else manifest.draft
    if draft is None:
        return ()
    if draft.kind == "skip-plan":
        return (DraftInfo("skip-plan", None, draft.agreement),)
    return tuple(DraftInfo(f"early-exit {exit_.layer}", exit_.layer, exit_.agreement) for exit_ in draft.exits)


class Speculator:
    """Makes decodings over one engine: measures latencies once, keeps one controller per policy.

    Args:
        engine: Verifies.
        drafting: The same engine if it drafts, else None.
        drafts: What it drafts with, the cheapest first.
    """

    def __init__(self, engine: Engine, drafting: DraftingEngine | None, drafts: tuple[DraftInfo, ...]) -> None:
        self._engine, self._drafting, self._drafts = engine, drafting, drafts
        self._latencies: LatencyModel | None = None
        self._controllers: dict[Speculation, DraftController] = {}

    @property
    def drafts(self) -> tuple[DraftInfo, ...]:
        """The artifact's own drafts, the cheapest first; () if only n-grams can draft."""
        return self._drafts

    def latencies(self) -> LatencyModel:
        """Return the seconds of drafting and verifying here; the first call runs the engine and leaves it empty."""
        if self._latencies is None:
            self._latencies = measure_latencies(self._engine, self._drafting)
        return self._latencies

    def decoding(self, policy: Speculation, sampler: TokenSampler) -> SpeculativeDecoding:
        """Return the decoding of one generation.

        Raises:
            EdgeSkipError: If the artifact does not contain the draft that `policy` asks for.
        """
        arms = self._arms(policy)
        latencies = self.latencies()
        if policy not in self._controllers:
            estimators = [
                AcceptanceEstimator(
                    prior_by_match_length() if arm.which is None else prior_by_confidence(arm.agreement)
                )
                for arm in arms
            ]
            self._controllers[policy] = DraftController(arms, estimators, policy, latencies)
        controller = self._controllers[policy]
        drafters: dict[str, Drafter] = {}
        for arm in controller.arms:
            if arm.which is None:
                drafters[arm.name] = NgramDrafter(policy.ngram)
            elif self._drafting is not None:
                drafters[arm.name] = ModelDrafter(self._drafting, sampler, arm.which)
        return SpeculativeDecoding(self._engine, self._drafting, drafters, controller)

    def draft_only(self, policy: Speculation) -> DraftOnlyDecoding:
        """Return the decoding of one generation without verification.

        Raises:
            EdgeSkipError: If the artifact has no draft.
        """
        if self._drafting is None:
            raise EdgeSkipError(f"draft-only needs a draft, and this artifact has none: {_HOW_TO_EXPORT}")
        return DraftOnlyDecoding(self._drafting, self._exit_index(policy) or 0, policy.confidence)

    def _arms(self, policy: Speculation) -> list[DraftArm]:
        drafter = policy.drafter or ("mixed" if policy.auto else "model" if self._drafts else "ngram")
        if drafter == "model" and not self._drafts:
            raise EdgeSkipError(f"this artifact has no draft: use the drafter ngram, or {_HOW_TO_EXPORT}")
        arms = [] if drafter == "model" else [DraftArm(NGRAM, None)]
        if drafter == "ngram":
            return arms
        chosen = self._exit_index(policy)
        every = range(len(self._drafts)) if policy.auto and chosen is None else [chosen or 0][: len(self._drafts)]
        return arms + [DraftArm(self._drafts[i].name, i, self._drafts[i].agreement) for i in every]

    def _exit_index(self, policy: Speculation) -> int | None:
        """Return the index of the exit that the policy names; None if it names none."""
        if policy.exit_layer is None:
            return None
        layers = [draft.exit_layer for draft in self._drafts]
        if policy.exit_layer not in layers:
            found = ", ".join(str(layer) for layer in layers if layer is not None) or "none"
            raise EdgeSkipError(f"this artifact has no exit after {policy.exit_layer} blocks; its exits: {found}")
        return layers.index(policy.exit_layer)

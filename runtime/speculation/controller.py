"""Chooses, round by round, who drafts and how deep, or a plain step: by measured costs and what was accepted so far.

With a fixed γ there is nothing to choose. With γ auto a drafter is used while it gains, and tried again now and then
while it does not; what all trials together may lose is bounded by a share of the time decoded, so that auto never
falls far behind plain decoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgeskip.runtime.speculation.acceptance_estimator import AcceptanceEstimator
from edgeskip.runtime.speculation.draft_length import AdaptiveDraftLength, DraftLength, FixedDraftLength
from edgeskip.runtime.speculation.drafters import Proposal
from edgeskip.runtime.speculation.latency_model import LatencyCurve, LatencyModel
from edgeskip.runtime.speculation.policy import Speculation

ALLOWED_LOSS = 0.01  # of the time decoded so far
FIRST_CREDIT = 1.0  # plain steps that trials may lose before any time is decoded
MOST_CREDIT = 8.0  # plain steps: what was gained long ago does not pay for losses now
_MEMORY = 0.95  # of a drafter's gain, a round
_FORGET = 0.02
_PRIOR_ROUNDS = 4.0
_DRIFT = 0.25  # how fast the plain step's time follows what is seen
FIRST_PLAIN_STEPS = 3  # so that what rounds are compared with rests on more than one busy moment's measurement
ROUNDS_IN_A_ROW = 8  # then a plain step, so that it is never old


@dataclass(frozen=True)
class DraftArm:
    """A drafter to choose: `which` exit of the artifact's draft, None = n-grams. `name` is for the statistics."""

    name: str
    which: int | None
    agreement: float | None = None  # share of tokens it predicted as the whole model when it was calibrated


class _State:
    """What is known of an arm: how reliable its tokens are, and tokens and seconds of its rounds."""

    def __init__(self, arm: DraftArm, reliability: AcceptanceEstimator, speedup: float, plain_s: float) -> None:
        self.arm = arm
        self.reliability = reliability
        self.tokens = _PRIOR_ROUNDS * speedup
        self.seconds = _PRIOR_ROUNDS * plain_s
        self._prior = self.tokens, self.seconds

    def speedup(self, plain_s: float) -> float:
        return self.tokens * plain_s / self.seconds

    def update(self, tokens: int, seconds: float) -> None:
        """A round of this arm."""
        self.tokens = _MEMORY * self.tokens + tokens
        self.seconds = _MEMORY * self.seconds + seconds

    def forget(self) -> None:
        """A round of another arm: what this one did lately gives way to what was expected of it, so that a run of bad
        luck does not rule it out for good."""
        tokens, seconds = self._prior
        self.tokens += _FORGET * (tokens - self.tokens)
        self.seconds += _FORGET * (seconds - self.seconds)


class DraftController:
    """One session's choice; it remembers from one generation to the next."""

    def __init__(
        self,
        arms: Sequence[DraftArm],
        reliabilities: Sequence[AcceptanceEstimator],
        policy: Speculation,
        costs: LatencyModel,
    ) -> None:
        self._policy, self._costs = policy, costs
        self._plain_s = costs.plain
        self._credit_s = FIRST_CREDIT * costs.plain
        self._rounds = 0  # since the last plain step
        self._plain_due = FIRST_PLAIN_STEPS
        self._arms = {
            arm.name: _State(arm, reliability, self._predicted(arm, reliability.mean()), costs.plain)
            for arm, reliability in zip(arms, reliabilities, strict=True)
        }

    @property
    def arms(self) -> tuple[DraftArm, ...]:
        return tuple(state.arm for state in self._arms.values())

    @property
    def plain_s(self) -> float:
        """Seconds of a plain step, as last known."""
        return self._plain_s

    def choices(self) -> Iterator[DraftArm]:
        """Who may draft this round, to be asked in this order until one proposes something."""
        if not self._policy.auto:
            yield from self.arms
            return
        if self._plain_due:
            return
        for state in sorted(self._arms.values(), key=self._rank):
            if self._credit_s > 0 and (state.speedup(self._plain_s) > 1 or self._affords(state)):
                yield state.arm

    def depth(self, arm: DraftArm, room: int) -> DraftLength:
        """How deep `arm` may draft where `room` tokens are left."""
        policy = self._policy
        limit = min(policy.limit, room)
        if not policy.auto:
            return FixedDraftLength(limit, policy.confidence if arm.which is not None else 0.0)
        model = arm.which is not None
        return AdaptiveDraftLength(
            limit,
            self._arms[arm.name].reliability,
            plain_s=self._costs.plain,
            draft_s=self._draft_s(arm),
            row_s=self._row_s(arm),
            confidence=policy.confidence if model else 0.0,
            trial=self._arms[arm.name].speedup(self._plain_s) <= 1,
        )

    def plain(self, seconds: float) -> None:
        """A plain step was made."""
        self._rounds, self._plain_due = 0, max(0, self._plain_due - 1)
        self._follow(seconds / self._plain_s)
        self._earn(ALLOWED_LOSS * seconds)

    def round(self, arm: DraftArm, proposal: Proposal, accepted: int, draft_s: float, verify_s: float) -> None:
        """A round was made, which gave `accepted` + 1 tokens."""
        state, seconds, drafted = self._arms[arm.name], draft_s + verify_s, len(proposal)
        for confidence_bin in proposal.confidence_bins[:accepted]:
            state.reliability.update(confidence_bin, accepted=True)
        if accepted < drafted:
            state.reliability.update(proposal.confidence_bins[accepted], accepted=False)
        state.update(accepted + 1, seconds)
        for other in self._arms.values():
            if other is not state:
                other.forget()
        self._rounds += 1
        if self._rounds == ROUNDS_IN_A_ROW:
            self._plain_due = 1
        self._earn(ALLOWED_LOSS * seconds + (accepted + 1) * self._plain_s - seconds)

    def _predicted(self, arm: DraftArm, rate: float) -> float:
        """Speed-up of the best γ where every token is accepted with the same chance (Leviathan et al., §3.3)."""
        rate = rate if arm.agreement is None else arm.agreement
        curve = self._curve(arm)
        best = 0.0
        for count in range(1, self._policy.limit + 1):
            tokens = sum(rate**i for i in range(count + 1))
            seconds = count * self._draft_s(arm) + curve.at(count + 1)
            best = max(best, tokens * self._costs.plain / seconds)
        return best

    def _draft_s(self, arm: DraftArm) -> float:
        return 0.0 if arm.which is None else self._costs.draft[arm.which]

    def _row_s(self, arm: DraftArm) -> float:
        """One token more to verify. Where measuring says it costs more than a step of its own, noise said so."""
        return min(self._curve(arm).slope(2), self._costs.plain)

    def _curve(self, arm: DraftArm) -> LatencyCurve:
        return self._costs.verify if arm.which is not None and self._costs.verify else self._costs.step

    def _rank(self, state: _State) -> float:
        return -9.0 if state.arm.which is None else -state.speedup(self._plain_s)

    def _affords(self, state: _State) -> bool:
        """Whether the credit covers a trial whose one token is refused."""
        return self._credit_s > self._draft_s(state.arm) + self._row_s(state.arm)

    def _earn(self, seconds: float) -> None:
        self._credit_s = min(self._credit_s + seconds, MOST_CREDIT * self._plain_s)

    def _follow(self, ratio: float) -> None:
        """The device gets slower with the context, and with what else it does; a hiccup is not followed.

        Plain steps alone tell: a slow verification may just be dear, and must not make plain steps look slow too.
        """
        if 0.3 < ratio < 3:
            self._plain_s *= 1 + _DRIFT * (ratio - 1)

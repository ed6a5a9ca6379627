"""Choose, round by round, who drafts and how much, or a plain step: from measured latencies and acceptance so far.

With a fixed γ there is nothing to choose. With γ auto a drafter is used while it gains, and tried again now and then
while it does not. The time that all trials together may lose is a bounded share of the time decoded, so auto never
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
MOST_CREDIT = 8.0  # plain steps: an early gain must not pay for losses much later
_MEMORY = 0.95  # weight of a drafter's gain after one more round
_FORGET = 0.02
_PRIOR_ROUNDS = 4.0
_DRIFT = 0.25  # how fast the plain step's time follows what is observed
FIRST_PLAIN_STEPS = 3  # so that rounds are compared with more than one measurement from one busy moment
ROUNDS_IN_A_ROW = 8  # then a plain step, so that the time of one is never old


@dataclass(frozen=True)
class DraftArm:
    """A drafter that the controller can choose (an arm of a bandit).

    Attributes:
        name: For the statistics.
        which: Index of the artifact's exit; None = n-grams.
        agreement: Share of tokens it predicted as the whole model did when it was calibrated; None = unknown.
    """

    name: str
    which: int | None
    agreement: float | None = None


class _ArmState:
    """What is known of an arm: how often its tokens are accepted, and the tokens and seconds of its rounds."""

    def __init__(self, arm: DraftArm, acceptance: AcceptanceEstimator, speedup: float, plain_s: float) -> None:
        self.arm = arm
        self.acceptance = acceptance
        self.tokens = _PRIOR_ROUNDS * speedup
        self.seconds = _PRIOR_ROUNDS * plain_s
        self._prior = self.tokens, self.seconds

    def speedup(self, plain_s: float) -> float:
        """Return tokens per second over those of plain steps of `plain_s` seconds."""
        return self.tokens * plain_s / self.seconds

    def update(self, tokens: int, seconds: float) -> None:
        """Record a round of this arm."""
        self.tokens = _MEMORY * self.tokens + tokens
        self.seconds = _MEMORY * self.seconds + seconds

    def forget(self) -> None:
        """Move a little back to the prior, after a round of another arm: bad luck must not rule an arm out for good."""
        tokens, seconds = self._prior
        self.tokens += _FORGET * (tokens - self.tokens)
        self.seconds += _FORGET * (seconds - self.seconds)


class DraftController:
    """The choices of one session; it learns from one generation to the next.

    Args:
        arms: The drafters to choose from, each with a name of its own.
        estimators: The acceptance rate of each arm, in the same order.
        policy: What the user chose.
        latencies: What a step, a draft and a verification cost here.
    """

    def __init__(
        self,
        arms: Sequence[DraftArm],
        estimators: Sequence[AcceptanceEstimator],
        policy: Speculation,
        latencies: LatencyModel,
    ) -> None:
        self._policy, self._latencies = policy, latencies
        self._plain_s = latencies.plain
        self._credit_s = FIRST_CREDIT * latencies.plain
        self._rounds = 0  # since the last plain step
        self._plain_due = FIRST_PLAIN_STEPS
        self._arms = {
            arm.name: _ArmState(arm, acceptance, self._predicted_speedup(arm, acceptance.mean()), latencies.plain)
            for arm, acceptance in zip(arms, estimators, strict=True)
        }

    @property
    def arms(self) -> tuple[DraftArm, ...]:
        """All drafters to choose from."""
        return tuple(state.arm for state in self._arms.values())

    @property
    def plain_s(self) -> float:
        """Seconds of a plain step, by the latest estimate."""
        return self._plain_s

    def candidates(self) -> Iterator[DraftArm]:
        """Yield the drafters for this round, in the order to ask them until one proposes something."""
        if not self._policy.auto:
            yield from self.arms
            return
        if self._plain_due:
            return
        for state in sorted(self._arms.values(), key=self._rank):
            if self._credit_s > 0 and (state.speedup(self._plain_s) > 1 or self._can_afford_trial(state)):
                yield state.arm

    def draft_length(self, arm: DraftArm, room: int) -> DraftLength:
        """Return the rule for how many tokens `arm` drafts this round, at most `room`."""
        policy = self._policy
        limit = min(policy.limit, room)
        if not policy.auto:
            return FixedDraftLength(limit, policy.confidence if arm.which is not None else 0.0)
        model = arm.which is not None
        return AdaptiveDraftLength(
            limit,
            self._arms[arm.name].acceptance,
            plain_s=self._latencies.plain,
            draft_s=self._draft_s(arm),
            row_s=self._row_s(arm),
            confidence=policy.confidence if model else 0.0,
            trial=self._arms[arm.name].speedup(self._plain_s) <= 1,
        )

    def record_plain_step(self, seconds: float) -> None:
        """Record the time of a plain step."""
        self._rounds, self._plain_due = 0, max(0, self._plain_due - 1)
        self._update_plain_time(seconds / self._plain_s)
        self._add_credit(ALLOWED_LOSS * seconds)

    def record_round(self, arm: DraftArm, proposal: Proposal, accepted: int, draft_s: float, verify_s: float) -> None:
        """Record a round, which gave `accepted` + 1 tokens."""
        state, seconds, drafted = self._arms[arm.name], draft_s + verify_s, len(proposal)
        for index in proposal.confidence_bins[:accepted]:
            state.acceptance.update(index, accepted=True)
        if accepted < drafted:
            state.acceptance.update(proposal.confidence_bins[accepted], accepted=False)
        state.update(accepted + 1, seconds)
        for other in self._arms.values():
            if other is not state:
                other.forget()
        self._rounds += 1
        if self._rounds == ROUNDS_IN_A_ROW:
            self._plain_due = 1
        self._add_credit(ALLOWED_LOSS * seconds + (accepted + 1) * self._plain_s - seconds)

    def _predicted_speedup(self, arm: DraftArm, rate: float) -> float:
        """Return the best γ's speed-up if every token is accepted with the same chance (Leviathan et al., §3.3)."""
        rate = rate if arm.agreement is None else arm.agreement
        curve = self._verify_curve(arm)
        best = 0.0
        for count in range(1, self._policy.limit + 1):
            tokens = sum(rate**i for i in range(count + 1))
            seconds = count * self._draft_s(arm) + curve.at(count + 1)
            best = max(best, tokens * self._latencies.plain / seconds)
        return best

    def _draft_s(self, arm: DraftArm) -> float:
        return 0.0 if arm.which is None else self._latencies.draft[arm.which]

    def _row_s(self, arm: DraftArm) -> float:
        """Return the seconds that verifying one more token costs."""
        # A measured cost above one full step is noise, so clamp it.
        return min(self._verify_curve(arm).slope(2), self._latencies.plain)

    def _verify_curve(self, arm: DraftArm) -> LatencyCurve:
        return self._latencies.verify if arm.which is not None and self._latencies.verify else self._latencies.step

    def _rank(self, state: _ArmState) -> float:
        return -9.0 if state.arm.which is None else -state.speedup(self._plain_s)

    def _can_afford_trial(self, state: _ArmState) -> bool:
        """Return whether the credit covers a trial whose one token is rejected."""
        return self._credit_s > self._draft_s(state.arm) + self._row_s(state.arm)

    def _add_credit(self, seconds: float) -> None:
        self._credit_s = min(self._credit_s + seconds, MOST_CREDIT * self._plain_s)

    def _update_plain_time(self, ratio: float) -> None:
        """Follow a device that slows down with the context and its load, but not a single hiccup.

        Only plain steps count: a verification may simply be expensive, and must not make plain steps look slow too.
        """
        if 0.3 < ratio < 3:
            self._plain_s *= 1 + _DRIFT * (ratio - 1)

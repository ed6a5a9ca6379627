"""Counts of what speculation does in one generation, while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgeskip.runtime.generation import SpeculationStats


@dataclass
class SpeculationRecorder:
    """Counts of rounds, tokens and seconds."""

    plain_steps: int = 0
    plain_s: float = 0.0
    draft_s: float = 0.0
    verify_s: float = 0.0
    offered_at: list[int] = field(default_factory=list)  # by position: tokens proposed there
    accepted_at: list[int] = field(default_factory=list)
    drafts: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def record_plain_step(self, seconds: float) -> None:
        """Count a plain decode step."""
        self.plain_steps += 1
        self.plain_s += seconds

    def record_round(self, drafter: str, drafted: int, accepted: int, draft_s: float, verify_s: float) -> None:
        """Count a round; `drafted` may be 0 if the draft ran and proposed nothing."""
        self.draft_s += draft_s
        self.verify_s += verify_s
        while len(self.offered_at) < drafted:
            self.offered_at.append(0)
            self.accepted_at.append(0)
        for position in range(drafted):
            self.offered_at[position] += 1
            self.accepted_at[position] += position < accepted
        rounds, all_drafted, all_accepted = self.drafts.get(drafter, (0, 0, 0))
        self.drafts[drafter] = (rounds + 1, all_drafted + drafted, all_accepted + accepted)

    def stats(self, decode_s: float, decode_tokens_per_s: float, plain_tokens_per_s: float) -> SpeculationStats:
        """Return the statistics so far, for a generation that decoded for `decode_s` seconds."""
        rounds = sum(found[0] for found in self.drafts.values())
        drafted, accepted = sum(self.offered_at), sum(self.accepted_at)
        return SpeculationStats(
            rounds=rounds,
            plain_steps=self.plain_steps,
            drafted=drafted,
            accepted=accepted,
            acceptance_rate=accepted / drafted if drafted else 0.0,
            acceptance_per_position=tuple(a / o for a, o in zip(self.accepted_at, self.offered_at, strict=True)),
            mean_accepted_length=accepted / rounds if rounds else 0.0,
            drafts=dict(self.drafts),
            draft_s=self.draft_s,
            verify_s=self.verify_s,
            plain_s=self.plain_s,
            overhead_s=max(0.0, decode_s - self.draft_s - self.verify_s - self.plain_s),
            plain_tokens_per_s=plain_tokens_per_s,
            speedup=decode_tokens_per_s / plain_tokens_per_s if plain_tokens_per_s else 0.0,
        )

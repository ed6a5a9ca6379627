"""Where the time of an entry's answers goes, and what its drafting did: sums over all rounds, seconds in, ms out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from edgeskip.bench.report.merged_runs import ReportEntry
from edgeskip.bench.schema import PromptResult

_AT_ONCE = 0.05  # of the mean gap: no step is that short, only what comes out of the same one


@dataclass(frozen=True)
class TimeShare:
    """One part of a time, in milliseconds."""

    name: str
    ms: float


@dataclass(frozen=True)
class DraftingStats:
    """What drafting did in all answers of an entry."""

    rounds: int
    plain_steps: int
    drafted: int
    accepted: int
    at_least: tuple[float, ...]  # [k-1]: share of rounds that emitted k drafted tokens or more; () if unknown

    @property
    def acceptance(self) -> float | None:
        return self.accepted / self.drafted if self.drafted else None

    @property
    def accepted_per_round(self) -> float | None:
        return self.accepted / self.rounds if self.rounds else None


def prompt_results(entry: ReportEntry) -> list[PromptResult]:
    return [answer for sample in entry.samples for answer in sample.answers]


def first_token_parts(entry: ReportEntry) -> list[TimeShare]:
    """Return the mean TTFT by what it is spent on; [] if no prompt was answered."""
    answers = prompt_results(entry)
    if not answers:
        return []
    total, prepare, prefill = (
        1e3 * sum(values) / len(answers)
        for values in zip(*((a.ttft_s, a.prepare_s, a.prefill_s) for a in answers), strict=True)
    )
    return [
        TimeShare("template and tokenizer", prepare),
        TimeShare("prefill", prefill),
        TimeShare("rest", _rest(total, prepare + prefill)),
    ]


def decode_parts(entry: ReportEntry) -> list[TimeShare]:
    """Return milliseconds per token after the first by what they are spent on; [] if unknown for some answers."""
    answers = [answer for answer in prompt_results(entry) if answer.gaps_s]
    tokens = sum(len(answer.gaps_s) for answer in answers)
    if not tokens:
        return []
    scale = 1e3 / tokens
    total = scale * sum(sum(answer.gaps_s) for answer in answers)
    speculated = [answer.speculation for answer in answers if answer.speculation is not None]
    if len(speculated) == len(answers):
        parts = [
            TimeShare("drafting", scale * sum(one.draft_s for one in speculated)),
            TimeShare("verifying", scale * sum(one.verify_s for one in speculated)),
            TimeShare("plain steps", scale * sum(one.plain_s for one in speculated)),
        ]
        return [*parts, TimeShare("rest", _rest(total, sum(part.ms for part in parts)))]
    inside = [answer.runtime_s for answer in answers if answer.runtime_s is not None]
    if len(inside) < len(answers):
        return []
    runtime = scale * sum(inside)
    return [TimeShare("inference runtime", runtime), TimeShare("rest", _rest(total, runtime))]


def drafting_stats(entry: ReportEntry) -> DraftingStats | None:
    """Return what drafting did; None if nothing was drafted or it is unknown."""
    answers = [answer for answer in prompt_results(entry) if answer.speculation is not None]
    stats = [answer.speculation for answer in answers if answer.speculation is not None]
    rounds, drafted = sum(one.rounds for one in stats), sum(one.drafted for one in stats)
    if not stats or not rounds + sum(one.plain_steps for one in stats):
        return None
    accepted = sum(one.accepted for one in stats)
    return DraftingStats(
        rounds, sum(one.plain_steps for one in stats), drafted, accepted, _at_least(answers, rounds, accepted)
    )


def _rest(total: float, known: float) -> float:
    """Return what is left of the total; 0 if that is only rounding."""
    return total - known if total - known > 1e-6 * total else 0.0


def _at_least(answers: list[PromptResult], rounds: int, accepted: int) -> tuple[float, ...]:
    """Count from the gaps: tokens that came with the one before them are drafted ones of its round.

    () if that does not add up to what was accepted, except for a round cut short at the end of each answer: the tokens
    were then not emitted as they were decoded.
    """
    lengths: Counter[int] = Counter()
    for answer in answers:
        at_once = _AT_ONCE * sum(answer.gaps_s) / max(1, len(answer.gaps_s))
        length = 0
        for gap in answer.gaps_s:
            if gap > at_once:
                lengths[length] += 1
                length = 0
            else:
                length += 1
        lengths[length] += 1
    most = max(lengths, default=0)
    at_least = [sum(count for length, count in lengths.items() if length >= k) for k in range(1, most + 1)]
    missing = accepted - sum(at_least)
    if not rounds or not at_least or at_least[0] > rounds or not 0 <= missing <= most * len(answers):
        return ()
    return tuple(count / rounds for count in at_least)

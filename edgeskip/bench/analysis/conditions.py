"""What else the machine did while rounds ran, and which rounds are therefore doubtful."""

from __future__ import annotations

from dataclasses import dataclass

from edgeskip.bench.analysis.formatting import format_number, format_percent
from edgeskip.bench.report.merged_runs import MergedRuns, ReportEntry
from edgeskip.bench.schema import SystemConditions

BUSY_CORES = 0.1  # kept busy by everything else
SLOWER = 0.10  # share of its speed that the fixed piece of work may lose


@dataclass(frozen=True)
class DoubtfulRounds:
    """Why the rounds of an entry are doubtful; `rounds` counted from 1."""

    entry: ReportEntry
    rounds: tuple[int, ...]
    message: str


def best_cpu_probe(entries: list[ReportEntry]) -> float | None:
    """Highest speed of the fixed piece of work in any round of these entries, runs per second."""
    pulses = [pulse for entry in entries for sample in entry.samples for pulse in sample.conditions.pulse]
    return max(pulses, default=None)


def doubts_of(joined: MergedRuns) -> list[DoubtfulRounds]:
    """All doubts, worst of each kind in the words, entries in their order."""
    found: list[DoubtfulRounds] = []
    for part in joined.parts:
        for device in joined.device_names:
            entries = [entry for entry in joined.on(device) if entry.part is part]
            best = best_cpu_probe(entries)
            for entry in entries:
                found += _doubts(entry, best)
    return found


def slowdown_after(conditions: SystemConditions) -> float:
    """Share of its speed that the fixed piece of work lost from before the round to after it; 0 where not known."""
    pulse = conditions.pulse
    return max(0.0, 1 - pulse[-1] / pulse[0]) if len(pulse) > 1 and pulse[0] > 0 else 0.0


def slowdown_vs_best(conditions: SystemConditions, best: float | None) -> float:
    """Share of its best speed that the fixed piece of work lacked at its slowest in the round; 0 where not known."""
    return max(0.0, 1 - min(conditions.pulse) / best) if conditions.pulse and best else 0.0


def _doubts(entry: ReportEntry, best: float | None) -> list[DoubtfulRounds]:
    kinds: list[tuple[list[tuple[int, float]], str]] = []
    told = [(sample.round + 1, sample.conditions) for sample in entry.samples]
    busy = [(n, c.others_cores) for n, c in told if c.others_cores is not None and c.others_cores > BUSY_CORES]
    kinds.append((busy, "other programs kept up to {} cores busy"))
    slower = [(n, slowdown_after(c)) for n, c in told if slowdown_after(c) > SLOWER]
    kinds.append((slower, "a fixed piece of work ran up to {} slower after the round than before it (throttling?)"))
    named = {n for n, _ in slower}
    short = [(n, slowdown_vs_best(c, best)) for n, c in told if n not in named and slowdown_vs_best(c, best) > SLOWER]
    kinds.append((short, "a fixed piece of work ran up to {} slower than at best on this device (throttling?)"))
    throttled = [(n, float(c.throttle_events)) for n, c in told if c.throttle_events]
    kinds.append((throttled, "the kernel counted up to {} thermal throttling events"))
    found = []
    for rounds, message in kinds:
        if rounds:
            worst = max(value for _, value in rounds)
            shown = (
                format_percent(worst)
                if "slower" in message
                else f"{worst:.0f}"
                if "kernel" in message
                else format_number(worst)
            )
            found.append(DoubtfulRounds(entry, tuple(sorted({n for n, _ in rounds})), message.format(shown)))
    return found

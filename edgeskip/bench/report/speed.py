"""Which measure stands for the speed of decoding on a device, and how fast each entry is by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeskip.bench.analysis.rows import MeasureRow
from edgeskip.bench.analysis.statistics import Ratio
from edgeskip.bench.report.merged_runs import MergedRuns, ReportEntry

TPOT = "TPOT"


@dataclass(frozen=True)
class DecodingSpeed:
    """Tokens per second of one entry, by round; `ratio` to the baseline of its run, None if there is none."""

    entry: ReportEntry
    measure: str
    speeds: tuple[float, ...]
    median: float
    ratio: Ratio | None

    @property
    def on_prompts(self) -> bool:
        """Whether real prompts were answered, not tokens drawn at random."""
        return self.measure == TPOT


def decode_measure(entries: Sequence[ReportEntry]) -> str | None:
    """Return what all of these can be compared by: TPOT if one has it, else the first tg test; None if nothing decoded.

    Drafting has no meaning on random tokens: only TPOT is comparable across strategies.
    """
    measures = list(dict.fromkeys(row.measure for entry in entries for row in entry.rows))
    return next((name for name in measures if name == TPOT), first_test(measures, "tg"))


def first_test(measures: Sequence[str], test: str) -> str | None:
    """Return the first of the measures that is a test of this kind (pp or tg)."""
    return next(
        (name for name in measures if name.startswith(test) and name[len(test) : len(test) + 1].isdigit()), None
    )


def decoding_speed(entry: ReportEntry, measure: str | None) -> DecodingSpeed | None:
    """Return how fast this entry decodes by `measure`; None if that was not measured."""
    row = None if measure is None else entry.row(measure)
    if row is None or measure is None or min(row.values) <= 0:
        return None
    speeds = speeds_of(row)
    middle = row.median if row.higher_is_better else 1e3 / row.median
    return DecodingSpeed(entry, measure, speeds, middle, row.ratio)


def speeds_of(row: MeasureRow) -> tuple[float, ...]:
    """Return tokens per second: as measured, or from milliseconds a token."""
    return row.values if row.higher_is_better else tuple(1e3 / value for value in row.values)


def fastest(merged: MergedRuns, device: str) -> DecodingSpeed | None:
    """Return the entry with the highest median decoding speed on a device; None if nothing was decoded there."""
    return max(decoding_speeds(merged, device), key=lambda one: one.median, default=None)


def decoding_speeds(merged: MergedRuns, device: str) -> list[DecodingSpeed]:
    """Return the decoding speeds on a device, by one measure."""
    entries = merged.on(device)
    measure = decode_measure(entries)
    return [one for one in (decoding_speed(entry, measure) for entry in entries) if one is not None]

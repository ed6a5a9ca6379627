"""Two runs compared row by row: what got faster or slower, and whether by more than chance."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgeskip.bench.analysis.rows import ACCEPTANCE, SERVING, MeasureRow, rows_of
from edgeskip.bench.analysis.statistics import Ratio, unpaired_ratio
from edgeskip.bench.runner.run_file import BenchRun
from edgeskip.bench.runner.system_monitor import BUSY_CORES, SLOWER, slowdown_after
from edgeskip.bench.schema import SystemConditions
from edgeskip.core.errors import EdgeSkipError

SPEEDS = SERVING[:3]
"""Serving measures that count as speed; the tails (ITL p90, p99) scatter too much to fail a build by."""
_PROBE_CHANGE = 0.05  # share by which the CPU probe may change without a note


RATIO_DIGITS = 3
"""Decimals that ratios are printed and judged with."""


@dataclass(frozen=True)
class RowKey:
    """What makes two rows the same thing measured twice."""

    target: str
    device: str
    provider: str
    threads: int
    strategy: str
    measure: str

    def __str__(self) -> str:
        return f"{self.target} {self.measure} ({self.provider}, {self.threads} threads, {self.strategy}, {self.device})"


@dataclass(frozen=True)
class RowChange:
    """`ratio`: how many times as good the second run is, > 1 = better, whatever the unit."""

    key: RowKey
    unit: str
    before: float  # medians
    after: float
    ratio: Ratio
    is_speed: bool  # pp, tg, TTFT, TPOT or ITL p50

    def regressed(self, bound: float) -> bool:
        """Return whether it is worse by more than `bound` (0.05 = 5 %) and the interval excludes no change, as printed.

        One round has no interval: then the bound alone decides.
        """
        low = round(1 - bound, 9)
        worse = self.is_speed and round(self.ratio.value, RATIO_DIGITS) < low
        return worse and (self.ratio.high is None or round(self.ratio.high, RATIO_DIGITS) < 1)


@dataclass(frozen=True)
class RunComparison:
    """Rows of both runs, in the first one's order; what only one of them has; what else is not the same."""

    changes: tuple[RowChange, ...]
    only_before: tuple[RowKey, ...]
    only_after: tuple[RowKey, ...]
    differences: tuple[str, ...]  # versions, settings and conditions, in words

    def regressions(self, bound: float) -> list[RowChange]:
        return [change for change in self.changes if change.regressed(bound)]


def compare_runs(
    before: BenchRun, after: BenchRun, *, measures: Sequence[str] = (), other_device: bool = False
) -> RunComparison:
    """Compare two runs row by row.

    Raises:
        EdgeSkipError: If the runs have no row in common, or are of different machines and `other_device` is False.

    `measures` limits it to these, e.g. tg128; () = all but acceptance. Rows of a fall-back count as those of the
    provider that ran. Answers to other prompts, or of other lengths, are shown and not judged.
    """
    _check_devices(before, after, other_device)
    rows = [_rows_by_key(run, measures, by_name=not other_device) for run in (before, after)]
    alike = _same_answers(before, after)
    common = [key for key in rows[0] if key in rows[1]]
    nothing = [key for key in common if min(*rows[0][key].values, *rows[1][key].values) <= 0]
    changes = tuple(
        RowChange(
            key=key,
            unit=row.unit,
            before=row.median,
            after=rows[1][key].median,
            ratio=_ratio(row, rows[1][key]),
            is_speed=(alike and row.measure in SPEEDS) or row.unit == "tokens/s",
        )
        for key, row in ((key, rows[0][key]) for key in common if key not in nothing)
    )
    if not changes:
        raise EdgeSkipError("the runs have no row in common; compare runs of the same targets, providers and tests")
    return RunComparison(
        changes=changes,
        only_before=tuple(key for key in rows[0] if key not in rows[1]),
        only_after=tuple(key for key in rows[1] if key not in rows[0]),
        differences=(*_differences(before, after), *(f"{key} was 0 in a round: no ratio" for key in nothing)),
    )


def _ratio(before: MeasureRow, after: MeasureRow) -> Ratio:
    if before.higher_is_better:
        return unpaired_ratio(after.values, before.values)
    return unpaired_ratio(before.values, after.values)


def _rows_by_key(run: BenchRun, measures: Sequence[str], *, by_name: bool) -> dict[RowKey, MeasureRow]:
    """Return the rows of a run. `by_name`: tell devices apart by what they are, else only by kind."""
    found = {}
    names = _device_names(run, by_name=by_name)
    for row in rows_of(run):
        if row.measure == ACCEPTANCE or (measures and row.measure not in measures):
            continue
        cell = row.cell
        provider = row.provider.partition(" (")[0]  # its share of the nodes may differ between the runs
        named = names.get(cell.device, cell.device)
        found[RowKey(cell.target, named, provider, cell.threads, cell.strategy, row.measure)] = row
    return found


def _device_names(run: BenchRun, *, by_name: bool) -> dict[str, str]:
    """Return what devices are matched by, by id; the second of the same name or kind is #2."""
    found: dict[str, str] = {}
    count: Counter[str] = Counter()
    for device in run.devices.values():
        name: str = device.type
        if by_name:
            reached = "" if device.type == "local" else f" ({device.type})"
            emulated = "" if device.emulated is None else f", emulated: {device.emulated}"
            name = f"{device.name}{reached}{emulated}"
        count[name] += 1
        found[device.id] = f"{name} #{count[name]}" if count[name] > 1 else name
    return found


def _check_devices(before: BenchRun, after: BenchRun, other_device: bool) -> None:
    names = [set(_device_names(run, by_name=True).values()) for run in (before, after)]
    if not other_device and not names[0] & names[1]:
        left, right = (", ".join(sorted(some)) or "no device" for some in names)
        raise EdgeSkipError(
            f"the runs are of different devices ({left}; {right}), which says nothing about regressions; add "
            "--other-device to compare them all the same"
        )


def _same_answers(before: BenchRun, after: BenchRun) -> bool:
    a, b = before.header.settings, after.header.settings
    return (a.prompts, a.max_tokens) == (b.prompts, b.max_tokens)


def _is_doubtful(conditions: SystemConditions) -> bool:
    busy = (conditions.others_cores or 0) > BUSY_CORES
    return busy or slowdown_after(conditions) > SLOWER or bool(conditions.throttle_events)


def _conditions(before: BenchRun, after: BenchRun) -> Iterator[str]:
    """Yield doubtful rounds of each run, and machines that were faster in one run than in the other."""
    for name, run in (("A", before), ("B", after)):
        doubtful = sum(_is_doubtful(sample.conditions) for sample in run.samples)
        if doubtful:
            yield f"{doubtful} of {len(run.samples)} rounds of {name} ran while the machine was busy or throttled"
    pulses = [_median_probes(run) for run in (before, after)]
    for device in pulses[0].keys() & pulses[1].keys():
        change = pulses[1][device] / pulses[0][device] - 1
        if abs(change) > _PROBE_CHANGE:
            yield (
                f"{device}: a fixed piece of work ran {abs(change):.0%} {'slower' if change < 0 else 'faster'} in B: "
                "the machine changed, whatever the program did"
            )


def _median_probes(run: BenchRun) -> dict[str, float]:
    """Return the median CPU probe of each device."""
    names = _device_names(run, by_name=True)
    found: dict[str, list[float]] = {}
    for sample in run.samples:
        found.setdefault(names.get(sample.cell.device, sample.cell.device), []).extend(sample.conditions.pulse)
    return {name: statistics.median(pulses) for name, pulses in found.items() if pulses and min(pulses) > 0}


def _differences(before: BenchRun, after: BenchRun) -> list[str]:
    a, b = before.header.settings.model_dump(), after.header.settings.model_dump()
    found = [f"setting {name}: {a[name]} in A, {b[name]} in B" for name in a if a[name] != b[name]]
    if not _same_answers(before, after):
        found.append("prompts or the answers' length, so that TTFT, TPOT and ITL are not judged")
    for name, target in before.targets.items():
        other = after.targets.get(name)
        if other is not None and other.sha256 != target.sha256:
            found.append(f"{name} is another artifact in B")
    old, new = (
        {
            f"{device.name}: {name}": version
            for device in run.devices.values()
            for name, version in device.versions.items()
        }
        for run in (before, after)
    )
    shared = sorted(old.keys() & new.keys())
    found += [f"{name} {old[name]} in A, {new[name]} in B" for name in shared if old[name] != new[name]]
    found += _conditions(before, after)
    found += [f"{failure.cell.title} failed in B: {failure.message}" for failure in after.failures]
    return found

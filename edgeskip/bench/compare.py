"""Two runs beside each other, row by row: what got faster or slower, and whether by more than chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeskip.bench.intervals import Ratio, unpaired_ratio
from edgeskip.bench.rows import ACCEPTANCE, SERVING, Row, rows_of
from edgeskip.bench.run_file import Run
from edgeskip.errors import EdgeSkipError

SPEEDS = SERVING[:3]
"""Serving measures that count as speed; the tails (ITL p90, p99) scatter too much to fail a build by."""


@dataclass(frozen=True)
class Key:
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
class Change:
    """`ratio`: how many times as good the second run is, > 1 = better, whatever the unit."""

    key: Key
    unit: str
    before: float  # medians
    after: float
    ratio: Ratio
    is_speed: bool  # pp, tg, TTFT, TPOT or ITL p50

    def regressed(self, bound: float) -> bool:
        """Worse by more than `bound` (0.05 = 5 %), and the interval excludes that nothing changed.

        One round has no interval: then the bound alone decides.
        """
        worse = self.is_speed and self.ratio.value < 1 - bound
        return worse and (self.ratio.high is None or self.ratio.high < 1)


@dataclass(frozen=True)
class Comparison:
    """Rows of both runs, in the first one's order; what only one of them has; what else is not the same."""

    changes: tuple[Change, ...]
    only_before: tuple[Key, ...]
    only_after: tuple[Key, ...]
    differences: tuple[str, ...]  # versions and settings, in words

    def regressions(self, bound: float) -> list[Change]:
        return [change for change in self.changes if change.regressed(bound)]


def compare(before: Run, after: Run, *, measures: Sequence[str] = (), other_device: bool = False) -> Comparison:
    """EdgeSkipError where the runs have no row in common, or where one is of another machine unless `other_device`.

    `measures` limits it to these, e.g. tg128; () = all but acceptance. Rows of a fall-back count as those of the
    provider that ran.
    """
    _check_devices(before, after, other_device)
    rows = [_keyed(run, measures, by_name=not other_device) for run in (before, after)]
    changes = tuple(
        Change(
            key=key,
            unit=row.unit,
            before=row.median,
            after=rows[1][key].median,
            ratio=_ratio(row, rows[1][key]),
            is_speed=row.measure in SPEEDS or row.unit == "tokens/s",
        )
        for key, row in rows[0].items()
        if key in rows[1] and min(*row.values, *rows[1][key].values) > 0
    )
    if not changes:
        raise EdgeSkipError("the runs have no row in common: compare runs of the same targets, providers and tests")
    return Comparison(
        changes=changes,
        only_before=tuple(key for key in rows[0] if key not in rows[1]),
        only_after=tuple(key for key in rows[1] if key not in rows[0]),
        differences=tuple(_differences(before, after)),
    )


def _ratio(before: Row, after: Row) -> Ratio:
    if before.higher_is_better:
        return unpaired_ratio(after.values, before.values)
    return unpaired_ratio(before.values, after.values)


def _keyed(run: Run, measures: Sequence[str], *, by_name: bool) -> dict[Key, Row]:
    """`by_name`: devices are told apart by what they are, else only by kind."""
    found = {}
    for row in rows_of(run):
        if row.measure == ACCEPTANCE or (measures and row.measure not in measures):
            continue
        device = run.devices.get(row.cell.device)
        named = row.cell.device if device is None else device.name if by_name else device.type
        cell = row.cell
        found[Key(cell.target, named, row.provider, cell.threads, cell.strategy, row.measure)] = row
    return found


def _check_devices(before: Run, after: Run, other_device: bool) -> None:
    names = [{device.name for device in run.devices.values()} for run in (before, after)]
    if not other_device and not names[0] & names[1]:
        left, right = (", ".join(sorted(some)) or "no device" for some in names)
        raise EdgeSkipError(
            f"the runs are of different devices ({left}; {right}), which is no regression: add --other-device to "
            "compare them all the same"
        )


def _differences(before: Run, after: Run) -> list[str]:
    a, b = before.header.settings.model_dump(), after.header.settings.model_dump()
    found = [f"setting {name}: {a[name]} in A, {b[name]} in B" for name in a if a[name] != b[name]]
    for name, target in before.targets.items():
        other = after.targets.get(name)
        if other is not None and other.sha256 != target.sha256:
            found.append(f"{name} is another artifact in B")
    versions = [
        {
            f"{device.name}: {name}": version
            for device in run.devices.values()
            for name, version in device.versions.items()
        }
        for run in (before, after)
    ]
    found += [
        f"{name} {versions[0][name]} in A, {versions[1][name]} in B"
        for name in sorted(versions[0].keys() & versions[1].keys())
        if versions[0][name] != versions[1][name]
    ]
    return found

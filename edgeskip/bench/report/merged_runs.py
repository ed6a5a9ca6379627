"""Several runs side by side: different things of the same name get different names. Measures nothing.

Ratios and rooflines stay those of each run: rows of different runs are never mixed into one number.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeskip.bench.analysis.formatting import join_names, pluralize, sanitize, truncate
from edgeskip.bench.analysis.rows import MeasureRow, baseline_of, rows_of
from edgeskip.bench.runner.run_file import BenchRun, read_run
from edgeskip.bench.schema import BenchCell, Device, RoundFailure, RoundResult, Target
from edgeskip.core.errors import EdgeSkipError

_VOLATILE_FACTS = ("available_memory_bytes",)


@dataclass(frozen=True)
class RunPart:
    """One run file; `label` distinguishes it from the others."""

    label: str
    path: Path
    run: BenchRun


@dataclass(frozen=True)
class ReportEntry:
    """One cell of one run, with the names it is shown by."""

    part: RunPart
    cell: BenchCell
    target: str
    device: str
    record: Target
    samples: tuple[RoundResult, ...]
    rows: tuple[MeasureRow, ...]
    is_baseline: bool
    baseline: str | None  # the name shown of the target that ratios are to
    in_run: str = ""  # the run's label, if there are several

    def row(self, measure: str) -> MeasureRow | None:
        return next((row for row in self.rows if row.measure == measure), None)

    @property
    def provider(self) -> str:
        """The provider that ran, and the one asked for if it is another."""
        ran = sanitize(self.rows[-1].provider, 60)
        asked = sanitize(self.cell.provider, 60)
        return ran if asked in ran else f"{ran} for {asked}"

    @property
    def how(self) -> str:
        """How it was decoded: cpu, 2 threads, plain."""
        parts = [self.provider, pluralize(self.cell.threads, "thread"), self.cell.strategy]
        return ", ".join(parts + ([self.in_run] if self.in_run else []))

    @property
    def brief(self) -> str:
        """What and how, for a figure: skip8 (lossy-skip), cpu, 2 threads, plain. A lossy label comes with the name."""
        ran, asked = sanitize(self.samples[-1].ran.provider, 40), sanitize(self.cell.provider, 40)
        provider = ran if ran == asked else f"{ran} for {asked}"
        mark = "" if self.lossless else f" ({self.rows[-1].label})"
        parts = [f"{truncate(self.target, 60)}{mark}", provider, pluralize(self.cell.threads, "thread")]
        return ", ".join([*parts, self.cell.strategy, *([truncate(self.in_run, 20)] if self.in_run else [])])

    @property
    def label(self) -> str:
        """The label of its output, and whether it skips online."""
        return f"{self.rows[-1].label}, skips online" if self.cell.strategy == "online" else self.rows[-1].label

    @property
    def lossless(self) -> bool:
        """Whether the label says that nothing of the artifact's model is left out."""
        return self.rows[-1].label in {"dense", "verified"}


@dataclass(frozen=True)
class MergedRuns:
    """All runs of a report; entries by run, then target. Names by (run, name or id)."""

    parts: tuple[RunPart, ...]
    entries: tuple[ReportEntry, ...]
    targets: dict[tuple[str, str], str]
    devices: dict[tuple[str, str], str]

    @property
    def device_names(self) -> list[str]:
        """Of devices on which something was measured, in the order they came."""
        return list(dict.fromkeys(entry.device for entry in self.entries))

    def on(self, device: str) -> list[ReportEntry]:
        return [entry for entry in self.entries if entry.device == device]

    @property
    def failures(self) -> list[tuple[RunPart, RoundFailure]]:
        return [(part, failure) for part in self.parts for failure in part.run.failures]

    def device_of(self, part: RunPart, identifier: str) -> str:
        return self.devices.get((part.label, identifier), sanitize(identifier))

    def target_of(self, part: RunPart, name: str) -> str:
        return self.targets.get((part.label, name), sanitize(name))


def read_runs(paths: Sequence[Path]) -> MergedRuns:
    """Read the run files. Raises EdgeSkipError if one is not a run or given twice, or if nothing was measured in
    any."""
    resolved = [path.resolve() for path in paths]
    if len(set(resolved)) < len(resolved):
        twice = next(path for path, real in zip(paths, resolved, strict=True) if resolved.count(real) > 1)
        raise EdgeSkipError(f"{twice} is given twice; give each run once")
    return merge_runs([(path, read_run(path)) for path in paths])


def merge_runs(runs: Sequence[tuple[Path, BenchRun]]) -> MergedRuns:
    """Merge runs that were read. Raises EdgeSkipError if nothing was measured or tried in any of them."""
    if not any(run.samples or run.failures for _, run in runs):
        raise EdgeSkipError("nothing was measured in these runs; run edgeskip bench to its end, then report")
    parts = tuple(RunPart(label, path, run) for label, (path, run) in zip(_run_labels(runs), runs, strict=True))
    targets = _distinct_names([
        (part.label, target.name, sanitize(target.name, 120), (target.engine, target.sha256, target.label))
        for part in parts
        for target in part.run.targets.values()
    ])  # fmt: skip
    devices = _distinct_names([
        (part.label, device.id, _device_name(device), _device_identity(device))
        for part in parts
        for device in part.run.devices.values()
    ])  # fmt: skip
    entries: list[ReportEntry] = []
    for part in parts:
        samples: dict[BenchCell, list[RoundResult]] = {}
        for sample in part.run.samples:
            samples.setdefault(sample.cell, []).append(sample)
        rows: dict[BenchCell, list[MeasureRow]] = {}
        for row in rows_of(part.run):
            rows.setdefault(row.cell, []).append(row)
        for cell, of_cell in rows.items():
            base = baseline_of(part.run, cell)
            entries.append(
                ReportEntry(
                    part=part,
                    cell=cell,
                    target=targets[part.label, cell.target],
                    device=devices.get((part.label, cell.device), sanitize(cell.device)),
                    record=part.run.targets[cell.target],
                    samples=tuple(samples[cell]),
                    rows=tuple(of_cell),
                    is_baseline=cell == base,
                    baseline=None if base is None else targets[part.label, base.target],
                    in_run=part.label if len(parts) > 1 else "",
                )
            )
    return MergedRuns(parts, tuple(entries), targets, devices)


def _run_labels(runs: Sequence[tuple[Path, BenchRun]]) -> list[str]:
    """Return short names of the files, longer if they are ambiguous."""
    for name in (lambda path: path.stem, lambda path: path.name, str):
        labels = [sanitize(name(path), 120) for path, _ in runs]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{label} ({at})" for at, label in enumerate(labels, start=1)]


def _device_name(device: Device) -> str:
    name = sanitize(device.name, 120) or sanitize(device.id, 120)
    return f"{name}, emulated: {sanitize(device.emulated, 80)}" if device.emulated is not None else name


def _device_identity(device: Device) -> Hashable:
    """Return all that a device reports about itself, without what differs from run to run anyway."""
    facts = {key: value for key, value in device.facts.items() if key not in _VOLATILE_FACTS}
    return device.model_copy(update={"rooflines": [], "facts": facts}).model_dump_json()


def _distinct_names(items: Sequence[tuple[str, str, str, Hashable]]) -> dict[tuple[str, str], str]:
    """Map (run, key) to a name, from (run, key, name, contents): equal names for equal contents, others for others."""
    by_name: dict[str, dict[Hashable, list[tuple[str, str]]]] = {}
    for run, key, name, contents in items:
        by_name.setdefault(name, {}).setdefault(contents, []).append((run, key))
    found: dict[tuple[str, str], str] = {}
    taken = set(by_name)
    for name, groups in by_name.items():
        for members in groups.values():
            shown = name
            if len(groups) > 1:
                others = [place for places in groups.values() if places is not members for place in places]
                runs, ids = ({place[at] for place in members} for at in (0, 1))
                by_id = ids.isdisjoint(key for _, key in others)
                by_run = runs.isdisjoint(run for run, _ in others)
                of = f"of {join_names(list(dict.fromkeys(run for run, _ in members)))}"
                which = sanitize(members[0][1], 120)
                mark = which if by_id else of if by_run else f"{which} {of}"
                shown = _unused_name(f"{name} ({mark})", taken)
                taken.add(shown)
            found.update(dict.fromkeys(members, shown))
    return found


def _unused_name(name: str, taken: set[str]) -> str:
    """Return `name`, with a number if it is taken."""
    return next(tried for tried in (name, *(f"{name} {at}" for at in range(2, len(taken) + 3))) if tried not in taken)

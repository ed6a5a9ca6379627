"""The sections on what really ran, under which conditions, and on which devices with which settings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from edgeskip.bench.analysis.formatting import (
    NOT_MEASURED,
    format_number,
    format_percent,
    join_names,
    pluralize,
    sanitize,
)
from edgeskip.bench.report.merged_runs import MergedRuns, ReportEntry, RunPart
from edgeskip.bench.report.sections import (
    Column,
    Group,
    Section,
    Table,
    TableCell,
    device_tables,
    entry_heading,
    text_column,
    value_cell,
)
from edgeskip.bench.runner.system_monitor import BUSY_CORES, SLOWER, slowdown_after, slowdown_vs_best
from edgeskip.bench.schema import Device

_MOST_FACTS = 80  # of one device


@dataclass(frozen=True)
class DoubtfulRounds:
    """Why rounds of an entry are doubtful; `rounds` counted from 1."""

    entry: ReportEntry
    rounds: tuple[int, ...]
    message: str


def doubts_of(merged: MergedRuns) -> list[DoubtfulRounds]:
    """Return all doubtful rounds, entries in their order, with the worst value of each kind."""
    found: list[DoubtfulRounds] = []
    for entry in merged.entries:
        best = best_cpu_probe(merged, entry)
        seen = [(sample.round + 1, sample.conditions) for sample in entry.samples]
        busy = {n: c.others_cores or 0.0 for n, c in seen if (c.others_cores or 0.0) > BUSY_CORES}
        slower = {n: lost for n, c in seen if (lost := slowdown_after(c)) > SLOWER}
        slow = {n: lost for n, c in seen if n not in slower and (lost := slowdown_vs_best(c, best)) > SLOWER}
        events = {n: c.throttle_events for n, c in seen if c.throttle_events}
        probe = "a fixed piece of work ran up to {} slower"
        for rounds, text, form in (
            (busy, "other programs kept up to {} cores busy", format_number),
            (slower, f"{probe} after the round than before it (throttling?)", format_percent),
            (slow, f"{probe} than at best on this device (throttling?)", format_percent),
            (events, "the kernel counted up to {} thermal throttling events", str),
        ):
            if rounds:
                found.append(DoubtfulRounds(entry, tuple(sorted(rounds)), text.format(form(max(rounds.values())))))
    return found


def best_cpu_probe(merged: MergedRuns, entry: ReportEntry) -> float | None:
    """Return the highest CPU probe of any round on the entry's device in its run; None if there is none."""
    others = [other for other in merged.on(entry.device) if other.part is entry.part]
    return max(
        (probe for other in others for sample in other.samples for probe in sample.conditions.pulse), default=None
    )


def conditions_section(merged: MergedRuns) -> Section:
    """Return the doubtful rounds, then what was seen of every entry's rounds."""
    columns = [
        text_column(), Column("rounds"), Column("others", "cores, most"), Column("pulse", "after/before"),
        Column("pulse", "of the best"), Column("hottest", "°C"), Column("throttling", "events"), Column("clock", "MHz"),
        Column("load average", "most"),
    ]  # fmt: skip
    tables = [
        replace(table, note="" if len(table.columns) > 2 else "Nothing more is known of what the device did meanwhile.")
        for table in device_tables(merged, "Conditions", columns, lambda entry: _conditions_cells(merged, entry))
    ]
    return Section(
        "conditions",
        "Conditions",
        [
            f"Doubtful: other programs kept more than {format_number(BUSY_CORES)} cores busy, or a fixed piece of work "
            f"(pulse) ran more than {format_percent(SLOWER)} slower after a round than before it, or than at best on "
            "the device. The worst round of each entry is shown.",
            "Doubtful rounds are counted like all others." if doubts_of(merged) else "No round was doubtful by these.",
        ],
        items=format_doubts(doubts_of(merged)),
        tables=tables,
    )


def format_doubts(doubts: list[DoubtfulRounds]) -> list[str]:
    """Return a line for each device, rounds and message, with all entries that share them."""
    found: dict[tuple[str, tuple[int, ...], str], list[str]] = {}
    for doubt in doubts:
        key = (doubt.entry.device, doubt.rounds, doubt.message)
        found.setdefault(key, []).append(f"{doubt.entry.target} ({doubt.entry.how})")
    return [
        f"{device}, {'round' if len(rounds) == 1 else 'rounds'} {join_names([str(n) for n in rounds])}: {message}: "
        f"{'; '.join(entries)}."
        for (device, rounds, message), entries in found.items()
    ]


def execution_section(merged: MergedRuns) -> Section:
    """Return engine, provider and nodes of every entry, and the notes of rounds."""
    columns = [
        text_column(), text_column("engine"), text_column("asked for"),
        text_column("ran"), text_column("nodes by provider"), Column("threads"),
    ]  # fmt: skip
    notes = {
        f"{entry.target} ({entry.how}) on {entry.device}: {sanitize(note)}": None
        for entry in merged.entries
        for sample in entry.samples
        for note in sample.notes
    }
    return Section(
        "providers",
        "What really ran",
        ["Nodes of the graph by the provider that ran them, if the engine reports it."]
        + (["Notes of the rounds:"] if notes else []),
        items=list(notes),
        tables=device_tables(merged, "Providers", columns, _execution_cells),
    )


def failures_section(merged: MergedRuns) -> Section | None:
    """Return the rounds that failed; None if none did."""
    if not merged.failures:
        return None
    columns = [text_column(), text_column("device"), text_column("message")]
    rows = []
    for part, failure in merged.failures:
        cell = failure.cell
        how = [
            sanitize(cell.provider, 60),
            pluralize(cell.threads, "thread"),
            cell.strategy,
            f"round {failure.round + 1}",
        ]
        name = TableCell(
            merged.target_of(part, cell.target), ", ".join(how + ([part.label] if len(merged.parts) > 1 else []))
        )
        rows.append([name, TableCell(merged.device_of(part, cell.device)), TableCell(sanitize(failure.message, 2000))])
    return Section(
        "failures",
        "Failures",
        ["These rounds failed; their cells were not tried again in the run."],
        tables=[Table("Failures", columns, [Group("", rows)])],
    )


def environment_section(merged: MergedRuns) -> Section:
    """Return runs with their settings, then every device with what it reports about itself."""
    tables = [_run_table(merged, part) for part in merged.parts]
    seen: dict[str, tuple[Device, list[tuple[RunPart, Device]]]] = {}
    for part in merged.parts:
        for device in part.run.devices.values():
            name = merged.device_of(part, device.id)
            seen.setdefault(name, (device, []))[1].append((part, device))
    for name, (device, places) in seen.items():
        tables.append(_device_table(merged, name, device, places))
    return Section("environment", "Environment and settings", tables=tables)


def _conditions_cells(merged: MergedRuns, entry: ReportEntry) -> list[TableCell]:
    seen, best = [sample.conditions for sample in entry.samples], best_cpu_probe(merged, entry)
    others = max((c.others_cores for c in seen if c.others_cores is not None), default=None)
    events = [c.throttle_events for c in seen if c.throttle_events is not None]
    clocks = [clock for c in seen for clock in c.clock_mhz]
    after = max((slowdown_after(c) for c in seen if len(c.pulse) > 1), default=None)
    vs_best = max((slowdown_vs_best(c, best) for c in seen if c.pulse), default=None)
    return [
        entry_heading(entry),
        TableCell(str(len(seen))),
        value_cell(others, lambda cores: format_number(cores) + (" (busy)" if cores > BUSY_CORES else "")),
        value_cell(after, _kept_speed),
        value_cell(vs_best, _kept_speed),
        value_cell(max((t for c in seen for t in c.temperature_c), default=None)),
        value_cell(sum(events) if events else None, str),
        TableCell(f"{min(clocks):,.0f} to {max(clocks):,.0f}" if clocks else NOT_MEASURED),
        value_cell(max((c.load_average for c in seen if c.load_average is not None), default=None)),
    ]


def _kept_speed(lost: float) -> str:
    return format_percent(1 - lost) + (" (slower)" if lost > SLOWER else "")


def _execution_cells(entry: ReportEntry) -> list[TableCell]:
    ran = entry.samples[-1].ran
    ways = {(s.ran.engine, s.ran.version, s.ran.provider, tuple(sorted(s.ran.nodes.items()))) for s in entry.samples}
    nodes = ", ".join(f"{sanitize(name, 60)} {count:,}" for name, count in ran.nodes.items())
    total = sum(ran.nodes.values())
    return [
        entry_heading(entry),
        TableCell(ran.engine, sanitize(ran.version, 60)),
        TableCell(sanitize(entry.cell.provider, 60)),
        TableCell(sanitize(ran.provider, 60), "not the same in all rounds" if len(ways) > 1 else ""),
        TableCell(nodes or NOT_MEASURED, f"of {total:,}" if len(ran.nodes) > 1 else ""),
        TableCell(str(ran.threads)),
    ]


def _run_table(merged: MergedRuns, part: RunPart) -> Table:
    header, settings = part.run.header, part.run.header.settings
    rounds = sum(1 for _ in part.run.samples)
    facts = {
        "file": sanitize(str(part.path)),
        "command": sanitize(header.command, 2000),
        "created": sanitize(header.created),
        "EdgeSkip": sanitize(header.version),
        "rounds": f"{settings.rounds} asked for each cell, {rounds} measured, {len(part.run.failures)} failed",
        "tests": f"pp {_numbers(settings.prompt_tokens)}; tg {_numbers(settings.new_tokens)}; "
        f"depths {_numbers(settings.depths)}",
        "prompts": ", ".join(sanitize(name, 120) for name in settings.prompts) or "none",
        "tokens": f"at most {settings.max_tokens:,} an answer; seed {settings.seed}",
        "baselines": ", ".join(merged.target_of(part, name) for name in settings.baselines)
        or "the first target of each engine",
        "devices": ", ".join(merged.device_of(part, key) for key in part.run.devices) or "none",
        "targets": ", ".join(merged.target_of(part, key) for key in part.run.targets) or "none",
    }
    return _facts_table(f"Run {part.label}", [(name, value) for name, value in facts.items() if value])


def _numbers(values: list[int]) -> str:
    return ", ".join(f"{value:,}" for value in values) or "none"


def _device_table(merged: MergedRuns, name: str, device: Device, places: list[tuple[RunPart, Device]]) -> Table:
    facts = [("id", sanitize(device.id)), ("reached", device.type)]
    if device.emulated is not None:
        facts.append(("emulated", sanitize(device.emulated)))
    if len(merged.parts) > 1:
        facts.append(("in runs", ", ".join(dict.fromkeys(part.label for part, _ in places))))
    facts += [(sanitize(package, 80), sanitize(version)) for package, version in device.versions.items()]
    facts += _flat(device.facts)
    if len(facts) > _MOST_FACTS:
        facts = [*facts[:_MOST_FACTS], ("more", f"{len(facts) - _MOST_FACTS} facts are not shown")]
    for part, measured in places:
        for roof in measured.rooflines:
            given = [] if roof.bytes_per_s is None else [f"{format_number(roof.bytes_per_s / 1e9)} GB/s"]
            given += [] if roof.flops_per_s is None else [f"{format_number(roof.flops_per_s / 1e9)} GFLOP/s"]
            which = f"{sanitize(roof.provider, 60)}, {pluralize(roof.threads, 'thread')}"
            where = f", {part.label}" if len(merged.parts) > 1 else ""
            facts.append((f"roofline ({which}{where})", f"{' and '.join(given) or 'unknown'}: {sanitize(roof.how)}"))
    return _facts_table(f"Device {name}", facts)


def _facts_table(caption: str, facts: list[tuple[str, str]]) -> Table:
    rows = [[TableCell(name), TableCell(value)] for name, value in facts]
    return Table(caption, [text_column(), text_column("value")], [Group("", rows)], facts=True)


def _flat(facts: dict[str, Any], prefix: str = "", depth: int = 0) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, value in facts.items():
        name = f"{prefix}{sanitize(str(key), 80)}"
        if isinstance(value, dict) and depth < 3:
            found += _flat(value, f"{name}.", depth + 1)
        elif isinstance(value, list):
            found.append((name, sanitize(", ".join(_items(value)), 500)))
        elif value is not None:
            found.append((name, sanitize(str(value), 500)))
    return found


def _items(values: list[Any]) -> Iterator[str]:
    return (sanitize(str(value), 200) for value in values[:50])

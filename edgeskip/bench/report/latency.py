"""The sections on speed: real prompts, synthetic tests, loading with memory and energy."""

from __future__ import annotations

from edgeskip.bench.analysis.formatting import (
    NOT_MEASURED,
    format_interval,
    format_mean_sd,
    format_number,
    format_percent,
    format_ratio,
    join_names,
    pluralize,
    sanitize,
)
from edgeskip.bench.analysis.rows import SERVING, MeasureRow
from edgeskip.bench.report.merged_runs import MergedRuns, ReportEntry
from edgeskip.bench.report.row_plots import Dot, describe_dots, dot_plot
from edgeskip.bench.report.sections import (
    Column,
    Group,
    Plot,
    Section,
    TableCell,
    compact_table,
    device_tables,
    entry_heading,
    text_column,
    value_cell,
)
from edgeskip.bench.report.speed import TPOT, decoding_speed, first_test, speeds_of

_RATIO = Column("to baseline", "times as good (95 %)")
_RESOURCES = ("load", "peak memory", "peak device memory", "energy")
_BOUNDS = {None: "", "memory": "bandwidth", "compute": "arithmetic"}


def serving_section(merged: MergedRuns) -> Section | None:
    """Return TTFT, TPOT and ITL of real prompts; None if none was answered."""
    if not any(entry.row(measure) for entry in merged.entries for measure in SERVING):
        return None
    columns = [
        text_column(), Column("decoding", "tokens/s, median"), _RATIO, Column("TTFT", "ms, to baseline"),
        Column("TPOT", "ms"), Column("ITL p50", "ms"), Column("ITL p90", "ms"), Column("ITL p99", "ms"),
    ]  # fmt: skip
    prompts = {answer.prompt for e in merged.entries for sample in e.samples for answer in sample.answers}
    plots = [
        _plot(merged, "decode", "Decoding on real prompts", "tokens per second", TPOT),
        _plot(merged, "first-token", "Time to first token", "milliseconds", "TTFT"),
    ]
    return Section(
        "serving",
        "Latency on real prompts",
        [
            f"{pluralize(len(prompts), 'prompt')} answered greedily, each round in a fresh process. TTFT: from the "
            "request to the first token; TPOT: mean time per token after it; ITL: percentiles of the time between "
            "two tokens as they are emitted, 0 within an accepted draft. Numbers are means over rounds ± their "
            "standard deviation; ratios are paired by round with Student's 95 % interval, above 1 is better."
        ],
        plots=[plot for plot in plots if plot is not None],
        tables=device_tables(merged, "Real prompts", columns, _serving_cells),
    )


def synthetic_section(merged: MergedRuns) -> Section | None:
    """Return the pp and tg rows; None if there are none."""
    measures = list(
        dict.fromkeys(row.measure for entry in merged.entries for row in entry.rows if row.unit == "tokens/s")
    )
    if not measures:
        return None
    columns = [text_column(), Column("speed", "tokens/s"), _RATIO, Column("of roofline")]
    tables = []
    for device in merged.device_names:
        found = [(m, [(e, row) for e in merged.on(device) if (row := e.row(m)) is not None]) for m in measures]
        groups = [Group(measure, [_synthetic_cells(*one) for one in rows]) for measure, rows in found if rows]
        if groups:
            tables.append(compact_table(f"Synthetic tests on {device}", columns, groups))
    plots = [
        _plot(merged, test, f"{title}: {name}", "tokens per second", name)
        for test, title in (("pp", "Reading a prompt of random tokens"), ("tg", "Decoding random tokens"))
        if (name := first_test(measures, test)) is not None
    ]
    known = any(row.roofline is not None for entry in merged.entries for row in entry.rows)
    paragraphs = [
        "As in llama-bench: pp512 reads 512 random tokens as one prompt, tg128 decodes 128 one by one, @ d2048 with "
        "2,048 tokens in the cache before.",
        "Of roofline: bytes and operations that the model needs for the test, over what the device was measured to "
        "give in that time; the larger share and which it is of."
        if known
        else "The devices' bandwidth and arithmetic were not measured: no roofline.",
    ]
    return Section(
        "synthetic", "Synthetic tests", paragraphs, plots=[plot for plot in plots if plot is not None], tables=tables
    )


def resources_section(merged: MergedRuns) -> Section | None:
    """Return load time, memory and energy; None if none of them is known."""
    columns = [
        text_column(), Column("load", "s"), Column("peak memory", "MB"), Column("device memory", "MB"),
        Column("energy", "J/token"),
    ]  # fmt: skip
    tables = device_tables(
        merged,
        "Loading, memory and energy",
        columns,
        lambda entry: [entry_heading(entry), *(_mean_cell(entry.row(measure)) for measure in _RESOURCES)],
    )
    tables = [table for table in tables if len(table.columns) > 1]
    if not tables:
        return None
    energies = [sample.energy for entry in merged.entries for sample in entry.samples if sample.energy is not None]
    sources = list(dict.fromkeys(sanitize(energy.source) for energy in energies))
    energy = f"Energy is per token of the answers, by {join_names(sources)}." if sources else "Energy was not measured."
    return Section("resources", "Loading, memory, energy", [energy], tables=tables)


def _serving_cells(entry: ReportEntry) -> list[TableCell] | None:
    if not any(entry.row(measure) for measure in SERVING):
        return None
    speed, first = decoding_speed(entry, TPOT), entry.row("TTFT")
    ratio = None if first is None else first.ratio
    return [
        entry_heading(entry),
        value_cell(None if speed is None else speed.median),
        _ratio_cell(entry, entry.row(TPOT)),
        TableCell(_mean_cell(first).main, "" if ratio is None else f"{format_ratio(ratio)} ({format_interval(ratio)})"),
        *(_mean_cell(entry.row(measure)) for measure in SERVING[1:]),
    ]


def _synthetic_cells(entry: ReportEntry, row: MeasureRow) -> list[TableCell]:
    return [
        entry_heading(entry),
        TableCell(format_mean_sd(row), f"median {format_number(row.median)}" if len(row.values) > 1 else ""),
        _ratio_cell(entry, row),
        value_cell(row.roofline, format_percent, _BOUNDS[row.bound]),
    ]


def _mean_cell(row: MeasureRow | None) -> TableCell:
    return TableCell(NOT_MEASURED if row is None else format_mean_sd(row))


def _ratio_cell(entry: ReportEntry, row: MeasureRow | None) -> TableCell:
    if row is None or row.ratio is None:
        return TableCell("baseline" if row is not None and entry.is_baseline else NOT_MEASURED)
    return TableCell(format_ratio(row.ratio), format_interval(row.ratio))


def _plot(merged: MergedRuns, name: str, title: str, axis: str, measure: str) -> Plot | None:
    """Return a figure with a dot for each entry at its median, a line over its rounds; None if nothing was measured."""
    groups: list[tuple[str, list[Dot]]] = []
    for device in merged.device_names:
        dots = []
        for entry in merged.on(device):
            row = entry.row(measure)
            if row is None or min(row.values) <= 0:
                continue
            values = row.values if measure == "TTFT" else speeds_of(row)
            middle = row.median if measure == "TTFT" or row.higher_is_better else 1e3 / row.median
            compared = "" if row.ratio is None else f" ({format_ratio(row.ratio)})"
            shown = f"{format_number(middle)}{' baseline' if entry.is_baseline else compared}"
            dots.append(Dot(entry.brief, entry.cell.strategy, middle, min(values), max(values), shown))
        if dots:
            groups.append((device, dots))
    if not groups:
        return None
    better = "less is better" if measure == "TTFT" else "more is better"
    caption = (
        f"{title}, {axis}: medians over rounds, the line from the slowest round to the fastest; in brackets times as "
        f"good as the baseline of the same run, device and provider. The shape stands for the strategy; {better}."
    )
    return Plot(name, title, caption, describe_dots(title, axis, groups), lambda width: dot_plot(groups, axis, width))

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
from edgeskip.bench.report.dot_plot import Dot, describe_dots, dot_plot
from edgeskip.bench.report.merged_runs import MergedRuns, ReportEntry
from edgeskip.bench.report.sections import Column, Group, Plot, Section, Table, TableCell, drop_empty_columns
from edgeskip.bench.report.speed import TPOT, decoding_speed, first_test, speeds_of

_FIRST = Column("", numeric=False)
_RATIO = Column("to baseline", "times as good (95 %)")
_OTHERS = ("load", "peak memory", "peak device memory", "energy")


def entry_heading(entry: ReportEntry) -> TableCell:
    """The heading of an entry's row: what, how, and what it is labelled."""
    return TableCell(entry.target, f"{entry.how} · {entry.label}")


def serving_section(joined: MergedRuns) -> Section | None:
    """TTFT, TPOT and ITL of real prompts; None where none was answered."""
    entries = [entry for entry in joined.entries if any(entry.row(measure) for measure in SERVING)]
    if not entries:
        return None
    columns = [
        _FIRST, Column("decoding", "tokens/s, median"), _RATIO, Column("TTFT", "ms, to baseline"), Column("TPOT", "ms"),
        Column("ITL p50", "ms"), Column("ITL p90", "ms"), Column("ITL p99", "ms"),
    ]  # fmt: skip
    tables = []
    for device in joined.device_names:
        rows = [_serving_row(entry) for entry in entries if entry.device == device]
        if rows:
            shown, groups = drop_empty_columns(columns, [Group("", rows)], NOT_MEASURED)
            tables.append(Table(f"Real prompts on {device}", shown, groups))
    prompts = list(dict.fromkeys(answer.prompt for e in entries for sample in e.samples for answer in sample.answers))
    plots = [
        _plot(joined, "decode", "Decoding on real prompts", "tokens per second", TPOT),
        _plot(joined, "first-token", "Time to first token", "milliseconds", "TTFT"),
    ]
    return Section(
        "serving",
        "Latency on real prompts",
        [
            f"{pluralize(len(prompts), 'prompt')} answered greedily, each round in a fresh process. TTFT: from the "
            "request to the first token; TPOT: mean time per token after it; ITL: percentiles of the time between "
            "two tokens as they are given out, 0 within an accepted draft. Numbers are means over rounds ± their "
            "standard deviation; ratios are paired by round with Student's 95 % interval, above 1 is better."
        ],
        plots=[plot for plot in plots if plot is not None],
        tables=tables,
    )


def synthetic_section(joined: MergedRuns) -> Section | None:
    """The pp and tg rows; None where there are none."""
    measures = list(
        dict.fromkeys(row.measure for entry in joined.entries for row in entry.rows if row.unit == "tokens/s")
    )
    if not measures:
        return None
    columns = [_FIRST, Column("speed", "tokens/s"), _RATIO, Column("of roofline")]
    tables = []
    for device in joined.device_names:
        groups = []
        for measure in measures:
            found = [(entry, entry.row(measure)) for entry in joined.on(device)]
            rows = [_synthetic_row(entry, row) for entry, row in found if row is not None]
            if rows:
                groups.append(Group(measure, rows))
        if groups:
            shown, groups = drop_empty_columns(columns, groups, NOT_MEASURED)
            tables.append(Table(f"Synthetic tests on {device}", shown, groups))
    plots = []
    for test, title in (("pp", "Reading a prompt of random tokens"), ("tg", "Decoding random tokens")):
        name = first_test(measures, test)
        if name is not None:
            plots.append(_plot(joined, test, f"{title}: {name}", "tokens per second", name))
    paragraphs = [
        "As llama-bench has them: pp512 reads 512 random tokens as one prompt, tg128 decodes 128 one by one, "
        "@ d2048 with 2,048 tokens in the cache before."
    ]
    if any(row.roofline is not None for entry in joined.entries for row in entry.rows):
        paragraphs.append(
            "Of roofline: bytes and operations that the model needs for the test, over what the device was measured "
            "to give in that time; the larger share and which it is of."
        )
    else:
        paragraphs.append("The devices' bandwidth and arithmetic were not measured: no roofline.")
    return Section(
        "synthetic", "Synthetic tests", paragraphs, plots=[plot for plot in plots if plot is not None], tables=tables
    )


def resources_section(joined: MergedRuns) -> Section | None:
    """Load time, memory and energy; None where none of them is known."""
    columns = [
        _FIRST, Column("load", "s"), Column("peak memory", "MB"), Column("device memory", "MB"),
        Column("energy", "J/token"),
    ]  # fmt: skip
    tables = []
    for device in joined.device_names:
        rows = []
        for entry in joined.on(device):
            found = [entry.row(measure) for measure in _OTHERS]
            rows.append([entry_heading(entry), *(_spread(row) for row in found)])
        shown, groups = drop_empty_columns(columns, [Group("", rows)], NOT_MEASURED)
        if len(shown) > 1:
            tables.append(Table(f"Loading, memory and energy on {device}", shown, groups))
    if not tables:
        return None
    sources = list(
        dict.fromkeys(sanitize(s.energy.source) for e in joined.entries for s in e.samples if s.energy is not None)
    )
    energy = (
        f"Energy while the answers were made, per token that came out, by {join_names(sources)}."
        if sources
        else "Energy was not measured."
    )
    return Section("resources", "Loading, memory, energy", [energy], tables=tables)


def _serving_row(entry: ReportEntry) -> list[TableCell]:
    speed = decoding_speed(entry, TPOT)
    first = entry.row("TTFT")
    found = [entry.row(measure) for measure in SERVING[1:]]
    return [
        entry_heading(entry),
        TableCell(NOT_MEASURED) if speed is None else TableCell(format_number(speed.median)),
        _ratio(entry, entry.row(TPOT)),
        TableCell(_spread(first).main, _ratio_line(first)),
        *(_spread(row) for row in found),
    ]


def _synthetic_row(entry: ReportEntry, row: MeasureRow) -> list[TableCell]:
    roof = NOT_MEASURED if row.roofline is None else format_percent(row.roofline)
    return [
        entry_heading(entry),
        TableCell(format_mean_sd(row), f"median {format_number(row.median)}" if len(row.values) > 1 else ""),
        _ratio(entry, row),
        TableCell(roof, "" if row.bound is None else {"memory": "bandwidth", "compute": "arithmetic"}[row.bound]),
    ]


def _spread(row: MeasureRow | None) -> TableCell:
    return TableCell(NOT_MEASURED) if row is None else TableCell(format_mean_sd(row))


def _ratio(entry: ReportEntry, row: MeasureRow | None) -> TableCell:
    if row is None or row.ratio is None:
        return TableCell("baseline" if row is not None and entry.is_baseline else NOT_MEASURED)
    return TableCell(format_ratio(row.ratio), format_interval(row.ratio))


def _ratio_line(row: MeasureRow | None) -> str:
    return "" if row is None or row.ratio is None else f"{format_ratio(row.ratio)} ({format_interval(row.ratio)})"


def _plot(joined: MergedRuns, name: str, title: str, axis: str, measure: str) -> Plot | None:
    """One dot for each entry at its median, a line over its rounds."""
    groups: list[tuple[str, list[Dot]]] = []
    for device in joined.device_names:
        dots = []
        for entry in joined.on(device):
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
        f"good as the baseline of the same run, device and provider. The shape tells the strategy; {better}."
    )
    return Plot(name, title, caption, describe_dots(title, axis, groups), lambda width: dot_plot(groups, axis, width))

"""The sections on drafting, and on where time goes."""

from __future__ import annotations

from collections.abc import Callable

from edgeskip.bench.analysis.formatting import NOT_MEASURED, format_number, format_percent, join_names
from edgeskip.bench.report.breakdown import DraftingStats, TimeShare, decode_parts, drafting_stats, first_token_parts
from edgeskip.bench.report.merged_runs import MergedRuns, ReportEntry
from edgeskip.bench.report.row_plots import Bar, bar_plot, describe_bars
from edgeskip.bench.report.sections import (
    Column,
    Plot,
    Section,
    Table,
    TableCell,
    device_tables,
    entry_heading,
    text_column,
    value_cell,
)
from edgeskip.bench.report.xy_plots import MAX_LINES, line_plot

_POSITIONS = 8  # columns of the table


def drafting_section(merged: MergedRuns) -> Section | None:
    """Return acceptance by entry and position; None if nothing was drafted."""
    found = [(entry, drafting) for entry in merged.entries if (drafting := drafting_stats(entry)) is not None]
    if not found:
        return None
    most = min(_POSITIONS, max(len(drafting.at_least) for _, drafting in found))
    columns = [
        text_column(), Column("acceptance"), Column("accepted", "per round"), Column("drafted", "per round"),
        Column("plain steps"), *(Column(f"≥ {k}", "of rounds") for k in range(1, most + 1)),
    ]  # fmt: skip
    lines = [(entry.brief, entry.device, drafting.at_least) for entry, drafting in found if drafting.at_least]
    plots = []
    if lines:
        more = f" The first {MAX_LINES} of {len(lines)} are drawn; the table has them all."
        words = " ".join(
            f"{name}, {device}: "
            + ", ".join(f"{k} or more in {format_percent(s)}" for k, s in enumerate(shares, start=1))
            + "."
            for name, device, shares in lines[:MAX_LINES]
        )
        plots.append(
            Plot(
                "acceptance",
                "Accepted by position",
                "Share of drafting rounds that emitted at least so many drafted tokens."
                + (more if len(lines) > MAX_LINES else ""),
                f"Share of rounds by number of accepted tokens. {words}",
                lambda width: line_plot(lines, width),
            )
        )
    paragraphs = [
        "Acceptance: drafted tokens that verification kept, of all drafted, on real prompts decoded greedily. A round "
        "drafts some tokens and verifies them at once; plain steps are tokens decoded without a draft, because "
        "drafting was not expected to pay."
    ]
    unknown = [f"{entry.target} ({entry.how}, {entry.device})" for entry, drafting in found if not drafting.at_least]
    if unknown and lines:
        paragraphs.append(f"Acceptance by position is unknown for {'; '.join(unknown)}.")
    tables = device_tables(merged, "Drafting", columns, lambda entry: _drafting_cells(entry, most))
    return Section("drafting", "Drafts and their acceptance", paragraphs, plots=plots, tables=tables)


def time_section(merged: MergedRuns) -> Section | None:
    """Return what TTFT and the decode step are made of; None if no prompt was answered."""
    plots, tables = [], []
    for name, title, axis, parts_of in (
        ("first-token-parts", "What the time to the first token is made of", "milliseconds", first_token_parts),
        ("decode-parts", "What the time per decoded token is made of", "milliseconds per token", decode_parts),
    ):
        plot, found = _time_figure(merged, name, title, axis, parts_of)
        plots += plot
        tables += found
    if not plots:
        return None
    silent: dict[str, dict[str, None]] = {}  # device → targets
    for entry in merged.entries:
        if first_token_parts(entry) and not decode_parts(entry):
            silent.setdefault(entry.device, {})[entry.target] = None
    paragraphs = [
        "Means over all answers. First token: the chat template and the tokenizer, the prefill, and the rest "
        "(sampling, emitting). Decoding: inside the inference runtime and outside it (Python or JavaScript, "
        "sampling, emitting); with drafts: drafting, verifying, plain steps and the rest (accepting, rolling "
        "back, emitting)."
    ]
    if silent:
        names = "; ".join(f"{join_names(list(targets))} on {device}" for device, targets in silent.items())
        paragraphs.append(f"The parts of a decoded token's time are unknown for {names}.")
    return Section("time", "Where time goes", paragraphs, plots=plots, tables=tables)


def _time_figure(
    merged: MergedRuns, name: str, title: str, axis: str, parts_of: Callable[[ReportEntry], list[TimeShare]]
) -> tuple[list[Plot], list[Table]]:
    """Return the figure and the tables of a time's parts; nothing if no entry has any."""
    parts = {id(entry): parts_of(entry) for entry in merged.entries}
    names = sorted(dict.fromkeys(part.name for some in parts.values() for part in some), key=lambda n: n == "rest")
    if not names:
        return [], []

    def cells(entry: ReportEntry) -> list[TableCell] | None:
        known = {part.name: part.ms for part in parts[id(entry)]}
        total = sum(known.values())
        shares = {part: format_percent(ms / total) if total else "" for part, ms in known.items()}
        numbers = [value_cell(known.get(part), detail=shares.get(part, "")) for part in names]
        return [entry_heading(entry), *numbers, TableCell(format_number(total))] if known else None

    groups = [
        (device, bars)
        for device in merged.device_names
        if (bars := [Bar(entry.brief, parts[id(entry)]) for entry in merged.on(device) if parts[id(entry)]])
    ]
    caption = f"{title}, in milliseconds; every device has its own scale."
    plot = Plot(name, title, caption, describe_bars(title, groups), lambda width: bar_plot(groups, axis, width))
    columns = [text_column(), *(Column(part, "ms") for part in names), Column("together", "ms")]
    return [plot], device_tables(merged, title, columns, cells)


def _drafting_cells(entry: ReportEntry, most: int) -> list[TableCell] | None:
    stats: DraftingStats | None = drafting_stats(entry)
    if stats is None:
        return None
    shares = [TableCell(format_percent(share)) for share in stats.at_least[:most]]
    # Beyond the longest draft that was accepted it is 0, not unknown.
    beyond = TableCell(format_percent(0.0) if stats.at_least else NOT_MEASURED)
    return [
        entry_heading(entry),
        value_cell(stats.acceptance, format_percent),
        value_cell(stats.accepted_per_round),
        value_cell(stats.drafted / stats.rounds if stats.rounds else None),
        TableCell(format_percent(stats.plain_steps / (stats.rounds + stats.plain_steps)), "of all steps"),
        *(shares + [beyond] * (most - len(shares))),
    ]

"""The sections on drafting, and on where time goes."""

from __future__ import annotations

from collections.abc import Callable

from edgeskip.bench.analysis.formatting import NOT_MEASURED, format_number, format_percent, join_names
from edgeskip.bench.report.bar_plot import Bar, bar_plot, describe_bars
from edgeskip.bench.report.breakdown import DraftingStats, TimeShare, decode_parts, drafting_stats, first_token_parts
from edgeskip.bench.report.latency import entry_heading
from edgeskip.bench.report.line_plot import MAX_LINES, line_plot
from edgeskip.bench.report.merged_runs import MergedRuns, ReportEntry
from edgeskip.bench.report.sections import Column, Group, Plot, Section, Table, TableCell, drop_empty_columns

_POSITIONS = 8  # columns of the table


def drafting_section(joined: MergedRuns) -> Section | None:
    """Acceptance by entry and position; None where nothing was drafted."""
    found = [(entry, drafting) for entry in joined.entries if (drafting := drafting_stats(entry)) is not None]
    if not found:
        return None
    most = min(_POSITIONS, max(len(drafting.at_least) for _, drafting in found))
    columns = [
        Column("", numeric=False), Column("acceptance"), Column("accepted", "per round"),
        Column("drafted", "per round"), Column("plain steps"),
        *(Column(f"≥ {k}", "of rounds") for k in range(1, most + 1)),
    ]  # fmt: skip
    tables = []
    for device in joined.device_names:
        rows = [_drafting_row(entry, drafting, most) for entry, drafting in found if entry.device == device]
        if rows:
            shown, groups = drop_empty_columns(columns, [Group("", rows)], NOT_MEASURED)
            tables.append(Table(f"Drafting on {device}", shown, groups))
    lines = [(entry.brief, entry.device, drafting.at_least) for entry, drafting in found if drafting.at_least]
    plots = []
    if lines:
        more = (
            f" The first {MAX_LINES} of {len(lines)} are drawn; the table has them all."
            if len(lines) > MAX_LINES
            else ""
        )
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
                f"How many rounds of drafting gave out at least so many drafted tokens, of all rounds.{more}",
                f"Share of rounds by number of accepted tokens. {words}",
                lambda width: line_plot(lines, width),
            )
        )
    paragraphs = [
        "Acceptance: drafted tokens that verification kept, of all drafted, on real prompts decoded greedily. A round "
        "drafts some tokens and verifies them at once; plain steps are tokens decoded without a draft, where drafting "
        "was not expected to pay."
    ]
    unknown = [f"{entry.target} ({entry.how}, {entry.device})" for entry, drafting in found if not drafting.at_least]
    if unknown and lines:
        paragraphs.append(f"By position it is not known of {'; '.join(unknown)}.")
    return Section("drafting", "Drafts and their acceptance", paragraphs, plots=plots, tables=tables)


def time_section(joined: MergedRuns) -> Section | None:
    """What TTFT and the decode step are made of; None where no prompt was answered."""
    plots, tables = [], []
    for name, title, axis, parts_of in (
        ("first-token-parts", "What the time to the first token is made of", "milliseconds", first_token_parts),
        ("decode-parts", "What the time per decoded token is made of", "milliseconds per token", decode_parts),
    ):
        groups = _bars(joined, parts_of)
        if groups:
            plots.append(_plot(name, title, axis, groups))
            tables += _tables(joined, title, parts_of)
    if not plots:
        return None
    silent: dict[str, dict[str, None]] = {}  # device → targets
    for entry in joined.entries:
        if first_token_parts(entry) and not decode_parts(entry):
            silent.setdefault(entry.device, {})[entry.target] = None
    paragraphs = [
        "Means over all answers. First token: the chat template and the tokenizer, the prefill, and the rest "
        "(sampling, handing over). Decoding: inside the inference runtime and outside it (Python or JavaScript, "
        "sampling, handing over); with drafts: drafting, verifying, plain steps and the rest (accepting, rolling "
        "back, handing over)."
    ]
    if silent:
        names = "; ".join(f"{join_names(list(targets))} on {device}" for device, targets in silent.items())
        paragraphs.append(f"What a decoded token's time is made of is not known of {names}.")
    return Section("time", "Where time goes", paragraphs, plots=plots, tables=tables)


Parts = Callable[[ReportEntry], list[TimeShare]]


def _plot(name: str, title: str, axis: str, groups: list[tuple[str, list[Bar]]]) -> Plot:
    return Plot(
        name,
        title,
        f"{title}, in milliseconds; every device has its own scale.",
        describe_bars(title, groups),
        lambda width: bar_plot(groups, axis, width),
    )


def _bars(joined: MergedRuns, parts_of: Parts) -> list[tuple[str, list[Bar]]]:
    groups = []
    for device in joined.device_names:
        found = [(entry, parts_of(entry)) for entry in joined.on(device)]
        bars = [Bar(entry.brief, parts) for entry, parts in found if parts]
        if bars:
            groups.append((device, bars))
    return groups


def _tables(joined: MergedRuns, title: str, parts_of: Parts) -> list[Table]:
    names = list(dict.fromkeys(part.name for entry in joined.entries for part in parts_of(entry)))
    names.sort(key=lambda name: name == "rest")
    columns = [Column("", numeric=False), *(Column(name, "ms") for name in names), Column("together", "ms")]
    tables = []
    for device in joined.device_names:
        rows = []
        for entry in joined.on(device):
            parts = {part.name: part.ms for part in parts_of(entry)}
            if parts:
                total = sum(parts.values())
                cells = [_part(parts.get(name), total) for name in names]
                rows.append([entry_heading(entry), *cells, TableCell(format_number(total))])
        if rows:
            shown, groups = drop_empty_columns(columns, [Group("", rows)], NOT_MEASURED)
            tables.append(Table(f"{title} on {device}", shown, groups))
    return tables


def _part(ms: float | None, total: float) -> TableCell:
    if ms is None:
        return TableCell(NOT_MEASURED)
    return TableCell(format_number(ms), format_percent(ms / total) if total else "")


def _drafting_row(entry: ReportEntry, drafting: DraftingStats, most: int) -> list[TableCell]:
    rounds = drafting.rounds
    shares = [TableCell(format_percent(share)) for share in drafting.at_least[:most]]
    # Beyond the longest draft that was accepted it is 0, not unknown.
    beyond = TableCell(format_percent(0.0) if drafting.at_least else NOT_MEASURED)
    return [
        entry_heading(entry),
        TableCell(NOT_MEASURED if drafting.acceptance is None else format_percent(drafting.acceptance)),
        TableCell(NOT_MEASURED if drafting.accepted_per_round is None else format_number(drafting.accepted_per_round)),
        TableCell(format_number(drafting.drafted / rounds) if rounds else NOT_MEASURED),
        TableCell(format_percent(drafting.plain_steps / (rounds + drafting.plain_steps)), "of all steps"),
        *(shares + [beyond] * (most - len(shares))),
    ]

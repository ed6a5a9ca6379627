"""The section on speed-up against quality, and the table of what the artifacts are."""

from __future__ import annotations

from edgeskip.bench.analysis.formatting import (
    NOT_MEASURED,
    format_interval,
    format_number,
    format_percent,
    format_ratio,
    join_names,
    sanitize,
)
from edgeskip.bench.analysis.statistics import Ratio
from edgeskip.bench.report.merged_runs import MergedRuns
from edgeskip.bench.report.quality import QualityLoss, loss_of
from edgeskip.bench.report.sections import (
    Column,
    Group,
    Plot,
    Section,
    Table,
    TableCell,
    compact_table,
    entry_heading,
    text_column,
    value_cell,
)
from edgeskip.bench.report.speed import TPOT, DecodingSpeed, decode_measure, decoding_speed
from edgeskip.bench.report.xy_plots import TradeoffPoint, tradeoff_plot
from edgeskip.bench.schema import Target


def tradeoff_section(merged: MergedRuns) -> Section | None:
    """Return decode speed-up against loss; None if no speed-up is known."""
    groups: list[Group] = []
    points: list[TradeoffPoint] = []
    names: list[str] = []  # of the rows, in their order
    unknown: list[str] = []
    measures: list[str] = []
    for device in merged.device_names:
        entries = merged.on(device)
        measure = decode_measure(entries)
        groups.append(Group(device, []))
        for entry in entries:
            speed = decoding_speed(entry, measure)
            if speed is None or (speed.ratio is None and not entry.is_baseline):
                continue
            measures.append(speed.measure)
            loss = loss_of(merged, entry)
            if loss is None:
                unknown.append(f"{entry.target} ({entry.cell.strategy})")
            elif not (entry.is_baseline and not loss.perplexity_increase and not loss.kl):
                ratio = speed.ratio or Ratio(1.0, None, None)
                points.append(
                    TradeoffPoint(
                        len(names) + 1, device, ratio.value, ratio.low, ratio.high, loss.perplexity_increase, loss.kl,
                        loss.by_label,
                    )
                )  # fmt: skip
            names.append(entry.target)
            groups[-1].rows.append(_speedup_cells(len(names), speed, loss))
    if all(row[1].main == "baseline" for group in groups for row in group.rows):
        return None
    columns = [
        text_column(), Column("decode speed-up", "times (95 %)"),
        Column("perplexity"), Column("KL", "nats/token"), Column("same top-1"), text_column("loss"),
    ]  # fmt: skip
    table = compact_table("Speed-up and loss", columns, [group for group in groups if group.rows])
    paragraphs = [
        "Decode speed-up is to the baseline of the same run, device and provider, "
        + ("on real prompts" if set(measures) == {TPOT} else "by " + ", ".join(dict.fromkeys(measures)))
        + ". What a target loses was measured on the artifact decoded plainly; a draft that the whole artifact "
        "verifies loses no more."
    ]
    if unknown:
        paragraphs.append(f"Loss not measured, and therefore not drawn: {join_names(list(dict.fromkeys(unknown)))}.")
    plots = []
    if any(point.perplexity is not None or point.kl is not None for point in points):
        plots.append(
            Plot(
                "quality",
                "Speed-up against quality",
                "Speed-up of decoding against what is lost: right is faster, down is better; the line is the 95 % "
                "interval of the speed-up, numbers are those of the table, the cross is the baseline; hollow points "
                "lose nothing by their label.",
                _describe_points(points, names),
                lambda width: tradeoff_plot(points, width),
            )
        )
    return Section("quality", "Speed-up against quality", paragraphs, plots=plots, tables=[table])


def targets_table(merged: MergedRuns) -> Table:
    """Return what was benchmarked: one row for each artifact."""
    several = len(merged.parts) > 1
    columns = [
        text_column(), text_column("label"), text_column("precision"),
        Column("skipped", "sublayers"), Column("size", "MB"), Column("perplexity"), Column("KL", "nats/token"),
        Column("same top-1"), text_column("model"), text_column("sha256"),
    ]  # fmt: skip
    rows: dict[str, list[TableCell]] = {}
    runs: dict[str, list[str]] = {}
    for part in merged.parts:
        for target in part.run.targets.values():
            name = merged.target_of(part, target.name)
            runs.setdefault(name, []).append(part.label)
            if name not in rows or (rows[name][5].main == NOT_MEASURED and target.quality is not None):
                rows[name] = _target_cells(name, target)
    if several:
        columns.append(text_column("runs"))
        rows = {name: [*row, TableCell(", ".join(runs[name]))] for name, row in rows.items()}
    texts = dict.fromkeys(
        f"{sanitize(target.quality.text, 80)} ({target.quality.tokens:,} tokens in windows of "
        f"{target.quality.window:,})"
        for part in merged.parts
        for target in part.run.targets.values()
        if target.quality is not None
    )
    note = f"Perplexity, KL and top-1 on {'; '.join(texts)}, every position." if texts else "Quality was not measured."
    return compact_table("Targets", columns, [Group("", list(rows.values()))], note)


def _target_cells(name: str, target: Target) -> list[TableCell]:
    quality, plan = target.quality, target.plan
    skipped = "0" if plan is None else f"{len(plan.skip)} of {2 * plan.num_blocks}"
    method = "" if plan is None or not plan.skip else sanitize(plan.method, 60)
    return [
        TableCell(name, target.engine),
        TableCell(target.label),
        TableCell(sanitize(target.precision or "", 60) or NOT_MEASURED),
        TableCell(NOT_MEASURED if plan is None else skipped, method),
        TableCell(format_number(target.size_bytes / 1e6)),
        value_cell(None if quality is None else quality.perplexity, lambda value: format_number(value, 4)),
        value_cell(None if quality is None else quality.kl_divergence),
        value_cell(None if quality is None else quality.top1_agreement, format_percent),
        TableCell(sanitize(target.model or "", 120) or NOT_MEASURED),
        TableCell(sanitize(target.sha256, 12)),
    ]


def _speedup_cells(number: int, speed: DecodingSpeed, loss: QualityLoss | None) -> list[TableCell]:
    heading = entry_heading(speed.entry)
    ratio = TableCell("baseline")
    if speed.ratio is not None:
        ratio = TableCell(format_ratio(speed.ratio), format_interval(speed.ratio))
    found = loss or QualityLoss(None, None, None, "", "")
    if loss is None:
        words = "loss not measured"
    elif loss.by_label:
        words = f"none by its label, against {loss.against}"
    else:
        words = "the reference" if loss.against == speed.entry.target else f"against {loss.against}"
    return [
        TableCell(f"{number}. {heading.main}", heading.detail),
        ratio,
        value_cell(found.perplexity_increase, lambda share: format_percent(share, sign=True)),
        value_cell(found.kl),
        value_cell(found.top1, format_percent),
        TableCell(words),
    ]


def _describe_points(points: list[TradeoffPoint], names: list[str]) -> str:
    parts = ["Speed-up of decoding against loss."]
    for point in points[:12]:
        losses = []
        if point.perplexity is not None:
            losses.append(f"perplexity {format_percent(point.perplexity, sign=True)}")
        if point.kl is not None:
            losses.append(f"KL {format_number(point.kl)}")
        name = f"{point.number}. {names[point.number - 1]}"
        parts.append(f"{name} on {point.device}: {format_number(point.speedup)} times, {', '.join(losses)}.")
    if len(points) > 12:
        parts.append(f"{len(points) - 12} more.")
    return " ".join([*parts, "All numbers are in the table below."])

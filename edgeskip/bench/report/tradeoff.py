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
from edgeskip.bench.report.latency import entry_heading
from edgeskip.bench.report.merged_runs import MergedRuns, ReportEntry
from edgeskip.bench.report.quality import QualityLoss, loss_of
from edgeskip.bench.report.sections import Column, Group, Plot, Section, Table, TableCell, drop_empty_columns
from edgeskip.bench.report.speed import TPOT, DecodingSpeed, decode_measure, decoding_speed
from edgeskip.bench.report.tradeoff_plot import TradeoffPoint, tradeoff_plot
from edgeskip.bench.schema import Target

_NOT = "loss not measured"


def tradeoff_section(joined: MergedRuns) -> Section | None:
    """Decode speed-up against loss; None where no speed-up is known."""
    groups: list[Group] = []
    points: list[TradeoffPoint] = []
    names: list[str] = []  # of the rows, in their order
    unknown: list[str] = []
    measures: list[str] = []
    for device in joined.device_names:
        entries = joined.on(device)
        measure = decode_measure(entries)
        groups.append(Group(device, []))
        for entry in entries:
            speed = decoding_speed(entry, measure)
            if speed is None or (speed.ratio is None and not entry.is_baseline):
                continue
            measures.append(speed.measure)
            loss = loss_of(joined, entry)
            if loss is None:
                unknown.append(f"{entry.target} ({entry.cell.strategy})")
            elif not (entry.is_baseline and not loss.perplexity_increase and not loss.kl):
                points.append(_point(len(names) + 1, speed, loss))
            names.append(entry.target)
            groups[-1].rows.append(_row(len(names), speed, loss))
    if all(row[1].main == "baseline" for group in groups for row in group.rows):
        return None
    columns = [
        Column("", numeric=False), Column("decode speed-up", "times (95 %)"),
        Column("perplexity"), Column("KL", "nats/token"), Column("same top-1"), Column("loss", numeric=False),
    ]  # fmt: skip
    shown, groups = drop_empty_columns(columns, [group for group in groups if group.rows], NOT_MEASURED)
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
    return Section(
        "quality",
        "Speed-up against quality",
        paragraphs,
        plots=plots,
        tables=[Table("Speed-up and loss", shown, groups)],
    )


def targets_table(joined: MergedRuns) -> Table:
    """What was benched: one row for each artifact."""
    several = len(joined.parts) > 1
    columns = [
        Column("", numeric=False), Column("label", numeric=False), Column("precision", numeric=False),
        Column("skipped", "sublayers"), Column("size", "MB"), Column("perplexity"), Column("KL", "nats/token"),
        Column("same top-1"), Column("model", numeric=False), Column("sha256", numeric=False),
    ]  # fmt: skip
    rows: dict[str, list[TableCell]] = {}
    runs: dict[str, list[str]] = {}
    for part in joined.parts:
        for target in part.run.targets.values():
            name = joined.target_of(part, target.name)
            runs.setdefault(name, []).append(part.label)
            if name not in rows or (rows[name][5].main == NOT_MEASURED and target.quality is not None):
                rows[name] = _target_row(name, target)
    if several:
        columns.append(Column("runs", numeric=False))
        rows = {name: [*row, TableCell(", ".join(runs[name]))] for name, row in rows.items()}
    shown, groups = drop_empty_columns(columns, [Group("", list(rows.values()))], NOT_MEASURED)
    texts = dict.fromkeys(
        f"{sanitize(target.quality.text, 80)} ({target.quality.tokens:,} tokens in windows of "
        f"{target.quality.window:,})"
        for part in joined.parts
        for target in part.run.targets.values()
        if target.quality is not None
    )
    note = f"Perplexity, KL and top-1 on {'; '.join(texts)}, every position." if texts else "Quality was not measured."
    return Table("Targets", shown, groups, note)


def _target_row(name: str, target: Target) -> list[TableCell]:
    quality = target.quality
    skipped = "0" if target.plan is None else f"{len(target.plan.skip)} of {2 * target.plan.num_blocks}"
    method = "" if target.plan is None or not target.plan.skip else sanitize(target.plan.method, 60)
    kl = None if quality is None else quality.kl_divergence
    top1 = None if quality is None else quality.top1_agreement
    return [
        TableCell(name, target.engine),
        TableCell(target.label),
        TableCell(sanitize(target.precision or "", 60) or NOT_MEASURED),
        TableCell(NOT_MEASURED if target.plan is None else skipped, method),
        TableCell(format_number(target.size_bytes / 1e6)),
        TableCell(NOT_MEASURED if quality is None else format_number(quality.perplexity, 4)),
        TableCell(NOT_MEASURED if kl is None else format_number(kl)),
        TableCell(NOT_MEASURED if top1 is None else format_percent(top1)),
        TableCell(sanitize(target.model or "", 120) or NOT_MEASURED),
        TableCell(sanitize(target.sha256, 12)),
    ]


def _point(at: int, speed: DecodingSpeed, loss: QualityLoss) -> TradeoffPoint:
    ratio = speed.ratio
    return TradeoffPoint(
        at,
        speed.entry.device,
        1.0 if ratio is None else ratio.value,
        None if ratio is None else ratio.low,
        None if ratio is None else ratio.high,
        loss.perplexity_increase,
        loss.kl,
        loss.by_label,
    )


def _row(at: int, speed: DecodingSpeed, loss: QualityLoss | None) -> list[TableCell]:
    head = entry_heading(speed.entry)
    ratio = (
        TableCell("baseline")
        if speed.ratio is None
        else TableCell(format_ratio(speed.ratio), format_interval(speed.ratio))
    )
    if loss is None:
        figures = [TableCell(NOT_MEASURED)] * 3
        words = _NOT
    else:
        figures = [
            TableCell(
                NOT_MEASURED
                if loss.perplexity_increase is None
                else format_percent(loss.perplexity_increase, sign=True)
            ),
            TableCell(NOT_MEASURED if loss.kl is None else format_number(loss.kl)),
            TableCell(NOT_MEASURED if loss.top1 is None else format_percent(loss.top1)),
        ]
        words = f"none by its label, against {loss.against}" if loss.by_label else f"against {loss.against}"
        if not loss.by_label and _is_reference(speed.entry, loss):
            words = "the reference"
    return [TableCell(f"{at}. {head.main}", head.detail), ratio, *figures, TableCell(words)]


def _is_reference(entry: ReportEntry, loss: QualityLoss) -> bool:
    return loss.against == entry.target


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

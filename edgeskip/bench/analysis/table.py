"""A run as text: Markdown in llama-bench's manner, CSV, JSON, and lines of warnings."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence

from edgeskip.bench.analysis.formatting import sanitize
from edgeskip.bench.analysis.rows import MeasureRow, rows_of
from edgeskip.bench.analysis.statistics import Ratio
from edgeskip.bench.runner.run_file import BenchRun, as_json
from edgeskip.bench.runner.system_monitor import BUSY_CORES, SLOWER
from edgeskip.bench.schema import RoundResult

FORMATS = ("md", "json", "jsonl", "csv")
_COLUMNS = ("target", "label", "device", "provider", "threads", "strategy", "test")


def format_run(run: BenchRun, form: str) -> str:
    """Return the run as text: `md` (the table and the losses), `csv`, or `json` or `jsonl`, which `read_run` reads."""
    match form:
        case "json":
            return json.dumps(as_json(run))
        case "jsonl":
            return "\n".join(record.model_dump_json() for record in run.lines)
        case "csv":
            return as_csv(run, rows_of(run)).rstrip("\n")
        case _:
            return "\n".join([as_markdown(run, rows_of(run)), "", *_losses(run)])


def as_markdown(run: BenchRun, rows: Sequence[MeasureRow]) -> str:
    """Return one line per row: mean ± sd and median over rounds, ratio to the baseline, share of the roofline."""
    heads = (*_COLUMNS, "mean ± sd", "median", "unit", "× baseline", "roofline")
    cells = [
        (*_identity(run, row), f"{row.mean:.{_digits(row)}f} ± {row.sd:.{_digits(row)}f}",
         f"{row.median:.{_digits(row)}f}", row.unit, ratio_text(row.ratio), roofline_text(row))
        for row in rows
    ]  # fmt: skip
    widths = [max(len(line[i]) for line in [heads, *cells]) for i in range(len(heads))]
    right = {heads.index(name) for name in ("threads", "mean ± sd", "median", "× baseline", "roofline")}

    def line(values: Sequence[str]) -> str:
        padded = [v.rjust(w) if i in right else v.ljust(w) for i, (v, w) in enumerate(zip(values, widths, strict=True))]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (w + 1) + ":" if i in right else "-" * (w + 2) for i, w in enumerate(widths)) + "|"
    return "\n".join([line(heads), rule, *map(line, cells)])


def as_csv(run: BenchRun, rows: Sequence[MeasureRow]) -> str:
    """Return all figures in full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    figures = ("unit", "mean", "sd", "median", "ratio", "ratio_low", "ratio_high", "baseline", "roofline", "bound")
    writer.writerow([*_COLUMNS, *figures, "rounds", "values"])
    for row in rows:
        ratio = (None, None, None) if row.ratio is None else (row.ratio.value, row.ratio.low, row.ratio.high)
        numbers = (row.unit, row.mean, row.sd, row.median, *ratio, row.baseline, row.roofline, row.bound)
        written = ["" if value is None else value for value in numbers]
        writer.writerow([*_identity(run, row), *written, len(row.values), " ".join(map(repr, row.values))])
    return text.getvalue()


def ratio_text(ratio: Ratio | None, digits: int = 2) -> str:
    """Return 1.23 [1.20–1.26]; '' if there is no ratio."""
    if ratio is None:
        return ""
    interval = "" if ratio.low is None or ratio.high is None else f" [{ratio.low:.{digits}f}–{ratio.high:.{digits}f}]"
    return f"{ratio.value:.{digits}f}{interval}"


def roofline_text(row: MeasureRow) -> str:
    """Return 56% memory; '' if it is unknown."""
    return "" if row.roofline is None else f"{row.roofline:.0%} {row.bound}"


def warnings_of(run: BenchRun) -> list[str]:
    """Return what makes the figures doubtful, cell by cell, and every note and failure: a line each."""
    found = []
    for sample in run.samples:
        found += [f"{sample.cell.title}, round {sample.round + 1}: {what}" for what in _doubts(sample)]
    notes: dict[str, list[str]] = {}  # what was noted -> of which cells
    for sample in run.samples:
        for note in sample.notes:
            if sample.cell.title not in notes.setdefault(note, []):
                notes[note].append(sample.cell.title)
    found += [f"{cells[0]}{_and_others(len(cells) - 1)}: {note}" for note, cells in notes.items()]
    found += [f"{failure.cell.title} failed: {failure.message}" for failure in run.failures]
    return [sanitize(line, 2000) for line in found]


def _losses(run: BenchRun) -> Iterator[str]:
    """Yield what each target loses, a line each."""
    for target in run.targets.values():
        quality = target.quality
        if quality is None:
            if target.label != "dense":
                yield f"{target.name}: {target.label}; its loss was not measured"
            continue
        line = f"{target.name}: {target.label}; perplexity {quality.perplexity:.2f} on {quality.text}"
        if quality.kl_divergence is not None and quality.top1_agreement is not None:
            line += (
                f", KL from {quality.reference} {quality.kl_divergence:.4f} nats, top-1 agreement "
                f"{quality.top1_agreement:.1%}"
            )
        yield line


def _and_others(count: int) -> str:
    return f" and {count} more cell{'s' if count > 1 else ''}" if count else ""


def _doubts(sample: RoundResult) -> list[str]:
    seen = sample.conditions
    found = []
    if seen.others_cores is not None and seen.others_cores > BUSY_CORES:
        found.append(f"other programs kept {seen.others_cores:.1f} cores busy")
    if len(seen.pulse) == 2 and min(seen.pulse) < (1 - SLOWER) * max(seen.pulse):
        found.append(f"the processor's speed changed by {1 - min(seen.pulse) / max(seen.pulse):.0%} meanwhile")
    if seen.throttle_events:
        found.append(f"the kernel counted {seen.throttle_events} thermal throttlings")
    return found


def _identity(run: BenchRun, row: MeasureRow) -> tuple[str, ...]:
    cell = row.cell
    device = run.devices.get(cell.device)
    name = cell.device if device is None else device.name if device.type != "local" else "here"
    if device is not None and device.emulated:
        name += f" ({device.emulated})"
    engine = "" if row.engine == "onnxruntime" else f"{row.engine} "
    shown = (
        cell.target, str(row.label), name, f"{engine}{row.provider}", str(cell.threads), cell.strategy, row.measure,
    )  # fmt: skip
    return tuple(sanitize(word, 60).replace("|", "/") for word in shown)


def _digits(row: MeasureRow) -> int:
    return 2 if row.median < 100 else 1

"""The page's first lines: what the figures say in words, and nothing that they do not say."""

from __future__ import annotations

from edgeskip.bench.analysis.formatting import format_interval, format_number, pluralize
from edgeskip.bench.report.environment_sections import doubts_of
from edgeskip.bench.report.merged_runs import MergedRuns, ReportEntry
from edgeskip.bench.report.quality import loss_of
from edgeskip.bench.report.speed import DecodingSpeed, decoding_speeds, fastest


def summary_of(merged: MergedRuns) -> list[tuple[str, str]]:
    """Return (device, sentences) for each device, then ("", …) on all."""
    found = [(device, _device(merged, device)) for device in merged.device_names]
    return [*found, ("", _all(merged))]


def _device(merged: MergedRuns, device: str) -> str:
    best = fastest(merged, device)
    if best is None:
        return "No decoding was measured here."
    entry = best.entry
    verb = "decodes fastest:" if len(decoding_speeds(merged, device)) > 1 else "decodes"
    on = "on real prompts" if best.on_prompts else f"of random tokens ({best.measure})"
    parts = [
        f"{entry.target} ({entry.how}) {verb} {format_number(best.median)} tokens/s {on}{_compared(best)}.",
        _loses(merged, entry),
    ]
    if not entry.is_baseline and best.ratio is not None and best.ratio.low is not None and best.ratio.low <= 1:
        parts.append("The interval includes 1: a difference is not shown.")
    return " ".join(part for part in parts if part)


def _compared(best: DecodingSpeed) -> str:
    entry, ratio = best.entry, best.ratio
    if entry.is_baseline:
        return "; it is the baseline"
    if ratio is None or entry.baseline is None:
        return "; there is no baseline to compare with"
    bounds = f"95 % interval {format_interval(ratio)}" if ratio.low is not None else format_interval(ratio)
    return f", {format_number(ratio.value)} times as fast as {entry.baseline} decoded plainly ({bounds})"


def _loses(merged: MergedRuns, entry: ReportEntry) -> str:
    loss = loss_of(merged, entry)
    label = f"Label: {entry.label}."
    if loss is None:
        return f"{label} What it loses was not measured."
    if loss.by_label:
        return f"{label} It leaves nothing out; its quality was not measured."
    if loss.against == entry.target:
        return f"{label} Quality is measured against it."
    return f"{label} Loss: {loss.summary}."


def _all(merged: MergedRuns) -> str:
    rounds = sum(len(entry.samples) for entry in merged.entries)
    parts = [
        f"{pluralize(rounds, 'round')} of {pluralize(len(merged.entries), 'cell')} on "
        f"{pluralize(len(merged.device_names), 'device')} were measured, each in its own process."
    ]
    doubtful = {(id(doubt.entry), n) for doubt in doubts_of(merged) for n in doubt.rounds}
    if doubtful:
        parts.append(f"{pluralize(len(doubtful), 'round')} ran under doubtful conditions (see Conditions).")
    if merged.failures:
        parts.append(f"{pluralize(len(merged.failures), 'round')} failed (see Failures).")
    emulated = [
        name
        for name in merged.device_names
        if any(e.device == name and e.part.run.devices[e.cell.device].emulated is not None
               for e in merged.entries if e.cell.device in e.part.run.devices)
    ]  # fmt: skip
    if emulated:
        parts.append(f"Emulated, not the device itself: {'; '.join(emulated)}.")
    return " ".join(parts)

"""The page's first lines: what the figures say in words, and nothing that they do not say."""

from __future__ import annotations

from edgeskip.bench.analysis.conditions import doubts_of
from edgeskip.bench.analysis.formatting import counted, interval, number
from edgeskip.bench.report.merged_runs import Entry, Joined
from edgeskip.bench.report.quality import loss_of
from edgeskip.bench.report.speed import Decoding, decoded_on, fastest


def summary_of(joined: Joined) -> list[tuple[str, str]]:
    """(device, sentences) for each device, then ("", …) on all."""
    found = [(device, _device(joined, device)) for device in joined.device_names]
    return [*found, ("", _all(joined))]


def _device(joined: Joined, device: str) -> str:
    best = fastest(joined, device)
    if best is None:
        return "No decoding was measured here."
    entry = best.entry
    verb = "decodes fastest:" if len(decoded_on(joined, device)) > 1 else "decodes"
    on = "on real prompts" if best.on_prompts else f"of random tokens ({best.measure})"
    parts = [
        f"{entry.target} ({entry.how}) {verb} {number(best.median)} tokens/s {on}{_compared(best)}.",
        _loses(joined, entry),
    ]
    if not entry.is_baseline and best.ratio is not None and best.ratio.low is not None and best.ratio.low <= 1:
        parts.append("The interval includes 1: a difference is not shown.")
    return " ".join(part for part in parts if part)


def _compared(best: Decoding) -> str:
    entry, ratio = best.entry, best.ratio
    if entry.is_baseline:
        return "; it is the baseline"
    if ratio is None or entry.baseline is None:
        return "; there is no baseline to compare with"
    bounds = f"95 % interval {interval(ratio)}" if ratio.low is not None else interval(ratio)
    return f", {number(ratio.value)} times as fast as {entry.baseline} decoded plainly ({bounds})"


def _loses(joined: Joined, entry: Entry) -> str:
    loss = loss_of(joined, entry)
    label = f"Label: {entry.label}."
    if loss is None:
        return f"{label} What it loses was not measured."
    if loss.by_label:
        return f"{label} It leaves nothing out; its quality was not measured."
    if loss.against == entry.target:
        return f"{label} Quality is measured against it."
    return f"{label} Loss: {loss.words}."


def _all(joined: Joined) -> str:
    rounds = sum(len(entry.samples) for entry in joined.entries)
    parts = [
        f"{counted(rounds, 'round')} of {counted(len(joined.entries), 'cell')} on "
        f"{counted(len(joined.device_names), 'device')} were measured, each in a process of its own."
    ]
    doubtful = {(id(doubt.entry), number) for doubt in doubts_of(joined) for number in doubt.rounds}
    if doubtful:
        parts.append(f"{counted(len(doubtful), 'round')} ran under doubtful conditions (see Conditions).")
    if joined.failures:
        parts.append(f"{counted(len(joined.failures), 'round')} failed (see Failures).")
    emulated = [
        name
        for name in joined.device_names
        if any(e.device == name and e.part.run.devices[e.cell.device].emulated is not None
               for e in joined.entries if e.cell.device in e.part.run.devices)
    ]  # fmt: skip
    if emulated:
        parts.append(f"Emulated, not the device itself: {'; '.join(emulated)}.")
    return " ".join(parts)

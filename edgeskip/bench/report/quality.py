"""What an entry loses: as measured, or nothing by its label; never lossless because it was not measured."""

from __future__ import annotations

from dataclasses import dataclass

from edgeskip.bench.analysis.formatting import format_number, format_percent, join_names, sanitize
from edgeskip.bench.analysis.rows import baseline_of
from edgeskip.bench.report.merged_runs import MergedRuns, ReportEntry
from edgeskip.bench.schema import QualityResult


@dataclass(frozen=True)
class QualityLoss:
    """Against `against`, on `text`; a share (0.12 = 12 % more) and nats per token. Measured, unless `by_label`."""

    perplexity_increase: float | None
    kl: float | None
    top1: float | None
    against: str
    text: str
    by_label: bool = False

    @property
    def summary(self) -> str:
        """perplexity +12.3 %, KL 0.081 nats per token, against dense on wiki.txt"""
        if self.by_label:
            return f"nothing by its label, against {self.against}; not measured"
        parts = []
        if self.perplexity_increase is not None:
            parts.append(f"perplexity {format_percent(self.perplexity_increase, sign=True)}")
        if self.kl is not None:
            parts.append(f"KL {format_number(self.kl)} nats per token")
        if self.top1 is not None:
            parts.append(f"the same most likely token at {format_percent(self.top1)} of positions")
        return f"{join_names(parts)}, against {self.against} on {self.text}"


def loss_of(merged: MergedRuns, entry: ReportEntry) -> QualityLoss | None:
    """Return what this entry loses against its reference or the baseline of its run; None if that was not measured.

    The figures are of the artifact decoded plainly: what is also skipped online was not measured.
    """
    if entry.cell.strategy == "online":
        return None
    quality = entry.record.quality  # its reference is a target of the entry's own run
    base = baseline_of(entry.part.run, entry.cell)
    base_record = None if base is None else entry.part.run.targets[base.target]
    if quality is None:
        same = base_record is not None and (base_record.model, base_record.precision, base_record.engine) == (
            entry.record.model,
            entry.record.precision,
            entry.record.engine,
        )
        # Of another precision, or written by another tool, a dense model is not the same model to the bit.
        if base_record is None or not entry.lossless or base_record.label not in {"dense", "verified"} or not same:
            return None
        return QualityLoss(0.0, 0.0, None, merged.target_of(entry.part, base_record.name), "", by_label=True)
    reference = quality.reference
    if reference is None and base_record is not None:
        reference = base_record.name
    if reference is None:
        return None
    named = entry.part.run.targets.get(reference)
    theirs = quality if reference == entry.record.name else None if named is None else named.quality
    increase = None
    if theirs is not None and _same_text(quality, theirs) and theirs.perplexity > 0:
        increase = quality.perplexity / theirs.perplexity - 1
    kl = 0.0 if reference == entry.record.name else quality.kl_divergence
    top1 = 1.0 if reference == entry.record.name else quality.top1_agreement
    if increase is None and kl is None and top1 is None:
        return None
    return QualityLoss(increase, kl, top1, merged.target_of(entry.part, reference), sanitize(quality.text, 80))


def _same_text(ours: QualityResult, theirs: QualityResult) -> bool:
    return (ours.text, ours.tokens, ours.window) == (theirs.text, theirs.tokens, theirs.window)

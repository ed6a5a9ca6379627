"""From samples to the rows of a table: a value for each round, the ratio to the baseline, the share of the roofline."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgeskip.bench.analysis.statistics import Ratio, paired_ratio
from edgeskip.bench.runner.request import SyntheticTest
from edgeskip.bench.runner.run_file import BenchRun
from edgeskip.bench.schema import (
    BenchCell,
    ModelCost,
    PromptResult,
    Roofline,
    RoundResult,
    Strategy,
    SyntheticResult,
)
from edgeskip.bench.targets import baseline_of_targets
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.plan import Label

Unit = Literal["tokens/s", "ms", "s", "MB", "J/token", "%"]
SERVING = ("TTFT", "TPOT", "ITL p50", "ITL p90", "ITL p99")
"""Of real prompts: first token; mean time per token after it; percentiles of the time between two tokens."""
ACCEPTANCE = "acceptance"


@dataclass(frozen=True)
class MeasureRow:
    """One measure of one cell; `values` by round."""

    cell: BenchCell
    engine: str
    provider: str  # that ran, with the share of nodes if some ran elsewhere
    label: Label
    measure: str  # pp512, tg128 @ d2048, TTFT, …
    unit: Unit
    higher_is_better: bool
    rounds: tuple[int, ...]
    values: tuple[float, ...]
    ratio: Ratio | None = None  # times as good as the baseline; > 1 = better, whatever the unit
    baseline: str | None = None  # the baseline's target
    fell_back: bool = False  # another provider ran than was asked for, in some round
    roofline: float | None = None  # share of the device's rate, by the bound named in `bound`
    bound: Literal["memory", "compute"] | None = None

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def sd(self) -> float:
        """Sample standard deviation over rounds; 0 of one round."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0

    @property
    def median(self) -> float:
        return statistics.median(self.values)


def rows_of(run: BenchRun) -> list[MeasureRow]:
    """Return all rows, cells in the order of targets, then as they first ran; synthetic tests first.

    EdgeSkipError if the run does not describe a target it has measurements of.
    """
    order = {name: number for number, name in enumerate(run.targets)}
    cells: dict[BenchCell, list[RoundResult]] = {}
    for sample in run.samples:
        if sample.cell.target not in run.targets:
            raise EdgeSkipError(
                f"the run has measurements of {sample.cell.target} but does not describe it; "
                "a line of the file is missing"
            )
        cells.setdefault(sample.cell, []).append(sample)
    found: list[MeasureRow] = []
    for cell in sorted(cells, key=lambda cell: order.get(cell.target, len(order))):
        samples = sorted(cells[cell], key=lambda sample: sample.round)
        found += _rows_of_cell(run, cell, samples)
    by_key = {(row.cell, row.measure): row for row in found}
    return [_with_ratio(run, row, by_key) for row in found]


def baseline_of(run: BenchRun, cell: BenchCell) -> BenchCell | None:
    """Return the cell that `cell` is compared with: same device, provider and threads, decoded plainly."""
    found = baseline_of_targets(run.targets, cell.target, run.header.settings.baselines)
    return None if found is None else cell.model_copy(update={"target": found.name, "strategy": "plain"})


def _rows_of_cell(run: BenchRun, cell: BenchCell, samples: Sequence[RoundResult]) -> list[MeasureRow]:
    target = run.targets[cell.target]
    last = samples[-1].ran
    rounds = [sample.round for sample in samples]
    fell_back = any(sample.ran.provider != cell.provider for sample in samples)

    def row(measure: str, unit: Unit, values: Sequence[float | None], higher: bool = False) -> list[MeasureRow]:
        kept = [(number, value) for number, value in zip(rounds, values, strict=True) if value is not None]
        if not kept:
            return []
        numbers, measured = zip(*kept, strict=True)
        label = output_label(target.label, cell.strategy)
        row = MeasureRow(cell, last.engine, provider_text(samples), label, measure, unit, higher, numbers, measured)
        return [_replace(row, fell_back=fell_back)]

    found: list[MeasureRow] = []
    roof = None if fell_back else roofline_for(run, cell)
    for test in dict.fromkeys((t.test, t.tokens, t.depth) for sample in samples for t in sample.tests):
        name = SyntheticTest(test=test[0], tokens=test[1], depth=test[2]).name
        made = row(name, "tokens/s", [_speed(sample.tests, test) for sample in samples], higher=True)
        found += [_with_roofline(one, target.work, roof, *test) for one in made]
    found += _serving_rows(samples, row)
    found += row("load", "s", [sample.load_s for sample in samples])
    found += row("peak memory", "MB", [_mb(sample.peak_rss_bytes) for sample in samples])
    found += row("peak device memory", "MB", [_mb(sample.device_peak_bytes) for sample in samples])
    found += row("energy", "J/token", [_energy_per_token(sample) for sample in samples])
    return found


def _serving_rows(samples: Sequence[RoundResult], row: object) -> list[MeasureRow]:
    assert callable(row)
    answers = [sample.answers for sample in samples]
    found: list[MeasureRow] = []
    found += row("TTFT", "ms", [_ms(statistics.fmean(a.ttft_s for a in some)) if some else None for some in answers])
    found += row("TPOT", "ms", [_ms(_tpot(some)) for some in answers])
    for percent in (50, 90, 99):
        found += row(f"ITL p{percent}", "ms", [_ms(_gap_percentile(some, percent)) for some in answers])
    found += row(ACCEPTANCE, "%", [_acceptance(some) for some in answers], higher=True)
    return found


def output_label(label: Label, strategy: Strategy) -> Label:
    """Return the label of a target's output under a strategy: verified drafts of a lossy model stay lossy."""
    if strategy == "online":
        return "lossy-skip"
    return "verified" if strategy != "plain" and label == "dense" else label


def provider_text(samples: Sequence[RoundResult]) -> str:
    """Return the provider that ran; with its share of the nodes if it ran only a part of the graph."""
    ran = samples[-1].ran
    named = dict.fromkeys(sample.ran.provider for sample in samples)
    if len(named) > 1:
        return " or ".join(named)  # a fall-back in some rounds
    total = sum(ran.nodes.values())
    provider = ran.provider.partition(":")[0]  # nodes are counted by provider: openvino, not openvino:gpu
    others = [name for name in ran.nodes if name != provider and ran.nodes[name]]
    if not others or not total:
        return ran.provider
    return f"{ran.provider} ({ran.nodes.get(provider, 0)}/{total} nodes)"


def roofline_for(run: BenchRun, cell: BenchCell) -> Roofline | None:
    """Return the device's roofline with this provider and number of threads."""
    device = run.devices.get(cell.device)
    return next(
        (r for r in (device.rooflines if device else ()) if (r.provider, r.threads) == (cell.provider, cell.threads)),
        None,
    )


def _with_roofline(
    row: MeasureRow, work: ModelCost | None, roof: Roofline | None, test: str, tokens: int, depth: int
) -> MeasureRow:
    """Return the row with its share of the roofline: the larger of the memory's and the arithmetic's."""
    if work is None or roof is None:
        return row
    seconds = tokens / row.median
    if test == "tg":
        positions = depth + (tokens + 1) / 2  # seen by the mean token
        moved = tokens * (work.weight_bytes + work.kv_bytes_per_token * positions)
        flops = tokens * (work.matmul_flops + work.head_flops + work.attention_flops * positions)
    else:
        pairs = tokens * depth + tokens * (tokens + 1) / 2
        moved = work.weight_bytes + work.kv_bytes_per_token * (depth + tokens)
        flops = tokens * work.matmul_flops + work.head_flops + work.attention_flops * pairs
    memory = moved / seconds / roof.bytes_per_s if roof.bytes_per_s else 0.0
    compute = flops / seconds / roof.flops_per_s if roof.flops_per_s else 0.0
    if not memory and not compute:
        return row
    return _replace(row, roofline=max(memory, compute), bound="memory" if memory >= compute else "compute")


def _comparable(row: MeasureRow, base: MeasureRow) -> bool:
    """Return whether a ratio is meaningful: both ran on the provider asked for, over the same work.

    Tokens of one draft are emitted together, so percentiles of the gaps between tokens are not comparable with drafts;
    and only what is decoded plainly runs the tests, which count in its peak of memory.
    """
    if row.measure == ACCEPTANCE or row.fell_back or base.fell_back:
        return False
    return row.cell.strategy == base.cell.strategy or not row.measure.startswith(("ITL", "peak"))


def _with_ratio(run: BenchRun, row: MeasureRow, by_key: dict[tuple[BenchCell, str], MeasureRow]) -> MeasureRow:
    cell = baseline_of(run, row.cell)
    base = None if cell is None else by_key.get((cell, row.measure))
    if base is None or base is row or not _comparable(row, base):
        return row
    theirs = dict(zip(base.rounds, base.values, strict=True))
    both = [(value, theirs[n]) for n, value in zip(row.rounds, row.values, strict=True) if n in theirs]
    both = [(a, b) for a, b in both if a > 0 and b > 0]
    if not both:
        return row
    ours, others = [a for a, _ in both], [b for _, b in both]
    ratio = paired_ratio(ours, others) if row.higher_is_better else paired_ratio(others, ours)
    return _replace(row, ratio=ratio, baseline=base.cell.target)


def _replace(row: MeasureRow, **changes: object) -> MeasureRow:
    from dataclasses import replace

    return replace(row, **changes)  # type: ignore[arg-type]  # the callers' names are fields


def _speed(tests: Sequence[SyntheticResult], test: tuple[str, int, int]) -> float | None:
    seconds = [t.seconds for t in tests if (t.test, t.tokens, t.depth) == test]
    return test[1] / statistics.fmean(seconds) if seconds and statistics.fmean(seconds) else None


def _tpot(answers: Sequence[PromptResult]) -> float | None:
    """Return the mean over prompts: each counts alike, for the lengths of answers differ between models."""
    means = [statistics.fmean(answer.gaps_s) for answer in answers if answer.gaps_s]
    return statistics.fmean(means) if means else None


def _gap_percentile(answers: Sequence[PromptResult], percent: float) -> float | None:
    gaps = [gap for answer in answers for gap in answer.gaps_s]
    return float(np.percentile(gaps, percent)) if gaps else None


def _acceptance(answers: Sequence[PromptResult]) -> float | None:
    speculated = [answer.speculation for answer in answers if answer.speculation is not None]
    drafted = sum(one.drafted for one in speculated)
    return 100 * sum(one.accepted for one in speculated) / drafted if drafted else None


def _energy_per_token(sample: RoundResult) -> float | None:
    tokens = sum(len(answer.tokens) for answer in sample.answers)
    return sample.energy.joules / tokens if sample.energy and tokens else None


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


def _mb(size: int | None) -> float | None:
    return None if size is None else size / 1e6

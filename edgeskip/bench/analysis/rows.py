"""From samples to the rows of a table: a value for each round, the ratio to the baseline, the share of the roofline."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from edgeskip.bench.analysis.statistics import Ratio, paired_ratio
from edgeskip.bench.runner.request import SyntheticTest
from edgeskip.bench.runner.run_file import BenchRun
from edgeskip.bench.schema import (
    BenchCell,
    ModelCost,
    Roofline,
    RoundResult,
    Strategy,
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

    Raises EdgeSkipError if the run does not describe a target it has measurements of.
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
    fell_back = any(sample.ran.provider != cell.provider for sample in samples)
    label, provider = output_label(target.label, cell.strategy), provider_text(samples)

    def row(measure: str, unit: Unit, higher: bool, value_of: Value) -> list[MeasureRow]:
        kept = [(sample.round, value) for sample in samples if (value := value_of(sample)) is not None]
        if not kept:
            return []
        rounds, values = zip(*kept, strict=True)
        engine = samples[-1].ran.engine
        return [MeasureRow(cell, engine, provider, label, measure, unit, higher, rounds, values, fell_back=fell_back)]

    found: list[MeasureRow] = []
    roof = None if fell_back else roofline_for(run, cell)
    for test in dict.fromkeys((t.test, t.tokens, t.depth) for sample in samples for t in sample.tests):
        name = SyntheticTest(test=test[0], tokens=test[1], depth=test[2]).name
        made = row(name, "tokens/s", True, lambda sample, test=test: _speed(sample, test))  # type: ignore[misc]
        found += [_with_roofline(one, target.work, roof, *test) for one in made]
    return [*found, *(one for measure in _MEASURES for one in row(*measure))]


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
    return replace(row, roofline=max(memory, compute), bound="memory" if memory >= compute else "compute")


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
    pairs = [(value, theirs.get(n, 0.0)) for n, value in zip(row.rounds, row.values, strict=True)]
    pairs = [(ours, other) for ours, other in pairs if ours > 0 and other > 0]
    if not pairs:
        return row
    ours, others = zip(*pairs, strict=True)
    ratio = paired_ratio(ours, others) if row.higher_is_better else paired_ratio(others, ours)
    return replace(row, ratio=ratio, baseline=base.cell.target)


def _speed(sample: RoundResult, test: tuple[str, int, int]) -> float | None:
    seconds = _mean([t.seconds for t in sample.tests if (t.test, t.tokens, t.depth) == test])
    return test[1] / seconds if seconds else None


def _ttft(sample: RoundResult) -> float | None:
    return _scaled(1e3, _mean([answer.ttft_s for answer in sample.answers]))


def _tpot(sample: RoundResult) -> float | None:
    """Return the mean over prompts: each counts alike, for the lengths of answers differ between models."""
    return _scaled(1e3, _mean([statistics.fmean(answer.gaps_s) for answer in sample.answers if answer.gaps_s]))


def _gap_percentile(sample: RoundResult, percent: float) -> float | None:
    gaps = [gap for answer in sample.answers for gap in answer.gaps_s]
    return _scaled(1e3, float(np.percentile(gaps, percent))) if gaps else None


def _acceptance(sample: RoundResult) -> float | None:
    stats = [answer.speculation for answer in sample.answers if answer.speculation is not None]
    drafted = sum(one.drafted for one in stats)
    return 100 * sum(one.accepted for one in stats) / drafted if drafted else None


def _energy_per_token(sample: RoundResult) -> float | None:
    tokens = sum(len(answer.tokens) for answer in sample.answers)
    return sample.energy.joules / tokens if sample.energy and tokens else None


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _scaled(factor: float, value: float | None) -> float | None:
    return None if value is None else factor * value


def _megabytes(size: int | None) -> float | None:
    return None if size is None else size / 1e6


Value = Callable[[RoundResult], float | None]
_MEASURES: tuple[tuple[str, Unit, bool, Value], ...] = (  # name, unit, whether more is better, value of a round
    ("TTFT", "ms", False, _ttft),
    ("TPOT", "ms", False, _tpot),
    ("ITL p50", "ms", False, lambda sample: _gap_percentile(sample, 50)),
    ("ITL p90", "ms", False, lambda sample: _gap_percentile(sample, 90)),
    ("ITL p99", "ms", False, lambda sample: _gap_percentile(sample, 99)),
    (ACCEPTANCE, "%", True, _acceptance),
    ("load", "s", False, lambda sample: sample.load_s),
    ("peak memory", "MB", False, lambda sample: _megabytes(sample.peak_rss_bytes)),
    ("peak device memory", "MB", False, lambda sample: _megabytes(sample.device_peak_bytes)),
    ("energy", "J/token", False, _energy_per_token),
)

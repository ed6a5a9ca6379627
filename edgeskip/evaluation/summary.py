"""What records say together: a figure per metric with its interval, and its difference from another artifact's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.plan import Label
from edgeskip.evaluation.bootstrap import interval
from edgeskip.evaluation.task import AnyTask, EvalRecord, Metric

Interval = tuple[float, float]
_MOST_NATS = 300.0  # a perplexity beyond is as good as infinite, and still a number


@dataclass(frozen=True)
class TaskResult:
    """One task on one artifact: the records of the samples that were asked for, in their order."""

    task: AnyTask
    artifact: str
    records: tuple[EvalRecord, ...]

    @property
    def label(self) -> Label:
        """What the output must be called; a result has at least one record."""
        return self.records[0].label


@dataclass(frozen=True)
class PairedDifference:
    """This artifact's figure less that of the artifact `than`, over the `samples` both have answered, pair by pair."""

    than: str
    value: float
    interval: Interval | None  # 95 %
    samples: int


@dataclass(frozen=True)
class Summary:
    """One metric of one task on one artifact, as tables show it (perplexity, shares × 100).

    Times are of generated answers: `ttft_s` the mean, `decode_tokens_per_s` all tokens after the first over their time.
    `cut` prompts lost their middle. `gated` FFNs were left out online per answer, None if nothing was watched.
    """

    task: str
    metric: str
    title: str
    artifact: str
    label: Label
    value: float
    interval: Interval | None  # 95 %, None for a single sample
    samples: int
    tokens: int
    higher_is_better: bool
    cut: int = 0
    ttft_s: float | None = None
    decode_tokens_per_s: float | None = None
    gated: float | None = None
    difference: PairedDifference | None = None


def summarize(results: Sequence[TaskResult]) -> list[Summary]:
    """Task by task, metric by metric, artifact by artifact; those after a task's first are compared with it.

    A comparison needs the same samples: windows of another tokenizer are others, and there is none then.
    """
    summaries = []
    for name in dict.fromkeys(result.task.name for result in results):
        some = [result for result in results if result.task.name == name and result.records]
        for metric in some[0].task.metrics if some else ():
            summaries += [_summary(result, metric, some[0]) for result in some]
    return summaries


def _summary(result: TaskResult, metric: Metric, first: TaskResult) -> Summary:
    def of(mean: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.exp(np.minimum(mean, _MOST_NATS)) if metric.exponential else mean * metric.scale

    def less(mean: NDArray[np.float64], than: NDArray[np.float64]) -> NDArray[np.float64]:
        return of(mean) - of(than)

    scores = [record.scores[metric.name] for record in result.records]
    difference = None
    if result is not first:
        theirs = {record.id: record.scores[metric.name] for record in first.records}
        pairs = [(r.scores[metric.name], theirs[r.id]) for r in result.records if r.id in theirs]
        if pairs:
            a, b = (np.asarray(column, np.float64) for column in zip(*pairs, strict=True))
            value = float(less(np.asarray(a.mean()), np.asarray(b.mean())))
            difference = PairedDifference(first.artifact, value, interval(a, b, of=less), len(pairs))
    timed = [record for record in result.records if record.ttft_s is not None]
    gated = [record.gated for record in result.records if record.gated is not None]
    seconds = sum(record.decode_s or 0.0 for record in timed)
    return Summary(
        task=result.task.name,
        metric=metric.name,
        title=metric.title,
        artifact=result.artifact,
        label=result.label,
        value=float(of(np.asarray(np.mean(scores)))),
        interval=interval(scores, of=of),
        samples=len(scores),
        tokens=sum(record.tokens for record in result.records),
        higher_is_better=metric.higher_is_better,
        cut=sum(record.cut_from is not None for record in result.records),
        ttft_s=sum(record.ttft_s or 0.0 for record in timed) / len(timed) if timed else None,
        decode_tokens_per_s=sum(record.decode_tokens or 0 for record in timed) / seconds if seconds else None,
        gated=sum(gated) / len(gated) if gated else None,
        difference=difference,
    )

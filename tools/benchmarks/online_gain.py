"""Online skipping, answer by answer: how many FFNs it leaves out, what that gains while decoding and what it costs.

    python tools/benchmarks/online_gain.py STATIC ONLINE --task gov_report --limit 10 --output FOLDER
    python tools/benchmarks/online_gain.py DENSE STATIC ONLINE --task gov_report --limit 10 --output FOLDER

Makes the first table of docs/results/online.md. Every artifact answers each prompt of a task of `edgeskip eval`, in
turn and in a fresh process each time; those with gates online, the others plainly. Speed-ups are of tokens per second
while decoding, the watched steps among them, paired by prompt with the first artifact. Goes on where it was with
--output; a prompt that an artifact lacks is answered by all again, so that pairs stay pairs.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from harness.command import JsonFile, Threads, check_names, check_output, main
from harness.processes import in_new_process, show_progress
from harness.results import Results, Table

from edgeskip.artifacts.manifest import read_manifest
from edgeskip.core.errors import EdgeSkipError
from edgeskip.evaluation.bootstrap import interval
from edgeskip.evaluation.generate import answer
from edgeskip.evaluation.log import RecordLog
from edgeskip.evaluation.runner import artifact_name, identity, prepare
from edgeskip.evaluation.summary import Interval, Summary, TaskResult, summarize
from edgeskip.evaluation.task import EvalRecord, EvalSample, EvalSettings, Task
from edgeskip.evaluation.tasks import TASKS


@dataclass(frozen=True)
class Gain:
    """One artifact's answers: `speedup` the geometric mean of its tokens per second over the first artifact's, over the
    `pairs` of answers with more than one token."""

    summary: Summary
    pairs: int
    speedup: float
    speedup_interval: Interval | None  # 95 %
    gated: tuple[int, float, int] | None  # FFNs left out of an answer: least, median, most; None without gates


def online_gain(
    artifacts: Annotated[list[Path], typer.Argument(help="Folders; those with gates run online.")],
    task: Annotated[str, typer.Option(help="A generating task of edgeskip eval.")] = "gov_report",
    data: Annotated[Path | None, typer.Option(help="Folder of the task's data.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Prompts.")] = 10,
    tokens: Annotated[int | None, typer.Option(min=2, help="Most tokens of an answer.  [default: the task's]")] = None,
    prompt_tokens: Annotated[int | None, typer.Option(min=2, help="Most of a prompt, cut in its middle.")] = None,
    threads: Threads = 2,
    output: Annotated[Path | None, typer.Option(help="Folder of the records.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Compare online with plain decoding on a task; a table to stdout."""
    settings = EvalSettings(limit=limit, max_new_tokens=tokens, max_prompt_tokens=prompt_tokens, threads=threads)
    check_output(json_file)
    gains = gains_of(answered(artifacts, task, data, settings, output))
    Results(
        name="online_gain",
        setting={"task": task, "prompts": limit, "tokens": tokens, "prompt_tokens": prompt_tokens, "threads": threads},
        tables=[table_of(gains)],
        data=gains,
    ).publish(json_file)


def answered(
    artifacts: Sequence[Path], task: str, data: Path | None, settings: EvalSettings, output: Path | None
) -> list[TaskResult]:
    """Return every artifact's records, prompt by prompt in an order that is rotated."""
    names = [artifact_name(path) for path in artifacts]
    check_names(names)
    (work,) = prepare([task], data, settings)
    if not isinstance(work.task, Task):
        raise EdgeSkipError(f"--task {task} generates nothing: choose one that does, e.g. gov_report")
    online = replace(settings, strategy="online")
    each = [online if read_manifest(path).online else settings for path in artifacts]
    about: dict[str, Any] = {
        **{"artifacts": [identity(path) for path in artifacts], "task": task, "protocol": work.task.protocol},
        **{"data": dict(work.data), "max_new_tokens": settings.max_new_tokens, "threads": settings.threads},
        **{"max_prompt_tokens": settings.max_prompt_tokens, "glibc_tunables": os.environ.get("GLIBC_TUNABLES")},
    }
    if output:
        output.mkdir(parents=True, exist_ok=True)
    logs = [RecordLog(output / f"gain-{task}-{name}.jsonl" if output else None, about) for name in names]
    for number, sample in enumerate(work.samples):
        if any(sample.id not in log.records for log in logs):
            for turn in range(len(artifacts)):
                at = (turn + number) % len(artifacts)
                logs[at].add(in_new_process(_answer, artifacts[at], task, sample, each[at]))
        show_progress(f"{task}: {number + 1} of {len(work.samples)}")
    return [
        TaskResult(work.task, name, tuple(log.records[sample.id] for sample in work.samples))
        for name, log in zip(names, logs, strict=True)
    ]


def gains_of(results: Sequence[TaskResult]) -> list[Gain]:
    """By the task's first metric. Raises EdgeSkipError if every answer has a single token, which takes no decoding."""
    first, gains = results[0], []
    summaries = {summary.artifact: summary for summary in reversed(summarize(results))}
    for result in results:
        pairs = zip(result.records, first.records, strict=True)
        speeds = [(own.decode_tokens_per_s, other.decode_tokens_per_s) for own, other in pairs]
        ratios = [math.log(own / other) for own, other in speeds if own and other]
        if not ratios:
            raise EdgeSkipError("no answer has more than one token: choose another task")
        gated = [record.gated for record in result.records if record.gated is not None]
        gains.append(
            Gain(
                summary=summaries[result.artifact],
                pairs=len(ratios),
                speedup=math.exp(statistics.fmean(ratios)),
                speedup_interval=interval(ratios, of=np.exp),
                gated=(min(gated), statistics.median(gated), max(gated)) if gated else None,
            )
        )
    return gains


def table_of(gains: Sequence[Gain]) -> Table:
    """Return a row for each artifact; differences and speed-ups are from the first."""
    one = gains[0].summary
    columns = [f"{one.task}, {one.samples} prompts", "label", one.title, "less the first", "FFNs left out"]
    lines = []
    for gain in gains:
        summary, less = gain.summary, gain.summary.difference
        timed = f" ({gain.pairs} of them)" if gain.pairs < summary.samples else ""
        lines.append(
            [
                summary.artifact,
                summary.label,
                f"{summary.value:.2f}{_span(summary.interval, '.2f')}",
                f"{less.value:+.2f}{_span(less.interval, '+.2f')}" if less else "–",
                "{1:g} [{0}–{2}]".format(*gain.gated) if gain.gated else "–",
                f"{summary.decode_tokens_per_s or 0:.1f}",
                f"{gain.speedup:.3f}×{_span(gain.speedup_interval, '.3f')}{timed}",
            ]
        )
    return Table(f"Online skipping on {one.task}", [*columns, "decode tokens/s", "speed-up"], lines)


def _answer(artifact: Path, task: str, sample: EvalSample, settings: EvalSettings) -> EvalRecord:
    from edgeskip.runtime.session import load

    named = TASKS[task]
    assert isinstance(named, Task)
    with load(artifact, threads=settings.threads) as session:
        return answer(session, named, sample, settings)


def _span(interval: Interval | None, form: str) -> str:
    return f" [{interval[0]:{form}} … {interval[1]:{form}}]" if interval else ""


if __name__ == "__main__":
    main(online_gain, huge_pages=True)

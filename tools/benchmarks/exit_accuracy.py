"""A task's score by every way to decode: plain, drafted and verified, and each exit's own tokens, unverified.

    python tools/benchmarks/exit_accuracy.py ARTIFACT … --limit 1390 --output FOLDER

Makes the first tables of docs/results/early-exit.md: exact match of greedy TOPv2 parses. What `edgeskip eval` measures
for one strategy is measured here for all that an artifact has, exit by exit, over the same samples; texts are compared
with plain decoding's. Goes on where it was with --output; more samples go on after fewer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer
from harness.command import JsonFile, Threads, check_names, main, numbers
from harness.processes import others_cores, show_progress
from harness.results import Results, Table

from edgeskip.core.errors import EdgeSkipError
from edgeskip.evaluation.runner import artifact_names, open_logs, prepare, run
from edgeskip.evaluation.summary import TaskResult, summarize
from edgeskip.evaluation.task import EvalSettings

STRATEGIES = ("plain", "speculative", "draft-only")


def exit_accuracy(
    artifacts: Annotated[list[Path], typer.Argument(help="Artifact folders or .gguf files.")],
    task: Annotated[str, typer.Option(help="A generating task of edgeskip eval.")] = "topv2",
    data: Annotated[Path | None, typer.Option(help="Folder of the task's data.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Samples.")] = 200,
    strategies: Annotated[str, typer.Option(help="By comma; those without a draft are left out.")] = ",".join(
        STRATEGIES
    ),
    exit_layers: Annotated[str, typer.Option(help="draft-only: exits, by comma (default: all).")] = "",
    tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens of an answer.  [default: the task's]")] = None,
    threads: Threads = 2,
    output: Annotated[Path | None, typer.Option(help="Folder of the records.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Score a task by every way to decode; a table to stdout."""
    chosen = strategies.split(",")
    if unknown := [one for one in chosen if one not in STRATEGIES]:
        raise EdgeSkipError(f"--strategies {unknown[0]}: choose from {', '.join(STRATEGIES)}")
    layers = numbers("--exit-layers", exit_layers, int, 1) if exit_layers else None
    settings = EvalSettings(limit=limit, max_new_tokens=tokens, threads=threads)
    works = prepare([task], data, settings)
    names = artifact_names(artifacts)
    check_names(names)
    found: dict[str, dict[str, TaskResult]] = {}
    with others_cores() as others:
        for path, name in zip(artifacts, names, strict=True):
            for way, way_settings in ways_of(path, chosen, layers, settings).items():
                show_progress(f"{name}, {way}")
                called = f"{name}-{way.replace(' ', '-')}"
                logs = open_logs(path, works, way_settings, output, overwrite=False, name=called)
                (result,) = run(path, works, logs, way_settings, lambda where: None, called)
                found.setdefault(name, {})[way] = result
    Results(
        name="exit_accuracy",
        setting={"task": task, "samples": len(works[0].samples), "threads": threads},
        tables=[table_of(found)],
        data=[asdict(one) for ways in found.values() for one in summarize(list(ways.values()))],
        others_cores=others,
    ).publish(json_file)


def ways_of(
    path: Path, strategies: Sequence[str], layers: Sequence[int] | None, settings: EvalSettings
) -> dict[str, EvalSettings]:
    """Return the strategies that the artifact has, draft-only once for every exit."""
    from edgeskip.runtime.session import load

    with load(path) as session:
        exits = [draft.exit_layer for draft in session.drafts]
    ways = {}
    for strategy in strategies if exits else [one for one in strategies if one == "plain"]:
        for layer in (layers or exits) if strategy == "draft-only" else [None]:
            name = strategy if layer is None else f"{strategy} exit {layer}"
            ways[name] = replace(settings, strategy=strategy, exit_layer=layer)
    return ways


def table_of(found: Mapping[str, Mapping[str, TaskResult]]) -> Table:
    """Return a row for each artifact and way; texts and speed are compared with the artifact's plain decoding."""
    lines = []
    for artifact, ways in found.items():
        plain = ways.get("plain")
        texts = {record.id: record.prediction for record in plain.records} if plain else {}
        for way, result in ways.items():
            summary = summarize([result])[0]
            same = [texts[record.id] == record.prediction for record in result.records if record.id in texts]
            speed = summary.decode_tokens_per_s or 0.0
            base = summarize([plain])[0].decode_tokens_per_s if plain and way != "plain" else None
            unfinished = sum(record.finish_reason != "eos" for record in result.records)
            interval = summary.interval
            score = f"{summary.value:.1f}" + (f" [{interval[0]:.1f} – {interval[1]:.1f}]" if interval else "")
            identical = f"{fmean(same):.1%}" if same and way != "plain" else ""
            cells = [artifact, way, summary.label, str(summary.samples), score, str(unfinished), identical]
            lines.append([*cells, f"{speed:.1f}", f"{speed / base:.2f}" if base else ""])
    columns = ["artifact", "way", "label", "samples", "score", "unfinished", "identical to plain", "tok/s", "÷ plain"]
    return Table("Score by way to decode", columns, lines)


if __name__ == "__main__":
    main(exit_accuracy)

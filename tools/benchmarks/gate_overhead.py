"""What the gates of an online artifact cost while they are open and nothing is watched: its time over a static one's.

    edgeskip export --profile PROFILE --precision int4 -o static
    edgeskip export --profile PROFILE --precision int4 --online --beta 0.97 -o online
    python tools/benchmarks/gate_overhead.py static online --json gates.json

Every figure is taken in a process of its own that loads, warms up and runs (several open models slow each other), in
turns whose order is rotated, huge pages asked for (harness/huge_pages.py); ratios are paired by round, in which a
machine's drift cancels. The bound is on their medians. Wants a quiet machine.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from harness.driver import tell
from harness.figures import Spread
from harness.huge_pages import with_huge_pages
from harness.machine import cpu_time, describe

from edgeskip.artifacts.manifest import Manifest, read_manifest
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import replace_file

BOUND = 1.03  # design §5
BUSY = 0.1  # cores
PREFILLS = 3


@dataclass(frozen=True)
class Taken:
    """Seconds of a prompt (median of a few) and of a decode step behind it (lower quartile), and what else was busy."""

    prefill_s: float
    decode_s: float
    others_cores: float | None = None


@dataclass(frozen=True)
class Row:
    """One phase: seconds of both over the rounds, and online over static paired by round."""

    phase: str
    static_s: Spread
    online_s: Spread
    ratio: Spread

    @property
    def met(self) -> bool:
        return self.ratio.median <= BOUND


def gate_overhead(
    static: Annotated[Path, typer.Argument(help="An artifact without gates.")],
    online: Annotated[Path, typer.Argument(help="The same plan and precision, exported with --online.")],
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; medians are over them.")] = 8,
    context: Annotated[int, typer.Option(min=1, help="Tokens of the prompt.")] = 512,
    new: Annotated[int, typer.Option(min=4, help="Tokens to decode behind it.")] = 96,
    threads: Annotated[int, typer.Option(min=1, help="Threads.")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything there.")] = None,
) -> None:
    """Compare an artifact with gates to one without; a table to stdout, exit code 1 where the bound is missed."""
    manifest = comparable(static, online)
    folders = {"static": static, "online": online}
    taken: dict[str, list[Taken]] = {name: [] for name in folders}
    for number in range(rounds):
        order = list(folders) if number % 2 else list(reversed(folders))
        for name in order:
            found = afresh(folders[name], context, new, threads)
            taken[name].append(found)
            prompt, step = 1e3 * found.prefill_s, 1e3 * found.decode_s
            tell(f"round {number + 1}  {name}: prefill {prompt:.1f} ms, step {step:.3f} ms")
    rows = rows_of(taken["static"], taken["online"])
    busy = [run.others_cores for runs in taken.values() for run in runs if run.others_cores is not None]
    setting = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": manifest.model.name,
        "precision": manifest.graph.precision,
        "gates": len(manifest.online.ffns) if manifest.online else 0,
        "context": context,
        "new_tokens": new,
        "threads": threads,
        "rounds": rounds,
        "others_cores": max(busy, default=None),
        "machine": describe(),
    }
    if json_file:
        replace_file(json_file, (json.dumps(as_json(rows, setting), indent=1) + "\n").encode())
    print(as_markdown(rows, setting))
    if not all(row.met for row in rows):
        raise typer.Exit(1)


def comparable(static: Path, online: Path) -> Manifest:
    """The online artifact's manifest. EdgeSkipError where more than the gates tells the two apart."""
    one, other = read_manifest(static), read_manifest(online)
    if one.online is not None or other.online is None:
        raise EdgeSkipError(f"name the artifact without gates first, then the one with: {static} {online}")
    if (one.model.fingerprint, one.graph, one.plan) != (other.model.fingerprint, other.graph, other.plan):
        raise EdgeSkipError(f"{static} and {online} differ in more than the gates: export both from one profile")
    return other


def afresh(folder: Path, context: int, new: int, threads: int) -> Taken:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(take, folder, context, new, threads).result()


def take(folder: Path, context: int, new: int, threads: int) -> Taken:
    """Runs one artifact as plain decoding does: gates open, nothing watched."""
    from edgeskip.runtime.engines.prefill import prefill
    from edgeskip.runtime.session import load
    from edgeskip.runtime.sublayer_times import QUARTILE, random_tokens

    with load(folder, threads=threads) as session:
        engine = session.engine
        ids = random_tokens(context + new, read_manifest(folder).graph.vocab_size)
        engine.reserve(len(ids))
        prefill(engine, ids[:context])
        prompts, steps = [], []
        before, start = cpu_time(os.getpid()), time.perf_counter()
        for _ in range(PREFILLS):
            engine.truncate(0)
            begin = time.perf_counter()
            prefill(engine, ids[:context])
            prompts.append(time.perf_counter() - begin)
        for position in range(context, len(ids)):
            begin = time.perf_counter()
            engine.step(ids[position : position + 1])
            steps.append(time.perf_counter() - begin)
        after, seconds = cpu_time(os.getpid()), time.perf_counter() - start
    others = after.others_since(before, seconds) if before and after else None
    return Taken(median(prompts), float(np.quantile(steps[1:], QUARTILE)), others)


def rows_of(static: list[Taken], online: list[Taken]) -> list[Row]:
    rows = []
    for phase in ("prefill", "decode"):
        one, other = ([getattr(run, f"{phase}_s") for run in runs] for runs in (static, online))
        ratio = Spread.of(b / a for a, b in zip(one, other, strict=True))
        rows.append(Row(phase, Spread.of(one), Spread.of(other), ratio))
    return rows


def as_json(rows: list[Row], setting: dict[str, Any]) -> dict[str, Any]:
    return {
        "setting": setting,
        "bound": BOUND,
        "rows": [
            {
                "phase": row.phase,
                "static_s": row.static_s.median,
                "online_s": row.online_s.median,
                "ratio": row.ratio.median,
                "ratio_range": [row.ratio.low, row.ratio.high],
                "met": row.met,
            }
            for row in rows
        ],
    }


def as_markdown(rows: list[Row], setting: dict[str, Any]) -> str:
    lines = [
        f"{setting['model']} {setting['precision']}, {setting['gates']} gates; context {setting['context']}, "
        f"{setting['threads']} threads, {setting['rounds']} rounds, {setting['created']}",
        "",
        "| phase | static ms | online ms | online / static | |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.phase} | {1e3 * row.static_s.median:.3f} | {1e3 * row.online_s.median:.3f} "
        f"| {row.ratio.median:.4f} [{row.ratio.low:.4f} – {row.ratio.high:.4f}] | {'ok' if row.met else 'NO'} |"
        for row in rows
    ]
    if setting["others_cores"] and setting["others_cores"] > BUSY:
        lines += ["", f"Doubtful: other processes kept {setting['others_cores']:.2f} cores busy in the worst run."]
    return "\n".join(lines)


if __name__ == "__main__":
    with_huge_pages()
    try:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command()(gate_overhead)
        app()
    except EdgeSkipError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)

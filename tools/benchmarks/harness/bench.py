"""`edgeskip.bench` as the scripts use it: synthetic tests only unless asked for more, every failure an error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import edgeskip
from edgeskip.bench.benchmark import BenchResult
from edgeskip.core.errors import EdgeSkipError


def bench(targets: Mapping[str, Path], **options: Any) -> BenchResult:
    """Measure targets by name, with `options` of `edgeskip.bench`. Raises EdgeSkipError if nothing was measured."""
    result = edgeskip.bench(targets, **{"num_prompts": 0, "quality": False, **options})
    if result.error is not None:
        raise result.error
    if result.interrupted:
        raise KeyboardInterrupt
    if not result.run.samples:
        raise EdgeSkipError(result.run.failures[0].message if result.run.failures else "nothing was measured")
    return result


def prefill_and_decode(
    targets: Mapping[str, Path], *, prompt: int, new: int, rounds: int, threads: int
) -> tuple[dict[str, list[float]], dict[str, list[float]], list[float | None]]:
    """Tokens/s by target and round, of a prompt and of decoding behind it; cores that other processes kept busy."""
    options = {"rounds": rounds, "threads": threads}
    runs = [
        bench(targets, prompt_tokens=prompt, new_tokens=0, **options),
        bench(targets, prompt_tokens=0, new_tokens=new, depths=prompt, **options),
    ]
    speeds = [{row.cell.target: list(row.values) for row in run.rows if row.unit == "tokens/s"} for run in runs]
    return speeds[0], speeds[1], [sample.conditions.others_cores for run in runs for sample in run.run.samples]

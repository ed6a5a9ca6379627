"""`edgeskip bench` as the scripts use it: fresh processes in turns, here, every failure an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgeskip.bench.benchmark import BenchResult, run_benchmark
from edgeskip.bench.config import BenchArgs, BenchConfig
from edgeskip.core.errors import EdgeSkipError
from harness.processes import tell


def bench(
    targets: Mapping[str, Path],
    *,
    prompt: int,
    new: int,
    depths: Sequence[int],
    rounds: int,
    threads: int,
    provider: str = "cpu",
    strategy: str = "plain",
    num_prompts: int = 0,
    quality: Path | None = None,
) -> BenchResult:
    """Measure targets by name; synthetic tests only unless `num_prompts`, losses on the text `quality`.

    EdgeSkipError if nothing was measured.
    """
    config = BenchConfig.from_args(
        BenchArgs(
            targets=[f"{name}={path}" for name, path in targets.items()],
            prompt_tokens=str(prompt), new_tokens=str(new), depths=",".join(map(str, depths)), threads=str(threads),
            provider=provider, strategy=strategy, prompts=None, num_prompts=num_prompts, max_tokens=new, rounds=rounds,
            baselines=(), allow_fallback=False, pythons=(), seed=0,
        )
    )  # fmt: skip
    result = run_benchmark(config, quality=quality, note=tell)
    if result.error is not None:
        raise result.error
    if result.interrupted:
        raise KeyboardInterrupt
    if not result.run.samples:
        raise EdgeSkipError(result.run.failures[0].message if result.run.failures else "nothing was measured")
    return result


def speeds_of(result: BenchResult) -> dict[tuple[str, str], list[float]]:
    """Tokens/s by round, of each target and test: `pp512`, `tg128 @ d512`."""
    return {
        (row.cell.target, row.measure): list(row.values) for row in result.rows if row.measure.startswith(("pp", "tg"))
    }

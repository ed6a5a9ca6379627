"""`edgeskip.bench` as the scripts use it: synthetic tests only unless asked for more, every failure an error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import edgeskip
from edgeskip.bench.benchmark import BenchResult
from edgeskip.core.errors import EdgeSkipError


def bench(targets: Mapping[str, Path], **options: Any) -> BenchResult:
    """Measure targets by name, with `options` of `edgeskip.bench`. EdgeSkipError if nothing was measured."""
    result = edgeskip.bench(targets, **{"num_prompts": 0, "quality": False, **options})
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

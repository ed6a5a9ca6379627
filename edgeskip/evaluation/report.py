"""How an evaluation is shown: a table for people, plain data for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from edgeskip.core.version import __version__
from edgeskip.evaluation.humaneval import HUMANEVAL
from edgeskip.evaluation.sandbox import layers_here
from edgeskip.evaluation.summary import Interval, Summary
from edgeskip.evaluation.task import EvalSettings


def table(summaries: Sequence[Summary]) -> Table:
    """Return a row per task, metric and artifact; intervals are 95 % bootstrap ones."""
    compared = any(summary.difference for summary in summaries)
    result = Table(pad_edge=False)
    for title in ("task", "metric", "artifact", "label"):
        result.add_column(title)
    columns = ["mean", "95 % interval", "n"] + (["less the first", "95 % interval"] if compared else [])
    for title in columns:
        result.add_column(title, justify="right", no_wrap=True)
    for summary in summaries:
        cells = [figure(summary.value), _interval(summary.interval), str(summary.samples)]
        if compared:
            less = summary.difference
            cells += [f"{less.value:+.4g}", _interval(less.interval, sign="+")] if less else ["", ""]
        result.add_row(summary.task, summary.title, summary.artifact, summary.label, *cells)
    return result


def as_json(summaries: Sequence[Summary], settings: EvalSettings) -> dict[str, Any]:
    """Return the summaries and how they were made."""
    return {
        "format": "edgeskip-eval-summary-1",
        "version": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "sandbox": sandbox_layers(summaries),
        "settings": asdict(settings) | {"reference": settings.reference and str(settings.reference)},
        "summaries": [asdict(summary) for summary in summaries],
    }


def sandbox_layers(summaries: Sequence[Summary]) -> list[str]:
    """Return what confined the programs that the model wrote; [] if none were run."""
    return list(layers_here()) if any(summary.task == HUMANEVAL.name for summary in summaries) else []


def figure(value: float) -> str:
    """Four digits: what few samples are worth."""
    return f"{value:.4g}"


def _interval(interval: Interval | None, sign: str = "") -> str:
    return "–" if interval is None else f"{interval[0]:{sign}.4g} … {interval[1]:{sign}.4g}"

"""The table and the JSON of `gguf_plans.py`: files, their ratios to the first one and what was predicted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness.driver import Run
from harness.figures import Figures, Spread, Target, figures_of, ratios_of
from harness.report import cell, doubts, targets_table
from harness.work_left import Prediction

BOUND = 1.05  # most that a time per token may exceed what the remaining work predicts


@dataclass(frozen=True)
class Entry:
    """One line of the table. `baseline` names the entry that it is compared with: None = not compared."""

    name: str
    label: str
    run: Callable[[], Run]
    baseline: str | None = None
    prediction: Prediction | None = None


@dataclass(frozen=True)
class Row:
    """Figures of an entry; `prefill` and `decode` are its seconds over the baseline's, paired by round."""

    name: str
    label: str
    figures: Figures
    prefill: Spread | None = None
    decode: Spread | None = None
    prediction: Prediction | None = None


def rows_of(entries: Sequence[Entry], runs: Mapping[str, Sequence[Run]], prompt_tokens: int) -> list[Row]:
    rows = []
    for entry in entries:
        own = runs[entry.name]
        ratios = ratios_of(runs[entry.baseline], own) if entry.baseline else None
        rows.append(
            Row(
                entry.name,
                entry.label,
                figures_of(own, prompt_tokens),
                ratios.prefill if ratios else None,
                ratios.decode if ratios else None,
                entry.prediction,
            )
        )
    return rows


def targets_of(rows: Sequence[Row]) -> list[Target]:
    """The bound on the time per token of each file that is compared."""
    return [
        Target(
            f"time per token of {row.name} over its prediction", BOUND, over(row.decode, row.prediction.decode), False
        )
        for row in rows
        if row.decode and row.prediction
    ]


def over(measured: Spread, predicted: float) -> Spread:
    """Measured / predicted."""
    return Spread(measured.median / predicted, measured.low / predicted, measured.high / predicted)


def as_json(
    rows: Sequence[Row], targets: Sequence[Target], runs: Mapping[str, Sequence[Run]], setting: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything: the setting, each row with its single runs, and the targets."""
    return {
        "setting": dict(setting),
        "rows": [{**asdict(row), "runs": [asdict(run) for run in runs[row.name]]} for row in rows],
        "targets": [{**asdict(target), "met": target.met} for target in targets],
    }


def as_markdown(rows: Sequence[Row], targets: Sequence[Target], setting: Mapping[str, Any]) -> str:
    """The table for people, then the targets."""
    prompt, new, machine = setting["prompt_tokens"], setting["new_tokens"], setting["machine"]
    lines = [
        f"prompt {prompt}, {new} new tokens, {setting['threads']} threads, medians of {setting['rounds']} interleaved "
        f"rounds [least – greatest]; {machine['processor']}, {machine['usable_cores']} cores; time ÷ = seconds over "
        "the first file's",
        "",
        f"| | pp{prompt} tok/s | tg{new} tok/s | prefill time ÷ | predicted | measured/predicted | time per token ÷ "
        "| predicted | measured/predicted |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            f"{row.name} ({row.label})" if row.label not in ("", "dense") else row.name,
            cell(row.figures.prefill_tokens_per_s, 0),
            cell(row.figures.decode_tokens_per_s, 1),
            *_compared(row.prefill, row.prediction.prefill_flops_ratio if row.prediction else None),
            *_compared(row.decode, row.prediction.decode if row.prediction else None),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if targets:
        lines += ["", *targets_table(targets)]
    return "\n".join(lines + doubts(row.figures.others_cores for row in rows))


def _compared(measured: Spread | None, predicted: float | None) -> tuple[str, str, str]:
    if measured is None or predicted is None:
        return "", "", ""
    return cell(measured, 3), f"{predicted:.3f}", f"{measured.median / predicted:.3f}"

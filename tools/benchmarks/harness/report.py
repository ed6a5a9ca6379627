"""The benchmark's results as one JSON object and as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness.driver import Contestant, Run
from harness.figures import Figures, Ratios, Spread, Target, agreement, figures_of, ratios_of
from harness.work_left import Prediction

BUSY_CORES = 0.1  # more than this taken by other things makes figures doubtful


@dataclass(frozen=True)
class Row:
    """One contestant: its figures, and its ratios to our dense artifact of the same precision (ours : it)."""

    contestant: Contestant
    label: str | None  # of our artifacts: dense, lossy-skip
    figures: Figures
    ratios: Ratios | None
    same_tokens: int | None  # greedy tokens equal to ours before the first difference; fp32 peers only
    prediction: Prediction | None  # of a skip plan


def rows_of(
    contestants: Sequence[Contestant],
    runs: Mapping[str, Sequence[Run]],
    labels: Mapping[str, str],
    predictions: Mapping[str, Prediction],
    prompt_tokens: int,
) -> list[Row]:
    """A row per contestant. `labels` and `predictions` are of our artifacts, by contestant name."""
    rows = []
    for contestant in contestants:
        own = runs[contestant.name]
        dense = dense_of(contestant.precision, contestants, labels)
        compared = dense is not None and dense.name != contestant.name
        equal_wanted = compared and contestant.role == "peer" and contestant.precision == "fp32"
        rows.append(
            Row(
                contestant,
                labels.get(contestant.name),
                figures_of(own, prompt_tokens),
                ratios_of(runs[dense.name], own) if dense and compared else None,
                agreement(runs[dense.name][0].tokens, own[0].tokens) if dense and equal_wanted else None,
                predictions.get(contestant.name),
            )
        )
    return rows


def dense_of(precision: str, contestants: Sequence[Contestant], labels: Mapping[str, str]) -> Contestant | None:
    """Our dense artifact of this precision: what everything of the precision is compared with."""
    return next((c for c in contestants if c.precision == precision and labels.get(c.name) == "dense"), None)


def targets_of(rows: Sequence[Row]) -> list[Target]:
    """The project's bounds, against each contestant that one speaks of."""
    targets = []
    for row in rows:
        name, ratios = row.contestant.name, row.ratios
        if ratios and "genai" in row.contestant.worker:
            targets.append(Target(f"decode against {name}", 1.3, ratios.decode))
            targets.append(Target(f"prefill against {name}", 2.0, ratios.prefill))
        if ratios and "optimum" in row.contestant.worker:
            targets.append(Target(f"decode against {name}", 2.0, ratios.decode))
        if ratios and row.prediction:
            # "dense : plan" in speed is the plan's time over dense's, which is what is predicted.
            factor = 1 / row.prediction.decode
            time = Spread(*(value * factor for value in (ratios.decode.median, ratios.decode.low, ratios.decode.high)))
            targets.append(Target(f"time per token of {name} over its prediction", 1.05, time, at_least=False))
        if row.figures.python_share:
            targets.append(
                Target(f"Python's share of decode in {name}", 0.05, row.figures.python_share, at_least=False)
            )
    return targets


def as_json(
    rows: Sequence[Row],
    targets: Sequence[Target],
    runs: Mapping[str, Sequence[Run]],
    loaded: Mapping[str, Mapping[str, Any]],
    setting: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything: the setting, each contestant's settings, versions, figures and single runs, and the targets."""
    return {
        "setting": dict(setting),
        "contestants": [
            {
                "name": row.contestant.name,
                "precision": row.contestant.precision,
                "label": row.label,
                "folder": str(row.contestant.folder),
                "made_by": row.contestant.note,
                **loaded[row.contestant.name],
                "figures": asdict(row.figures),
                "ours_over_it": asdict(row.ratios) if row.ratios else None,
                "same_greedy_tokens": row.same_tokens,
                "prediction": asdict(row.prediction) if row.prediction else None,
                "runs": [asdict(run) for run in runs[row.contestant.name]],
            }
            for row in rows
        ],
        "targets": [{**asdict(target), "met": target.met} for target in targets],
    }


def as_markdown(rows: Sequence[Row], targets: Sequence[Target], setting: Mapping[str, Any]) -> str:
    """Tables for people: speeds by precision, then the targets."""
    prompt, new = setting["prompt_tokens"], setting["new_tokens"]
    machine = setting["machine"]
    lines = [
        f"{setting['model']}, prompt {prompt}, {new} new tokens, {setting['threads']} threads, medians of "
        f"{setting['rounds']} interleaved rounds [least – greatest]; {machine['processor']}, "
        f"{machine['usable_cores']} cores",
        "",
    ]
    for precision in dict.fromkeys(row.contestant.precision for row in rows):
        lines += [
            f"| {precision} | pp{prompt} tok/s | tg{new} tok/s | ours : it, prefill | ours : it, decode | peak RSS "
            "| same tokens |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in (row for row in rows if row.contestant.precision == precision):
            label = " (lossy-skip)" if row.label == "lossy-skip" else ""
            figures, ratios = row.figures, row.ratios
            cells = [
                f"{row.contestant.name}{label}",
                cell(figures.prefill_tokens_per_s, 0),
                cell(figures.decode_tokens_per_s, 1),
                cell(ratios.prefill, 2) if ratios else "",
                cell(ratios.decode, 2) if ratios else "",
                f"{figures.peak_rss_bytes / 2**20:.0f} MiB",
                "" if row.same_tokens is None else f"{row.same_tokens} of {new}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    lines += targets_table(targets)
    lines += doubts(row.figures.others_cores for row in rows)
    return "\n".join(lines)


def targets_table(targets: Sequence[Target]) -> list[str]:
    """Lines of a Markdown table: each bound, what was measured against it and whether it is met."""
    lines = ["| target | bound | measured | met |", "|---|---|---|---|"]
    for target in targets:
        bound = f"{'≥' if target.at_least else '≤'} {target.bound:g}"
        lines.append(f"| {target.what} | {bound} | {cell(target.measured, 3)} | {'yes' if target.met else 'NO'} |")
    return lines


def doubts(others_cores: Iterable[float | None]) -> list[str]:
    """A line that says so where the machine was busy with other things; else none."""
    others = [one for one in others_cores if one is not None]
    if not others or max(others) <= BUSY_CORES:
        return []
    return ["", f"Doubtful: other processes kept {max(others):.2f} cores busy meanwhile. Run on a quiet machine."]


def cell(spread: Spread, digits: int) -> str:
    """`median [least – greatest]`."""
    return f"{spread.median:.{digits}f} [{spread.low:.{digits}f} – {spread.high:.{digits}f}]"
